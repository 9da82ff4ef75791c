"""A run before it starts: work items, what is kept, segments, bytes, consent and provenance."""
