"""The four serving modes of Table 2 (section 6.4), replayed in event time and scored on downstream NE."""
