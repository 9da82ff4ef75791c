"""What perfectly uniform attention would give: the expectation that a measured basin ratio is compared with."""


def uniform_basin(n: int, *, causal: bool) -> float:
    """Basin ratio of perfectly uniform attention over a prompt of `n` tokens.

    Middle keys are [n//3, 2n//3); mean over queries of the weight on them over the mean weight elsewhere. Causal
    queries see the keys up to their own, those of an encoder see all.
    """
    if n < 3:
        return 1.0
    low, high = n // 3, 2 * n // 3
    if causal:
        middle = sum(max(0, min(q + 1, high) - low) / (q + 1) for q in range(n)) / n
    else:
        middle = (high - low) / n
    return middle / (1.0 - middle + 1e-10)
