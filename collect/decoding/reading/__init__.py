"""How a model must be read to compute what it computes alone: the ways, the trial, the same tokens once more."""
