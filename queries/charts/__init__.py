"""Saved queries as pictures: rows, axes, marks, themes, files."""
