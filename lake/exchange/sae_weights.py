"""A sparse autoencoder as arrays, in SAELens's names: what every format is read into, and what is written.

W_enc [d_in, d_sae], W_dec [d_sae, d_out], b_dec [d_out]; b_enc, threshold, or b_gate, b_mag, r_mag [d_sae]; W_skip
[d_out, d_in]. Everything is in the model's own units.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from ..errors import ConfigError

Activation = Literal["relu", "topk", "jumprelu", "gated"]
BIASES: dict[str, tuple[str, ...]] = {
    "relu": ("b_enc",),
    "topk": ("b_enc",),
    "jumprelu": ("b_enc", "threshold"),
    "gated": ("b_gate", "b_mag", "r_mag"),
}
PER_TOKEN = ("constant_norm_rescale", "layer_norm")
"""What SAELens does to each vector at run time, and undoes behind the decoder: no weights can hold it."""
LAYER_NORM_EPS = 1e-5
_INSIDE = {"attn.hook_z": "z", "mlp.hook_post": "mlp_post", "attn.hook_v": "v", "attn.hook_rot_q": "rot_q",
           "attn.hook_rot_k": "rot_k"}  # fmt: skip
_SITES = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out")


@dataclass(frozen=True)
class SaeWeights:
    """One autoencoder or transcoder: its arrays, its activation, and where it reads and writes."""

    name: str
    source: str
    activation: Activation
    weights: Mapping[str, np.ndarray]
    centred: bool
    """Whether b_dec is subtracted from the input."""
    k: int | None = None
    norm: str = "none"
    """What is done to each vector first: `none`, `scale` (by a number that only data tell), or one of PER_TOKEN."""
    metadata: Mapping[str, object] = field(default_factory=dict)
    """What SAELens calls so: model_name, hook_name, hook_name_out and what else was written beside the weights."""

    @property
    def d_in(self) -> int:
        """Width of what it reads."""
        return self.weights["W_enc"].shape[0]

    @property
    def d_sae(self) -> int:
        """Number of features."""
        return self.weights["W_enc"].shape[1]

    @property
    def d_out(self) -> int:
        """Width of what it writes."""
        return self.weights["W_dec"].shape[1]

    @property
    def transcodes(self) -> bool:
        """Whether it writes to another site than it reads."""
        return bool(self.metadata.get("hook_name_out"))

    def encode(self, x: np.ndarray) -> np.ndarray:
        """Activations [rows, d_sae] of vectors, dense."""
        w = self.weights
        shift, read, _ = self._per_token(x)
        x = (x - shift) / read
        product = (x - w["b_dec"] if self.centred else x) @ w["W_enc"]
        if self.activation == "gated":
            magnitude = np.maximum(product * np.exp(w["r_mag"]) + w["b_mag"], 0)
            return np.where(product + w["b_gate"] > 0, magnitude, 0)
        pre = product + w["b_enc"]
        if self.activation == "jumprelu":
            return np.where((pre > w["threshold"]) & (pre > 0), pre, 0)
        if self.activation == "topk":
            k = min(int(self.k or 0), pre.shape[1])
            least = np.partition(pre, -k, axis=1)[:, -k, None]
            return np.where(pre >= least, np.maximum(pre, 0), 0)
        return np.maximum(pre, 0)

    def decode(self, activations: np.ndarray, x: np.ndarray) -> np.ndarray:
        """What activations reconstruct, with the linear path of x where there is one."""
        w = self.weights
        reconstruction = activations @ w["W_dec"] + w["b_dec"]
        shift, _, written = self._per_token(x)
        return reconstruction + x @ w["W_skip"].T if "W_skip" in w else reconstruction * written + shift

    def _per_token(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of each vector [rows, 1]: what is subtracted, what it is divided by, and what its reconstruction is times."""
        ones = np.ones((len(x), 1), x.dtype)
        if self.norm == "constant_norm_rescale":
            length = np.linalg.norm(x, axis=1, keepdims=True) / self.d_in**0.5
            length = np.maximum(length, np.finfo(x.dtype).tiny).astype(x.dtype)
            return ones * 0, length, length
        if self.norm == "layer_norm":
            spread = x.std(axis=1, keepdims=True, ddof=1)
            return x.mean(axis=1, keepdims=True), spread + x.dtype.type(LAYER_NORM_EPS), spread
        return ones * 0, ones, ones

    def unwhitened(self, mean: np.ndarray, matrix: np.ndarray, inverse: np.ndarray) -> "SaeWeights":
        """The same for x in place of (x - mean) @ matrix, and what it writes as x is: activations stay as they are."""
        w = {name: array.astype(np.float64) for name, array in self.weights.items()}
        encoder = matrix.astype(np.float64) @ w["W_enc"]
        moved: dict[str, np.ndarray] = {
            "W_enc": encoder,
            "W_dec": w["W_dec"] @ inverse,
            "b_dec": w["b_dec"] @ inverse + mean,
        }
        if not self.centred:
            moved |= {bias: w[bias] - mean @ encoder for bias in ("b_enc", "b_gate") if bias in w}
        weights = {name: np.ascontiguousarray(array, np.float32) for name, array in {**w, **moved}.items()}
        return replace(self, weights=weights, norm="none")

    def scaled(self, scale: float) -> "SaeWeights":
        """The same for vectors that are not multiplied by `scale` any more: activations stay as they are."""
        w = dict(self.weights)
        w |= {"W_enc": w["W_enc"] * scale, "W_dec": w["W_dec"] / scale, "b_dec": w["b_dec"] / scale}
        return replace(self, weights=w, norm="none")

    def with_unit_decoder(self) -> "SaeWeights":
        """The same with decoder rows of length 1: activations are multiplied by the lengths that go."""
        norms = np.linalg.norm(self.weights["W_dec"], axis=1)
        if not (norms > 0).all():
            raise ConfigError(f"{self.name}: {(norms == 0).sum():,} features have a decoder of length 0.")
        w = dict(self.weights)
        w |= {"W_enc": w["W_enc"] * norms, "W_dec": w["W_dec"] / norms[:, None]}
        w |= {bias: w[bias] * norms for bias in ("b_enc", "threshold", "b_mag", "b_gate") if bias in w}
        return replace(self, weights=w)


