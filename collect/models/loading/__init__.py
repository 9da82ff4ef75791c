"""From a name or folder to a model: weights loaded and checked, the outline without them, parts alone."""
