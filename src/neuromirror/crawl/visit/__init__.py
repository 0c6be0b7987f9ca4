"""One visit of one dataset: read, validate and publish its new state."""
