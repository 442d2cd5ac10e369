"""A user tower whose tables are too large for one worker: the rows lie with several shards, which hand them over."""
