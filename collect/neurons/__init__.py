"""Chosen neurons one by one: what later heads carry of them, what they write, the words for it."""
