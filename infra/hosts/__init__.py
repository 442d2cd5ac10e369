"""Hosts of a cluster as network namespaces of this machine: training over them, and what networks do to it."""
