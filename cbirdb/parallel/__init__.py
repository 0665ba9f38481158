"""Shares work out: worker processes, their shared memory, a launcher's shards, and the machine's resources."""
