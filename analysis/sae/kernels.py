"""Sparse codes: which features of a batch are active and how much, and products that touch nothing else.

Only the encoder's product is dense. Everything here equals the same expression on dense tensors (`Code.dense`).
"""

import warnings
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import embedding_bag

GROUPED_FROM = 4096
"""Width from which the top k are sought through the maxima of groups: below, `topk` itself is faster."""
GROUP = 8
FILTER = 0.9
"""Share of the last batch's threshold above which candidates of a batch's top k are looked for first."""


@dataclass(frozen=True)
class Code:
    """Active features of a batch: those of row i are `features[starts[i]:starts[i + 1]]`, with as many `values`."""

    starts: Int[Tensor, " rows_and_end"]
    features: Int[Tensor, " active"]
    values: Float[Tensor, " active"]
    d_sae: int

    @property
    def n_rows(self) -> int:
        """Rows of the batch."""
        return len(self.starts) - 1

    @cached_property
    def rows(self) -> Int[Tensor, " active"]:
        """The row of each active feature."""
        counts = self.starts.diff()
        return torch.arange(self.n_rows, device=counts.device).repeat_interleave(counts, output_size=len(self.features))

    @cached_property
    def by_feature(self) -> tuple[Tensor, Tensor, Tensor]:
        """Order of the entries by feature, the row of each in that order, and where each feature begins."""
        order = _stable_order(self.features, self.d_sae)
        ends = torch.bincount(self.features, minlength=self.d_sae).cumsum(0)
        return order, self.rows[order], torch.cat([ends.new_zeros(1), ends])

    def dense(self) -> Float[Tensor, "rows d_sae"]:
        """The same as a matrix, zero where a feature is not active."""
        full = self.values.new_zeros(self.n_rows, self.d_sae)
        return full.index_put((self.rows, self.features), self.values, accumulate=True)

    def with_values(self, values: Float[Tensor, " active"]) -> "Code":
        """The same features with other values, what was sorted once kept."""
        other = Code(self.starts, self.features, values, self.d_sae)
        for name in ("rows", "by_feature"):
            if name in self.__dict__:
                other.__dict__[name] = self.__dict__[name]
        return other

    def kept(self, mask: Tensor) -> "Code":
        """Only the entries where `mask` is true."""
        counts = torch.bincount(self.rows[mask], minlength=self.n_rows)
        return Code(_starts(counts), self.features[mask], self.values[mask], self.d_sae)

    def between(self, first: int, end: int) -> "Code":
        """Only the features from `first` up to `end`, numbered from 0."""
        inside = self.kept((self.features >= first) & (self.features < end))
        return Code(inside.starts, inside.features - first, inside.values, end - first)


def _starts(counts: Int[Tensor, " rows"]) -> Int[Tensor, " rows_and_end"]:
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)])


def transposed_product(
    code: Code, values: Float[Tensor, " active"], dense: Float[Tensor, "rows d"]
) -> Float[Tensor, "d_sae d"]:
    """A^T dense, A being the matrix of `values` at the code's places: the shape of every weight's gradient."""
    order, rows, starts = code.by_feature
    sorted_values = values[order]
    if dense.device.type == "mps":  # no CSR there
        spread = sorted_values.unsqueeze(1) * dense[rows]
        return dense.new_zeros(code.d_sae, dense.shape[1]).index_add(0, code.features[order], spread)
    with warnings.catch_warnings():  # "CSR support is in beta", once per process
        warnings.simplefilter("ignore", UserWarning)
        matrix = torch.sparse_csr_tensor(
            starts.int(), rows.int(), sorted_values, (code.d_sae, code.n_rows), check_invariants=False
        )
        return matrix @ dense


