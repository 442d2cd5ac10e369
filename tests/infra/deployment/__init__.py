"""The image, the compose file, the Helm chart and the sizes, without an engine or a cluster."""
