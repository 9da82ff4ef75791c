"""A run: planned, cut into segments, collected, written to the lake, resumed. Only here models and the lake meet."""
