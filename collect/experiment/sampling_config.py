"""The configuration of the sampling experiments: the source's own file loads unchanged, with more beside it."""

from typing import Any, Literal

from pydantic import BaseModel, Field, field_validator, model_validator

from ...lake.errors import ConfigError
from ...lake.values import Json
from ..models.sites.site_names import check_site
from .config import SECTION, ExperimentConfig

WITHOUT_EFFECT = {
    "output_dir": "results are rows of the lake (--lake).",
    "data_path": "problems come from `dataset`, or from `dataset_path` where they lie on this machine.",
    "task_name": "problems come from `dataset`.",
    "seeds": "one `seed` is the experiment's.",
    "temperatures": "the temperatures are those of variance_exp.",
    "sensitivity_exp.lookahead_tokens": "the second token is known from the stored answer.",
    "generation.do_sample": "each step says whether it samples.",
    "generation.temperature": "each step says its own temperature.",
    "model.trust_remote_code": "code of a model repository is never run because a file says so.",
    "model.load_in_8bit": "models are loaded in the number format of model.dtype.",
    "model.load_in_4bit": "models are loaded in the number format of model.dtype.",
    "steering.source_layer": "a direction is added where it was found (steering.target_layer).",
}
"""Keys of the source's files that change nothing here, and why."""


def layer_of(layer: int, n_layers: int) -> int:
    """A layer by its number from 0; ConfigError if the model has no such layer."""
    if not -n_layers <= layer < n_layers:
        raise ConfigError(f"There is no layer {layer}: the model has {n_layers}, 0 to {n_layers - 1} (-1 is the last).")
    return layer % n_layers


class VarianceSection(BaseModel):
    """Step 2: how far samples spread."""

    model_config = SECTION

    enabled: bool = Field(True, description="Whether `all` takes the step.")
    temperatures: tuple[float, ...] = Field((0.0, 1.0), min_length=1, description="Temperatures; 0 is greedy.")
    token_checkpoints: tuple[int, ...] = Field((), description="Only answer tokens before each of these; none: all.")
    max_new_tokens: int = Field(128, ge=1, description="Most tokens of a sampled answer.")
    within: str | None = Field(None, description="Split the variance by this column, such as solution_method.")
    short: Literal["exclude", "include"] = Field("exclude", description="Answers that end before a checkpoint.")


