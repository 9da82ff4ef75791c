"""One feature or one neuron on one page, as plain values."""
