"""Everything run.json records about a run: configuration, model, prompts, plan, versions."""

import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version

import torch

from ....lake.errors import ConfigError
from ....lake.schema import SCHEMA_VERSION
from ....lake.values import Json
from ...configuration.config import CollectConfig
from ...inputs.branches import BranchSource
from ...inputs.prompts import FirstPrompts
from ...inputs.source import PromptSource
from ...inputs.tokenizing.text import special_ids
from ...models.editing.edits import Edit
from ...models.model import LoadedModel
from ...models.sites.site_names import SITE_SEMANTICS
from .plan import Plan

PACKAGES = ("tracelake", "torch", "transformers", "tokenizers", "sentence-transformers", "numpy", "pyarrow", "duckdb")

SAME_TO_RESUME = (
    "weights_sha256", "config_sha256", "generation_config_sha256", "revision", "tokenizer_sha256",
    "chat_template_sha256", "dtype", "architecture",
)  # fmt: skip
"""Facts about the model that a resumed run must find as they were."""


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that numbers depend on."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def run_json(
    run_id: str,
    loaded: LoadedModel,
    config: CollectConfig,
    source: PromptSource,
    plan: Plan,
    unmeasured: dict[str, str],
    notices: list[str],
    edits: Sequence[Edit] = (),
) -> Json:
    """The immutable description of a run; enough to resume it and to say where its numbers come from."""
    return {
        "run_id": run_id,
        "schema_version": SCHEMA_VERSION,
        "site_semantics": SITE_SEMANTICS,
        "created_at": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "kind": "experiment" if config.goes_on else "read" if config.max_new_tokens == 0 else "generate",
        "tag": config.tag,
        "seed": config.seed,
        "config": config.model_dump(mode="json"),
        "model": {**loaded.describe(), "special_ids": sorted(special_ids(loaded.tokenizer))},
        "source": source.describe(),
        "plan": plan.as_json(),
        "unmeasured": unmeasured,
        **({"edits": [edit.describe() for edit in edits]} if edits else {}),
        "notices": notices,
        "versions": versions(),
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
    }


def check_parent(source: PromptSource, loaded: LoadedModel, edits: Sequence[Edit]) -> None:
    """ConfigError if stored sequences are to be gone on from by another model, or one that computes otherwise."""
    branches = source.source if isinstance(source, FirstPrompts) else source
    if not isinstance(branches, BranchSource):
        return
    now = loaded.describe()
    for name in SAME_TO_RESUME:
        before = branches.model.get(name)
        if None not in (before, now.get(name)) and before != now[name]:
            raise ConfigError(
                f"Run {branches.run_id} was collected with another model: its {name} was {before}, that of "
                f"{loaded.name} is {now[name]}. Branches need the same: --model {branches.model.get('name')}."
            )
    if branches.request.at and branches.edits != [edit.describe() for edit in edits]:
        raise ConfigError(
            f"Run {branches.run_id} was collected with {len(branches.edits)} edits, and they are not those given now: "
            "what stands before a branch would not be its parent's. Give the same --edit."
        )


def check_same(before: Json, loaded: LoadedModel, source: PromptSource, edits: Sequence[Edit] = ()) -> None:
    """ConfigError if the model, the tokenizer, the edits or the prompts are not those that the run was started with."""
    now = loaded.describe()
    for name in SAME_TO_RESUME:
        if before["model"].get(name, now[name]) != now[name]:
            raise ConfigError(
                f"Run {before['run_id']} cannot be resumed: its model's {name} was {before['model'].get(name)}, "
                f"now it is {now[name]}. Start a new run."
            )
    if before["source"] != source.describe():
        raise ConfigError(
            f"Run {before['run_id']} cannot be resumed: its prompts have changed since it was started. Start a new run."
        )
    if before.get("edits", []) != [edit.describe() for edit in edits]:
        raise ConfigError(
            f"Run {before['run_id']} cannot be resumed: a vector of its edits has changed since it was started. "
            "Start a new run."
        )
