"""Final-normed states to logits, by the model's own head."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput, BaseModelOutputWithPastAndCrossAttentions

from ...lake.errors import ConfigError
from ...lake.values import Json


class _StatesOnly:
    """Whatever else an output of this kind may hold (router logits...) is None."""

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)
        return None


class GivenStates(_StatesOnly, BaseModelOutputWithPastAndCrossAttentions):
    """Final-normed states as a base model or a decoder returns them."""


class GivenEncoding(_StatesOnly, BaseModelOutput):
    """States as an encoder returns them."""


class Unembedding:
    """Final-normed states to logits, by the model's own forward (soft caps, scales and projections included).

    `base`, whose states the head reads, is replaced for the call by a module that returns the given states, so nothing
    of an architecture is written down here a second time. A head that reads something else is an error.
    """

    def __init__(self, model: Any, base: nn.Module) -> None:
        self._model = model
        self._base = base
        self._two_stacks = bool(model.config.is_encoder_decoder)

    @contextmanager
    def _given(self, states: Tensor) -> Iterator[list[Tensor]]:
        """The replacement for the length of the block; gives the states each time that they were asked for."""
        base, given = self._base, []

        def forward(*args: Any, **kwargs: Any) -> GivenStates:
            given.append(states)
            return GivenStates(last_hidden_state=states)  # type: ignore[arg-type]

        had_own = "forward" in vars(base)
        before = base.forward
        base.forward = forward
        try:
            yield given
        finally:
            if had_own:
                base.forward = before
            else:
                del base.forward

    def __call__(self, states: Float[Tensor, "n d_model"]) -> Float[Tensor, "n d_vocab"]:
        """Raw logits of each state; ConfigError if the model computes them from anything else."""
        ids = torch.zeros(1, 1, dtype=torch.long, device=states.device)
        inputs: Json = {"input_ids": ids}
        if self._two_stacks:
            encoded = GivenEncoding(last_hidden_state=states[:1].unsqueeze(0))  # type: ignore[arg-type]
            inputs = {"decoder_input_ids": ids, "encoder_outputs": encoded}
        try:
            with self._given(states.unsqueeze(0)) as given:
                logits = self._model(**inputs, use_cache=False).logits
        except (RuntimeError, TypeError, AttributeError, LookupError) as error:
            raise self._refusal() from error
        if not given or logits.shape[:2] != (1, len(states)):
            raise self._refusal()
        return logits[0]

    def _refusal(self) -> ConfigError:
        return ConfigError(
            f"{type(self._model).__name__} cannot be collected: its head does not compute the logits from the final "
            f"states of its {type(self._base).__name__} alone, so that the states would not explain the tokens."
        )