def checked(sae: SaeWeights) -> SaeWeights:
    """The autoencoder in float32, if its arrays fit each other; ConfigError that names the first that does not."""
    needed = ("W_enc", "W_dec", "b_dec", *BIASES[sae.activation])
    if missing := [name for name in needed if name not in sae.weights]:
        raise ConfigError(
            f"{sae.name} lacks {', '.join(missing)}; its weights are {', '.join(sorted(sae.weights)) or 'none'}."
        )
    w = {name: np.ascontiguousarray(array, np.float32) for name, array in sae.weights.items()}
    if w["W_enc"].ndim != 2 or w["W_dec"].ndim != 2:
        raise ConfigError(f"{sae.name}: W_enc and W_dec must be matrices.")
    (d_in, d_sae), d_out = w["W_enc"].shape, w["W_dec"].shape[1]
    shapes = {"W_dec": (d_sae, d_out), "b_dec": (d_out,), "W_skip": (d_out, d_in)}
    for name, array in w.items():
        shape = shapes.get(name, (d_in, d_sae) if name == "W_enc" else (d_sae,))
        if array.shape != shape:
            raise ConfigError(
                f"{sae.name}: {name} has the shape {array.shape}; beside W_enc {d_in, d_sae} it must be {shape}."
            )
        if not np.isfinite(array).all():
            raise ConfigError(f"{sae.name}: {name} holds NaN or infinity.")
    if sae.centred and d_out != d_in:
        raise ConfigError(f"{sae.name} subtracts b_dec of width {d_out} from vectors of width {d_in}.")
    if not sae.transcodes and d_out != d_in:
        raise ConfigError(f"{sae.name} writes {d_out} elements and reads {d_in}, but names no site that it writes to.")
    if sae.norm in PER_TOKEN and "W_skip" in sae.weights:
        raise ConfigError(f"{sae.name} has a linear path and normalises each token ({sae.norm}): that is not computed.")
    if sae.activation == "topk" and not 0 < int(sae.k or 0) < d_sae:
        raise ConfigError(f"{sae.name}: k is {sae.k}; it must be between 1 and {d_sae - 1}.")
    return replace(sae, weights=w)


def fvu(sae: SaeWeights, x: np.ndarray, y: np.ndarray) -> float:
    """Fraction of variance of `y` unexplained by what is reconstructed from `x`: S|y-y'|^2 / (S|y|^2 - |Sy|^2/n)."""
    error = ((y - sae.decode(sae.encode(x), x)).astype(np.float64) ** 2).sum()
    y = y.astype(np.float64)
    variance = (y**2).sum() - (y.sum(axis=0) ** 2).sum() / len(y)
    return float(error / variance) if variance > 0 else float("inf")


def place_of(hook: str) -> tuple[int, str] | None:
    """Layer and site of a TransformerLens hook; None for one that the lake has no word for."""
    match = re.fullmatch(r"blocks\.(\d+)\.(.+)", hook)
    if match is None:
        return None
    site = _INSIDE.get(match[2]) or match[2].removeprefix("hook_")
    return (int(match[1]), site) if site in (*_SITES, *_INSIDE.values()) else None


def hook_of(layer: int, site: str) -> str:
    """TransformerLens's name of a site."""
    inside = {word: hook for hook, word in _INSIDE.items()}
    return f"blocks.{layer}.{inside.get(site, f'hook_{site}')}"


def first_of(values: Mapping[str, object], names: Sequence[str]) -> Any:
    """The first of these that is there."""
    return next((values[name] for name in names if values.get(name) is not None), None)