class ManifoldSection(BaseModel):
    """Steps 3 and 4: distance to an oracle, free and forced to begin with it."""

    model_config = SECTION

    enabled: bool = Field(True, description="Whether `all` takes the steps.")
    oracle_percentage: tuple[float, ...] = Field((0.3,), min_length=1, description="Shares of the oracle to force.")

    @field_validator("oracle_percentage", mode="before")
    @classmethod
    def _one_is_a_list(cls, value: Any) -> Any:
        return (value,) if isinstance(value, int | float) else value

    @field_validator("oracle_percentage")
    @classmethod
    def _shares(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if wrong := [share for share in value if not 0 < share < 1]:
            raise ValueError(f"a share of the oracle lies between 0 and 1, not {wrong[0]:g}")
        return value


class SensitivitySection(BaseModel):
    """Step 5: one other token, step by step."""

    model_config = SECTION

    enabled: bool = Field(True, description="Whether `all` takes the step.")
    bifurcation_step_interval: int = Field(32, ge=1, description="A branch every so many answer tokens.")
    max_new_tokens: int = Field(64, ge=2, description="Tokens of the window, the forced one included.")


class AttributionSection(BaseModel):
    """Step 6: which parts of the model prefer one token."""

    model_config = SECTION

    enabled: bool = Field(True, description="Whether `all` takes the step.")
    top_n_points: int = Field(200, ge=1, description="The most sensitive points of step 5.")
    by: Literal["layer", "head"] = Field("layer", description="head splits every block's attention.")


class ClusteringSection(BaseModel):
    """Step 7: kinds of right solutions, and a judge's word on them."""

    model_config = SECTION

    enabled: bool = Field(True, description="Whether `all` takes the step.")
    n_clusters: int | None = Field(3, ge=1, description="Clusters per problem; null: the best silhouette.")
    temperature: float = Field(0.8, gt=0, description="Temperature of the solutions.")
    max_new_tokens: int = Field(128, ge=1, description="Most tokens of a solution.")
    judge_enabled: bool = Field(False, description="Whether a judge is asked.")
    judge: Literal["service", "local", "known"] = Field("service", description="As of `lake analyze judge --judge`.")
    judge_model: str | None = Field(None, description="Model that is asked, as the service names it.")
    orders: int = Field(2, description="Orders in which a pair is shown: 1 or 2.")


class ServiceSection(BaseModel):
    """The service that judges and writes oracle solutions, and what it may cost."""

    model_config = SECTION

    base_url: str | None = Field(None, description="Any OpenAI-compatible address; OpenRouter if not given.")
    key_env: str = Field("OPENROUTER_API_KEY", description="Environment variable that holds the key.")
    max_calls: int = Field(200, ge=1, description="Most requests of one step, retries included.")
    max_usd: float | None = Field(1.0, gt=0, description="Most USD of one step; null trusts max_calls alone.")
    usd_per_million: tuple[float, float] | None = Field(None, description="Price of tokens read and written.")
    concurrency: int = Field(4, ge=1, description="Requests at once.")


class SteeringSection(BaseModel):
    """Step 8: answers with a direction added, always beside a random direction of equal length."""

    model_config = SECTION

    enabled: bool = Field(False, description="Whether `all` takes the step.")
    method: Literal["pca", "mean_diff", "stored"] = Field(
        "pca", description="Singular vectors of sampled minus greedy states, difference of two groups, or `directions`."
    )
    n_directions: int = Field(1, ge=1, description="How many singular vectors.")
    by: str = Field("correct", description="The groups of mean_diff: a truth column, or COLUMN=VALUE.")
    at: Literal["answer", "mean"] = Field(
        "mean", description="Whose states differ: the last token of answers, or their means."
    )
    directions: tuple[str, ...] = Field((), description="Ids of stored directions, or .npy and .safetensors files.")
    target_layer: int | None = Field(
        None, description="Where directions are found and added; if not given that of all."
    )
    strength: tuple[float, ...] = Field((1.0,), min_length=1, description="Multiples of the direction's own length.")
    random_directions: int = Field(1, ge=1, description="Random directions of equal length beside each.")
    temperature: float = Field(1.0, gt=0, description="Temperature of the answers.")
    max_new_tokens: int = Field(128, ge=1, description="Most tokens of an answer.")
    ks: tuple[int, ...] = Field((1, 10), min_length=1, description="pass@k of these k.")

    @field_validator("strength", "directions", "ks", mode="before")
    @classmethod
    def _one_is_a_list(cls, value: Any) -> Any:
        return (value,) if isinstance(value, int | float | str) else value

    @model_validator(mode="after")
    def _fits_together(self) -> "SteeringSection":
        if self.directions and self.method != "stored":
            raise ValueError("directions are named: say method stored")
        if self.method == "stored" and not self.directions:
            raise ValueError("method stored needs directions: ids of stored ones, or files")
        if 0.0 in self.strength:
            raise ValueError("strength 0 changes nothing; the unsteered answers are there anyway")
        return self


class SamplingConfig(ExperimentConfig):
    """The geometry of sampling, steps 2 to 8."""

    n_samples_per_problem: int = Field(10, ge=1, description="Samples of a problem at temperatures above 0.")
    site: str = Field("resid_post", description="Site of the states.")
    variance_layers: tuple[int, ...] = Field((), description="Layers of step 2; target_layer alone if none is given.")
    target_layer: int = Field(-1, description="The layer of all other steps, -1 the last.")
    latent_sampling_stride: int | None = Field(None, ge=1, description="Pool every so many answer tokens.")
    latent_pooling_window: int | None = Field(None, ge=1, description="Of these only the last so many.")
    oracle: Literal["dataset", "file", "api"] = Field("dataset", description="Where oracle solutions come from.")
    oracle_file: str | None = Field(None, description="JSONL of `id` and `given` (oracle: file).")
    oracle_key: str | None = Field(None, description="Which of several solutions of the dataset, such as split.")
    oracle_model: str | None = Field(None, description="Model that writes the solutions (oracle: api).")
    variance_exp: VarianceSection = VarianceSection(**{})
    manifold_exp: ManifoldSection = ManifoldSection(**{})
    sensitivity_exp: SensitivitySection = SensitivitySection(**{})
    attribution_exp: AttributionSection = AttributionSection(**{})
    clustering: ClusteringSection = ClusteringSection(**{})
    steering: SteeringSection = SteeringSection(**{})
    service: ServiceSection = ServiceSection(**{})

    @field_validator("site")
    @classmethod
    def _known_site(cls, value: str) -> str:
        check_site(value)
        return value

    @model_validator(mode="after")
    def _oracles(self) -> "SamplingConfig":
        if (self.oracle == "file") != (self.oracle_file is not None):
            raise ValueError("oracle: file and oracle_file belong together")
        if self.oracle == "api" and self.oracle_model is None:
            raise ValueError("oracle: api needs oracle_model, the model that writes the solutions")
        return self

    def shared(self, n_layers: int) -> Json:
        """The settings that all runs share, whatever each of them adds; costs, speeds and names are none of them."""
        kept = {"site", "chat", "grader", "seed", "prompt_template"}
        found = self.model_dump(mode="json", include=kept) | {"filters": self.sampling_settings()}
        return found | {"layers": self.layers(n_layers), "attn_implementation": self.model.attn_implementation}

    def layers(self, n_layers: int) -> list[int]:
        """All layers whose states the steps look at; ConfigError if the model lacks one."""
        of_steering = [] if self.steering.target_layer is None else [self.steering.target_layer]
        wanted = [*self.variance_layers, self.target_layer, *of_steering]
        return sorted({layer_of(one, n_layers) for one in wanted})

    def trial(self) -> "SamplingConfig":
        """The source's small trial: one problem, one sample, ten tokens, no judge."""
        few = {"max_new_tokens": 10}
        return self.model_copy(
            update={
                "dataset_limit": 1, "n_samples_per_problem": 1, "latent_sampling_stride": 1,
                "generation": self.generation.model_copy(update=few),
                "variance_exp": self.variance_exp.model_copy(update={**few, "token_checkpoints": (2, 4)}),
                "sensitivity_exp": self.sensitivity_exp.model_copy(
                    update={"max_new_tokens": 4, "bifurcation_step_interval": 2}
                ),
                "clustering": self.clustering.model_copy(update={**few, "judge_enabled": False}),
                "steering": self.steering.model_copy(
                    update={**few, "strength": self.steering.strength[:1], "ks": (1,)}
                ),
            }
        )  # fmt: skip
