"""Where the tables go: the sharding plan, what it costs, the smallest cluster that holds it, and its document."""
