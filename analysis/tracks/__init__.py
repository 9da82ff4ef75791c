"""Features followed through the layers: links between dictionaries, tracks, and how tracks diverge."""
