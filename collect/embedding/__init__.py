"""Sentence embeddings of growing texts, while a run is collected or afterwards."""
