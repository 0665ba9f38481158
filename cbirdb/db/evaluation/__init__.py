"""Read and store an evaluation: its run, the images that it takes, and their neighbours."""
