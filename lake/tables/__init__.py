"""The tables of a lake, as data, one file per subject; `lake/schema.py` lists them. Nothing else may be here."""
