"""The daily loop's facts for Prometheus: read out of registry, lake and alert book, where they are kept anyway."""
