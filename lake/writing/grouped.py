"""Numbers by group, vectorised: sums, means, medians, slopes, and lists as Arrow columns."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa


@dataclass(frozen=True)
class Groups:
    """To which of `n` groups each value belongs. Lists need values sorted by group; nothing else does."""

    index: np.ndarray
    n: int

    @classmethod
    def of_values(cls, groups: np.ndarray, values: np.ndarray) -> "Groups":
        """Values by where they are in the sorted array `groups`, which holds each of them."""
        return cls(np.searchsorted(groups, values), len(groups))

    def __len__(self) -> int:
        return self.n

    @property
    def sizes(self) -> np.ndarray:
        """Values in each group."""
        return np.bincount(self.index, minlength=self.n)

    def only(self, where: np.ndarray) -> "Groups":
        """The same groups of these values alone."""
        return Groups(self.index[where], self.n)

    def sums(self, values: np.ndarray) -> np.ndarray:
        """Sum of each group in the order of its values, 0 where it has none."""
        return np.bincount(self.index, values.astype(np.float64), minlength=self.n)

    def means(self, values: np.ndarray) -> np.ndarray:
        """Mean of each group; NaN where it has none."""
        return _over(self.sums(values), self.sizes)

    def medians(self, values: np.ndarray) -> np.ndarray:
        """Median of each group, halfway between the middle two of an even number; NaN where it has none."""
        sizes = self.sizes
        some = sizes > 0
        first, size = (np.cumsum(sizes) - sizes)[some], sizes[some]
        if len(size) and size.min() == size.max() and bool((np.diff(self.index) >= 0).all()):
            ordered = np.sort(values.reshape(-1, size[0]), axis=1).reshape(-1)
        else:
            ordered = values[np.lexsort((values, self.index))]
        low, high = ordered[first + (size - 1) // 2], ordered[first + size // 2]
        medians = np.full(self.n, np.nan)
        medians[some] = low + (high - low) * 0.5
        return medians

    def lists(
        self, values: np.ndarray, known: np.ndarray | None = None, *, where: np.ndarray | None = None
    ) -> pa.ListArray:
        """One list per group of values sorted by group, null where not `known`.

        A group in which nothing is known has an empty list; with `where`, one in which nothing of that holds.
        """
        groups, mask = self, None
        if known is not None:
            some = (self.only(known if where is None else where).sizes > 0)[self.index]
            groups, values, mask = self.only(some), values[some], ~known[some]
        offsets = np.concatenate(([0], np.cumsum(groups.sizes))).astype(np.int32)
        return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values, mask=mask))


def slope(groups: Groups, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Least-squares slope of y over x in each group; NaN with fewer than two values."""
    products, squares, _ = _spread(groups, x, y)
    return _over(products, squares)


def correlation(groups: Groups, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Pearson correlation in each group; NaN where one does not vary."""
    products, squares_x, squares_y = _spread(groups, x, y)
    return _over(products, np.sqrt(squares_x) * np.sqrt(squares_y))


def _spread(groups: Groups, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, ...]:
    """Sums of products and squares of differences to the means.

    Differences are taken to a value of the group first: what does not vary is then exactly 0.
    """
    some = np.zeros((2, len(groups)))
    some[0, groups.index], some[1, groups.index] = x, y
    x, y = x - some[0, groups.index], y - some[1, groups.index]
    x, y = x - groups.means(x)[groups.index], y - groups.means(y)[groups.index]
    return groups.sums(x * y), groups.sums(x * x), groups.sums(y * y)


def _over(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return above / below
