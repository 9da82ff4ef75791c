"""Paths of states: a sequence's vectors step by step, their geometry and their topology."""
