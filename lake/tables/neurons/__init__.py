"""Tables about single neurons and parts of the model: effects, words, ablations."""
