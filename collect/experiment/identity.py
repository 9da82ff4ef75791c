"""What an experiment is known by: equal for equal configuration, weights and problems, wherever it is run."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from ...lake.values import Json
from ..inputs.source import PromptSource
from ..models.fingerprints import folder_digest
from ..models.loading.load import BUNDLED
from ..models.loading.outline import outline
from ..tinymath import WEIGHTS
from .config import ModelSection

FACTS = (
    "revision",
    "weights_sha256",
    "config_sha256",
    "tokenizer_sha256",
    "chat_template_sha256",
    "architecture",
    "dtype",
)
"""What says that two models compute the same."""


def experiment_id(
    name: str, settings: Mapping[str, object], model: Mapping[str, object], problems: str, runs: Mapping[str, str]
) -> str:
    """NAME and 12 hex digits over the settings that all runs share, the model's facts, the problems and stored runs."""
    facts = {key: model.get(key) for key in FACTS}
    text = json.dumps([settings, facts, problems, dict(runs)], sort_keys=True, ensure_ascii=False)
    return f"{name}-{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:12]}"


def problems_digest(source: PromptSource) -> tuple[str, int]:
    """A digest over what is asked and what is right, and how many problems there are."""
    digest, count = hashlib.sha256(), 0
    for prompt in source:
        metadata = prompt.metadata or {}
        said = [prompt.prompt_id, prompt.wording, prompt.answer, prompt.options, metadata.get("oracle")]
        digest.update(json.dumps(said, sort_keys=True, default=str).encode())
        count += 1
    return digest.hexdigest()[:16], count


def model_facts(section: ModelSection) -> Json:
    """The facts by which a model is known, from its files; its weights are not loaded."""
    shell = outline(
        section.model_name_or_path, revision=section.revision, dtype=section.dtype, device=section.device,
        attn_implementation=section.attn_implementation,
    )  # fmt: skip
    name = section.model_name_or_path
    folder = WEIGHTS if name == BUNDLED else Path(name)
    about = shell.describe() | {
        "revision": getattr(shell.model.config, "_commit_hash", None),
        "weights_sha256": folder_digest(folder) if folder.is_dir() else None,
    }
    return {key: about.get(key) for key in FACTS} | {"n_layers": shell.n_layers, "d_model": shell.d_model}
