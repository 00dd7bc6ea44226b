"""The rewards of self-critical training, one file each."""
