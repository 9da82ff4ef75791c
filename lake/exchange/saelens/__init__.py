"""SAELens: folders of autoencoders, read (pre-6 too) and written, and its activation cache, written."""
