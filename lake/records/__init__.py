"""The JSON files of a lake as typed data: run.json, tombstones, and how JSON of others is parsed."""