class _Decode(torch.autograd.Function):
    """code.values times the rows of W_dec that are active."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, decoder: Tensor, code: Code) -> Tensor:
        ctx.code = code
        ctx.save_for_backward(values, decoder)
        return _bag(code, values, decoder)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        [gradient] = gradients
        values, decoder = ctx.saved_tensors
        to_values = to_decoder = None
        if ctx.needs_input_grad[0]:
            with torch.enable_grad():  # torch's own kernel for the inner products of active rows
                leaf = values.detach().requires_grad_()
                [to_values] = torch.autograd.grad(_bag(ctx.code, leaf, decoder.detach()), leaf, gradient)
        if ctx.needs_input_grad[1]:
            to_decoder = transposed_product(ctx.code, values, gradient)
        return to_values, to_decoder, None


class _Encode(torch.autograd.Function):
    """Entries of (x - b_dec) W_enc + b_enc at the code's places, which the dense product has given already."""

    @staticmethod
    def forward(
        ctx: Any, encoder: Tensor, bias: Tensor, centre: Tensor | None, values: Tensor, x: Tensor, code: Code
    ) -> Tensor:
        ctx.code = code
        ctx.save_for_backward(x, encoder)
        return values.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None, None]:
        [gradient] = gradients
        x, encoder = ctx.saved_tensors
        to_encoder = transposed_product(ctx.code, gradient, x).T
        to_bias = gradient.new_zeros(ctx.code.d_sae).index_add_(0, ctx.code.features, gradient)
        # Every row moves by the same b_dec: the sum over rows is one product with the bias's gradient.
        to_centre = -(encoder @ to_bias) if ctx.needs_input_grad[2] else None
        return to_encoder, to_bias, to_centre, None, None, None


def _bag(code: Code, values: Tensor, decoder: Tensor) -> Tensor:
    return embedding_bag(code.features, decoder, code.starts[:-1], mode="sum", per_sample_weights=values)


def decode(code: Code, decoder: Float[Tensor, "d_sae d"]) -> Float[Tensor, "rows d"]:
    """A W_dec, with gradients to the values and to W_dec."""
    return _Decode.apply(code.values, decoder, code)  # type: ignore[no-any-return]


def encode_at(
    code: Code,
    centred: Float[Tensor, "rows d"],
    encoder: Float[Tensor, "d d_sae"],
    bias: Float[Tensor, " d_sae"],
    centre: Float[Tensor, " d"] | None,
) -> Code:
    """The code with gradients of its values to W_enc, b_enc and b_dec (`centre`, which `centred` has lost already).

    Its values must be those of centred W_enc + b_enc.
    """
    return code.with_values(_Encode.apply(encoder, bias, centre, code.values, centred, code))  # type: ignore[arg-type]


def _stable_order(features: Int[Tensor, " active"], d_sae: int) -> Int[Tensor, " active"]:
    if features.device.type == "cpu" and d_sae <= 2**16:  # numpy sorts numbers of 16 bits by their digits
        return torch.from_numpy(np.argsort(features.numpy().astype(np.uint16), kind="stable"))
    return features.argsort(stable=True)


def top_k(pre: Float[Tensor, "rows d_sae"], k: int) -> Code:
    """The k largest of every row, where they are positive; features in rising order."""
    n_rows, d_sae = pre.shape
    if pre.device.type == "cpu" and k < d_sae and not pre.requires_grad:
        return _top_k_by_bounds(pre, k)
    if d_sae >= GROUPED_FROM and d_sae % GROUP == 0 and k < d_sae // GROUP:
        # The k largest lie in the k groups with the largest maxima; group j holds the features j, j + n_groups, ...
        n_groups = d_sae // GROUP
        best = pre.view(n_rows, GROUP, n_groups).amax(1).topk(k, sorted=False).indices
        steps = torch.arange(0, d_sae, n_groups, device=pre.device)
        candidates = (best.unsqueeze(1) + steps.view(1, -1, 1)).flatten(1)
        values, places = pre.gather(1, candidates).topk(k, sorted=False)
        features = candidates.gather(1, places)
    else:
        values, features = pre.topk(k, sorted=False)
    features, order = features.sort(dim=1)  # an order that does not depend on how they were sought
    return _positive(values.gather(1, order), features, d_sae)


