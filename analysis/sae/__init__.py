"""Sparse autoencoders trained, measured and read on stored vectors. The one room of `analysis` that may load torch."""
