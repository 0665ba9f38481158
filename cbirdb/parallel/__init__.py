"""Share work out: worker processes, memory that they share, shards of a launcher, and what this machine has."""
