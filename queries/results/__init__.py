"""Rows of a result as text: values, formats, tables for a terminal."""
