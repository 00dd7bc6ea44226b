"""Work that is done beside the trainer; the only room that imports Ray."""
