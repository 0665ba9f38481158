"""What an evaluation reads and stores: its run, the images that it takes, and their neighbours."""
