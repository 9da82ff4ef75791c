"""How tokens are to be chosen, as settings; importing this loads no model library."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers.generation.logits_process import LogitsProcessorList


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen. `temperature` 0 is greedy; None switches a filter off."""

    temperature: float = 0.0
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    model_settings: bool = False
    """Whether the settings of the model's generation_config are applied too, see `generation_settings`."""

    @property
    def greedy(self) -> bool:
        return self.temperature == 0.0

    def processors(self) -> "LogitsProcessorList":
        """The library's own processors, in the order in which `generate` applies them."""
        from transformers.generation.logits_process import (
            LogitsProcessorList,
            MinPLogitsWarper,
            RepetitionPenaltyLogitsProcessor,
            TemperatureLogitsWarper,
            TopKLogitsWarper,
            TopPLogitsWarper,
        )

        chain = LogitsProcessorList()
        if self.repetition_penalty is not None and self.repetition_penalty != 1.0:
            chain.append(RepetitionPenaltyLogitsProcessor(self.repetition_penalty))
        if self.greedy:
            return chain
        if self.temperature != 1.0:
            chain.append(TemperatureLogitsWarper(self.temperature))
        if self.top_k is not None:
            chain.append(TopKLogitsWarper(self.top_k))
        if self.top_p is not None and self.top_p < 1.0:
            chain.append(TopPLogitsWarper(self.top_p))
        if self.min_p is not None:
            chain.append(MinPLogitsWarper(self.min_p))
        return chain
