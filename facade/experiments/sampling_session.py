"""What the steps of the sampling experiment share: its runs by what they are, made once whoever asks first."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ...collect.experiment.sampling_config import SamplingConfig, layer_of
from ...lake.errors import ConfigError
from ...lake.values import Json
from .session import Session

GREEDY = "greedy"


@dataclass
class SamplingSession(Session):
    """A session with its configuration, the model's depth, and the stored runs that were named instead of new ones."""

    config: SamplingConfig = field(default_factory=lambda: SamplingConfig(**{}))
    n_layers: int = 0
    n_problems: int = 0
    given_greedy: str | None = None
    given_sampled: Mapping[float, str] = field(default_factory=dict)
    """Stored runs by temperature."""

    @property
    def target(self) -> int:
        """The layer of all steps but the second."""
        return layer_of(self.config.target_layer, self.n_layers)

    @property
    def keep(self) -> tuple[str, ...]:
        """What every run keeps: tokens, and the states of all layers that are looked at."""
        layers = ",".join(map(str, self.config.layers(self.n_layers)))
        return ("tokens", f"activations:{self.config.site}@{layers}:generated")

    def pooling(self) -> Json:
        """The options of pooled states."""
        config = self.config
        return {"site": config.site, "stride": config.latent_sampling_stride, "window": config.latent_pooling_window}

    def settings(self, **more: Any) -> Json:
        """Settings of `lake collect` for one run."""
        return {**self.config.collect_settings(), "keep": self.keep, **more}

    def greedy_part(self, max_new_tokens: int) -> tuple[str, Json]:
        """Name and settings of greedy answers of that length at most."""
        penalty = self.config.generation.repetition_penalty
        more = {"temperature": 0.0, "max_new_tokens": max_new_tokens, "repetition_penalty": penalty}
        return f"{GREEDY}:{max_new_tokens}", self.settings(**more)

    def sampled_part(self, temperature: float, max_new_tokens: int) -> tuple[str, Json]:
        """Name and settings of sampled answers."""
        if temperature == 0:
            return self.greedy_part(max_new_tokens)
        samples = self.config.n_samples_per_problem
        more = {"temperature": temperature, "samples": samples, "max_new_tokens": max_new_tokens}
        part = f"sampled:{temperature:g}:{samples}:{max_new_tokens}"
        return part, self.settings(**more, **self.config.sampling_settings())

    def greedy(self) -> str:
        """The greedy answers that steps 3 to 6 start from: the run that was named, or the experiment's own."""
        if self.given_greedy is not None:
            return self._given(GREEDY, self.given_greedy)
        return self.collect(*self.greedy_part(self.config.generation.max_new_tokens))

    def sampled(self, temperature: float, max_new_tokens: int) -> str:
        """Sampled answers at a temperature: the run that was named if there is one, or the experiment's own."""
        if self.given_sampled:
            given = self.given_sampled.get(temperature)
            if given is None and len(self.given_sampled) > 1:
                at = ", ".join(f"{one:g}" for one in self.given_sampled)
                raise ConfigError(f"None of the runs named with --run was sampled at {temperature:g}, but at {at}.")
            return self._given("sampled", given or next(iter(self.given_sampled.values())))
        return self.collect(*self.sampled_part(temperature, max_new_tokens))

    def _given(self, part: str, run_id: str) -> str:
        self.result.runs[part] = run_id
        return run_id
