"""Detectors: how they are fitted on folds, and what a fitted one is. Knows columns and labels."""
