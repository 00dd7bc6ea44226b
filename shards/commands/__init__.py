"""The commands of ``python -m shards``; each imports what it needs when it runs."""
