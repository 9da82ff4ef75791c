"""Experiments: steps that collect runs and ask about them, above the floors that do one or the other."""
