"""Directions in a state that tell right from wrong answers, and what they are worth beside trivial baselines."""
