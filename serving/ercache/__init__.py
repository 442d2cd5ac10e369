"""ERCache, simulated: what a cache in front of the inferences of a user model saves, and what it costs."""
