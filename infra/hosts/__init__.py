"""Hosts of a cluster as network namespaces of this machine: training over several of them, and what networks do to it."""