def _top_k_by_bounds(pre: Float[Tensor, "rows d_sae"], k: int) -> Code:
    """The same on a processor: numpy's partition finds a bound for each row several times as fast as `topk` its k.

    Where groups can be made, the bound is the k-th largest of their maxima; few more than k values lie above it.
    """
    n_rows, d_sae = pre.shape
    groups = pre
    if d_sae % GROUP == 0 and k < d_sae // GROUP:
        groups = pre.reshape(n_rows, GROUP, d_sae // GROUP).amax(1)
    bounds = np.maximum(_kth_largest(groups.numpy(), k), np.finfo(groups.numpy().dtype).tiny)
    places = np.flatnonzero(pre.numpy() >= bounds[:, None])
    rows = places // d_sae
    values = pre.numpy().ravel()[places]
    kept = _largest(values, rows, n_rows, k)
    places, rows, values = places[kept], rows[kept], values[kept]
    starts = np.concatenate([[0], np.bincount(rows, minlength=n_rows).cumsum()])
    starts, features, active = (torch.from_numpy(part) for part in (starts, places - rows * d_sae, values))
    code = Code(starts, features, active, d_sae)
    code.__dict__["rows"] = torch.from_numpy(rows)
    return code


def _kth_largest(matrix: np.ndarray, k: int) -> np.ndarray:
    place = matrix.shape[1] - k
    return np.partition(matrix, place, axis=1)[:, place]


def _largest(values: np.ndarray, rows: np.ndarray, n_rows: int, k: int) -> np.ndarray:
    """Which of the values, given row by row, are among the k largest of their row; of equal ones the first."""
    counts = np.bincount(rows, minlength=n_rows)
    most = int(counts.max(initial=0))
    if most <= k:
        return np.ones(len(values), bool)
    padded = np.full((n_rows, most), -np.inf, values.dtype)
    padded[rows, np.arange(len(rows)) - (counts.cumsum() - counts)[rows]] = values
    least = _kth_largest(padded, k)[rows]
    kept = values >= least
    too_many = np.bincount(rows[kept], minlength=n_rows) - k
    for row in np.flatnonzero(too_many > 0):
        equal = np.flatnonzero((rows == row) & (values == least))
        kept[equal[len(equal) - too_many[row] :]] = False
    return kept


def _positive(values: Float[Tensor, "rows k"], features: Int[Tensor, "rows k"], d_sae: int) -> Code:
    active = values > 0
    return Code(_starts(active.sum(1)), features[active], values[active], d_sae)


def batch_top_k(pre: Float[Tensor, "rows d_sae"], k: int, last_threshold: float) -> tuple[Code, float]:
    """The rows x k largest of the whole batch, where they are positive, and the smallest of them.

    Only entries above 0.9 of the last batch's threshold are compared, unless these are too few.
    """
    n_rows, d_sae = pre.shape
    wanted = min(n_rows * k, pre.numel())
    flat = pre.flatten()
    floor = max(FILTER * last_threshold, 0.0)
    places = (flat > floor).nonzero().squeeze(1)
    if len(places) < wanted and floor > 0:
        places = (flat > 0).nonzero().squeeze(1)
    values = flat[places]
    if len(values) > wanted:
        chosen = values.topk(wanted, sorted=False).indices.sort().values
        places, values = places[chosen], values[chosen]
    threshold = float(values.min()) if len(values) else 0.0
    starts = _starts(torch.bincount(places // d_sae, minlength=n_rows))
    return Code(starts, places % d_sae, values, d_sae), threshold


def above(values: Float[Tensor, "rows d_sae"]) -> Code:
    """All positive entries of a matrix of activations."""
    n_rows, d_sae = values.shape
    places = (values > 0).flatten().nonzero().squeeze(1)
    starts = _starts(torch.bincount(places // d_sae, minlength=n_rows))
    return Code(starts, places % d_sae, values.flatten()[places], d_sae)
