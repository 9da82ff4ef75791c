"""What all experiments are told alike: the model, the problems, how answers are generated. Loads no model library."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from ...lake.values import Json
from ..inputs.wording import TEMPLATES

SECTION = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class ModelSection(BaseModel):
    """The model that is looked at."""

    model_config = SECTION

    model_name_or_path: str = Field("tinymath", description="Hugging Face id, local folder, or `tinymath`.")
    revision: str | None = Field(None, description="Revision of the model repository.")
    device: str = Field("auto", description="cpu, cuda, mps or auto.")
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = Field("auto", description="Number format of the model.")
    attn_implementation: str | None = Field(None, description="Attention implementation to compute with.")


class GenerationSection(BaseModel):
    """How answers are generated; each step says its own temperature."""

    model_config = SECTION

    max_new_tokens: int = Field(128, ge=1, description="Most tokens of a greedy answer.")
    top_p: float | None = Field(None, gt=0, le=1, description="Sample from the smallest set of tokens with this mass.")
    top_k: int | None = Field(None, ge=1, description="Sample from this many best tokens.")
    repetition_penalty: float | None = Field(None, gt=0, description="Divide logits of tokens already seen; 1 is off.")


class ExperimentConfig(BaseModel):
    """Every experiment: which model answers which problems."""

    model_config = SECTION

    experiment_name: str = Field("", description="What you call it; in no result.")
    model: ModelSection = ModelSection(**{})
    generation: GenerationSection = GenerationSection(**{})
    dataset: str = Field("tinymath:test", description="Problem set NAME:SPLIT, as of `lake collect --dataset`.")
    dataset_path: str | None = Field(None, description="File or folder of it as it was published, instead of the hub.")
    dataset_limit: int | None = Field(None, ge=1, description="Only the first N problems.")
    prompt_template: str | None = Field(
        None, description=f"Text with {{question}} to put each problem into: a file, or {', '.join(TEMPLATES)}."
    )
    chat: Literal["auto", "on", "off"] = Field("auto", description="Apply the model's chat template.")
    grader: str = Field("auto", description="How answers are graded, as of `lake collect --grader`.")
    seed: int = Field(0, ge=0, description="Seed of all runs.")
    batch_size: int = Field(16, ge=1, description="Sequences per batch.")

    @field_validator("dataset_limit", mode="before")
    @classmethod
    def _all_is_none(cls, value: Any) -> Any:
        return None if value in ("", "all") else value

    def collect_settings(self) -> Json:
        """The settings of `lake collect` that every run of the experiment has."""
        model = self.model
        return {
            "model": model.model_name_or_path, "revision": model.revision, "device": model.device,
            "dtype": model.dtype, "attn_implementation": model.attn_implementation, "dataset": self.dataset,
            "dataset_path": self.dataset_path, "limit": self.dataset_limit, "prompt_template": self.prompt_template,
            "chat": self.chat, "grader": self.grader, "seed": self.seed, "batch_size": self.batch_size,
        }  # fmt: skip

    def sampling_settings(self) -> Json:
        """Those of the runs that sample."""
        return self.generation.model_dump(include={"top_p", "top_k", "repetition_penalty"})
