"""Folds that keep a prompt's samples together, drawn several times; knows arrays."""

import numpy as np
from jaxtyping import Int


def grouped_folds(prompt: Int[np.ndarray, " sequence"], n_folds: int, seed: int) -> Int[np.ndarray, " sequence"]:
    """The fold of each sequence: prompts in an order of the seed, dealt out one by one, so folds hold equally many."""
    ids, index = np.unique(prompt, return_inverse=True)
    fold = np.empty(len(ids), np.int64)
    fold[np.random.default_rng(seed).permutation(len(ids))] = np.arange(len(ids)) % n_folds
    return fold[index]


def repeated_folds(
    prompt: Int[np.ndarray, " sequence"], n_folds: int, n_repeats: int
) -> Int[np.ndarray, "repeat sequence"]:
    """The folds of each repeat, equal for equal prompts."""
    return np.stack([grouped_folds(prompt, n_folds, seed) for seed in range(n_repeats)])
