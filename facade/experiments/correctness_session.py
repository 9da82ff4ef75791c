"""The correctness experiment at work: its answers, its directions, and how long one batch takes."""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...collect.experiment.correctness_config import CorrectnessConfig
from ...lake.errors import ConfigError
from ...lake.values import Json, JsonView
from .session import Session

if TYPE_CHECKING:
    from ...collect.models.model import LoadedModel

NAME = "correctness"
KEEP = ("tokens", "activations:final_norm")
TEST, TRAIN = "test", "train"


@dataclass
class CorrectnessSession(Session):
    """A session with its configuration and the model's depth."""

    config: CorrectnessConfig = field(default_factory=lambda: CorrectnessConfig.model_validate({}))
    n_layers: int = 0
    measured: dict[int, float] = field(default_factory=dict)
    """Minutes of one batch by the length of its answers."""

    def part(self, name: str) -> tuple[str, Json]:
        """Name and settings of the greedy answers to the problems, or to those that things are fitted on."""
        config = self.config
        more = {
            "keep": KEEP, "temperature": 0.0, "max_new_tokens": config.generation.max_new_tokens,
            "repetition_penalty": config.generation.repetition_penalty,
        }  # fmt: skip
        if name == TRAIN:
            more |= {"dataset": config.train_dataset, "limit": config.train_limit}
        return f"{name}:{config.generation.max_new_tokens}", {**config.collect_settings(), **more}

    def answers(self, name: str) -> str:
        """The run of these answers, collected if it is not there."""
        return self.collect(*self.part(name))

    def batch_minutes(self, settings: JsonView) -> float:
        """Minutes that one batch of answers takes, measured once."""
        length = settings["max_new_tokens"]
        if length not in self.measured:
            self.measured[length] = self.runs.seconds_of_batch(settings) / 60
        return self.measured[length]

    @cached_property
    def outline(self) -> "LoadedModel":
        """The model's form; no weights are loaded."""
        from ...collect.models.loading.outline import outline

        section = self.config.model
        return outline(
            section.model_name_or_path, revision=section.revision, dtype=section.dtype, device=section.device,
            attn_implementation=section.attn_implementation,
        )  # fmt: skip

    @property
    def layer_width(self) -> int:
        """Neurons of a layer."""
        from ...collect.models.site_widths import site_width

        return site_width(self.outline, self.outline.decoder, "mlp_post")

    def neurons_of_a_layer(self) -> int:
        """How many are looked at one by one, at most of those that a file names."""
        from ...collect.neurons.choice import read_neurons

        given = self.config.neurons.neurons
        return int(given) if given.isdigit() else max(map(len, read_neurons(Path(given)).values()), default=0)

    @property
    def at(self) -> str:
        """Position of the effects: where the direction is fitted, a mean at the answer's end."""
        return "prompt" if self.config.directions.at == "prompt" else "answer"

    def direction(self) -> str:
        """The id of the direction of final states that the train problems gave; ConfigError if there is none."""
        import polars as pl

        run = self.answers(TRAIN)
        answer = self.fitted_directions(run)
        rows = self.lake.scan("directions", run).filter(
            pl.col("method") == self.config.second_order.method, pl.col("within").is_null()
        )
        found = [] if answer is None else rows.filter(pl.col("analysis_id") == answer.analysis_id).collect()
        if not len(found):
            raise ConfigError(
                f"{self.config.train_dataset} gave no direction of {self.config.second_order.method}: take more "
                "problems (train_limit), or name another method (second_order.method, directions.methods)."
            )
        return str(found["direction_id"][0])  # type: ignore[index]

    def fitted_directions(self, run: str) -> Any:
        section = self.config.directions
        return self.ask(
            "directions", run, site="final_norm", at=section.at, method=",".join(section.methods), unit=section.unit,
            within=section.within,
        )  # fmt: skip
