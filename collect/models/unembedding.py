"""Final-normed states to logits, by the model's own head."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutput, BaseModelOutputWithPastAndCrossAttentions


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
    """Final-normed states to logits, by the model's own forward (soft caps and scales included).

    The stack in front of it (the base model, or the decoder of two stacks) is replaced for the call by one that returns
    the given states, so nothing of an architecture is written down here a second time.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._two_stacks = bool(model.config.is_encoder_decoder)

    @contextmanager
    def _given(self, states: Tensor) -> Iterator[None]:
        base = self._model.get_decoder() if self._two_stacks else self._model.base_model

        def forward(*args: Any, **kwargs: Any) -> GivenStates:
            return GivenStates(last_hidden_state=states)

        had_own = "forward" in vars(base)
        before = base.forward
        base.forward = forward
        try:
            yield
        finally:
            if had_own:
                base.forward = before
            else:
                del base.forward

    def __call__(self, states: Float[Tensor, "n d_model"]) -> Float[Tensor, "n d_vocab"]:
        """Raw logits of each state."""
        ids = torch.zeros(1, 1, dtype=torch.long, device=states.device)
        inputs: dict[str, Any] = {"input_ids": ids}
        if self._two_stacks:
            encoded = GivenEncoding(last_hidden_state=states[:1].unsqueeze(0))  # type: ignore[arg-type]
            inputs = {"decoder_input_ids": ids, "encoder_outputs": encoded}
        with self._given(states.unsqueeze(0)):
            return self._model(**inputs, use_cache=False).logits[0]
