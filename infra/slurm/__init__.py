"""A Slurm cluster on this machine: a controller and some nodes, on loopback, for trying what runs on real ones."""
