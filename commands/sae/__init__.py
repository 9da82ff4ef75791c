"""The verbs of `lake sae`: train, run, evaluate, list, and exchange autoencoders."""
