"""The configuration of the correctness experiment: right and wrong answers, directions, layers, neurons, words."""

from typing import Literal

from pydantic import BaseModel, Field

from .config import SECTION, ExperimentConfig

WITHOUT_EFFECT = {
    "output_dir": "results are rows of the lake (--lake).",
    "datasets_root": "problems come from `dataset`, or from `dataset_path` where they lie on this machine.",
    "model.trust_remote_code": "code of a model repository is never run because a file says so.",
}
"""Keys of other programs' files that change nothing here, and why."""


class DirectionsSection(BaseModel):
    """Step 2: what tells right from wrong, fitted on the train problems and scored on unseen ones."""

    model_config = SECTION

    enabled: bool = Field(True, description="Whether `correctness` takes the step.")
    at: Literal["prompt", "answer", "mean"] = Field("prompt", description="States at the end of prompt or answer.")
    methods: tuple[str, ...] = Field(
        ("mean-difference", "logistic", "lda"), min_length=1, description="How directions are fitted."
    )
    unit: bool = Field(False, description="Scale states to length 1 first.")
    within: str | None = Field(None, description="Repeat everything inside each value of this column, such as level.")


class AblationSection(BaseModel):
    """Step 3: what each layer is needed for."""

    model_config = SECTION

    enabled: bool = Field(True, description="Whether `correctness` takes the step.")
    sites: tuple[str, ...] = Field(("attn_out", "mlp_out"), min_length=1, description="Sites, one at a time.")
    actions: tuple[Literal["zero", "mean"], ...] = Field(
        ("zero", "mean"), min_length=1, description="What is put in their place; means are of the train problems."
    )
    layers: str = Field("all", description="all, or e.g. 0,3,-1 or 2-5.")
    oracle: str | None = Field(None, description="Which reference solution the loss is of; the first if not given.")
    limit: int | None = Field(None, ge=1, description="Only the first N problems.")


class SecondOrderSection(BaseModel):
    """Step 5: what every neuron does through later heads, along the direction of the train problems."""

    model_config = SECTION

    enabled: bool = Field(True, description="Whether `correctness` takes the step.")
    method: Literal["mean-difference", "logistic", "lda"] = Field(
        "mean-difference", description="Which of the directions of final states."
    )
    scaling: Literal["plain", "state", "clip"] = Field("plain", description="As of `lake experiment second-order`.")
    by_head: bool = Field(True, description="Keep the effects by head too.")


class NeuronsSection(BaseModel):
    """Steps 4 and 6: the ranking of all neurons, and chosen ones apart."""

    model_config = SECTION

    enabled: bool = Field(True, description="Whether `correctness` takes the steps.")
    neurons: str = Field("16", description="How many of each layer, or a file of LAYER,NEURON lines.")
    top_k: int = Field(100, ge=3, description="Effects that a component is fitted on.")
    atoms: int = Field(16, ge=1, description="Most words of each neuron.")
    lexicon: str | None = Field(None, description="File of words, one per line, instead of the model's tokens.")


class CorrectnessConfig(ExperimentConfig):
    """From a problem set to the words of the neurons that matter."""

    train_dataset: str = Field("tinymath:train", description="Problems that directions and means are fitted on.")
    train_limit: int | None = Field(600, ge=1, description="Only the first N of them.")
<<<<<<< HEAD
    directions: DirectionsSection = DirectionsSection(**{})
    ablation: AblationSection = AblationSection(**{})
    second_order: SecondOrderSection = SecondOrderSection(**{})
    neurons: NeuronsSection = NeuronsSection(**{})
=======
    directions: DirectionsSection = Field(default_factory=lambda: DirectionsSection.model_validate({}))
    ablation: AblationSection = Field(default_factory=lambda: AblationSection.model_validate({}))
    second_order: SecondOrderSection = Field(default_factory=lambda: SecondOrderSection.model_validate({}))
    neurons: NeuronsSection = Field(default_factory=lambda: NeuronsSection.model_validate({}))
>>>>>>> neurons
    report: str | None = Field(None, description="File that step 7 writes the run's report to; none: no step 7.")

    def trial(self) -> "CorrectnessConfig":
        """The same for a few problems and few tokens."""
        few = {"max_new_tokens": 10}
        return self.model_copy(update={
            "dataset_limit": 4, "train_limit": 4, "generation": self.generation.model_copy(update=few),
        })  # fmt: skip
