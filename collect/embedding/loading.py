"""Loads a sentence-transformers model: no code of others, and no weights that are random without a word."""

import json
import re
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ...lake.errors import ConfigError
from ..models.loading.hub import out_of_reach
from ..models.loading.load_errors import FAULTS, check_counts, load_reports, weights_reported

TRUSTED_MODULES = ("sentence_transformers.",)
UNUSED = re.compile(r"^pooler\.")
"""Weights that may be missing: sentence-transformers pools the states of tokens itself."""


class SentenceModel(Protocol):
    """What is used of a `SentenceTransformer`.

    Its own types name every model of transformers, which a type checker would read for two minutes.
    """

    max_seq_length: int

    @property
    def tokenizer(self) -> Any: ...

    def encode(self, sentences: list[str], **options: Any) -> np.ndarray: ...


def load_embedder(name: str, source: str, device: str) -> SentenceModel:
    """The model, on `device`; ConfigError if it cannot be loaded or if weights of it would be random."""
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    with load_reports() as reports:
        try:
            make = import_module("sentence_transformers").SentenceTransformer
            local = out_of_reach(source)
            model: SentenceModel = make(source, device=device, trust_remote_code=False, local_files_only=local)
        except FAULTS as error:
            _refuse_gaps(name, reports)
            raise refusal(name, error) from error
    _refuse_gaps(name, reports)
    return model


def _refuse_gaps(name: str, reports: list[str]) -> None:
    listed = [weights_reported(report, status) for report in reports for status in ("MISSING", "MISMATCH")]
    gaps = [weight for weights in listed for weight in weights if not UNUSED.match(weight)]
    if gaps:
        more = f" and {len(gaps) - 3} more" if len(gaps) > 3 else ""
        raise ConfigError(
            f"Embedder {name!r}: weights that are missing in its files, or of another shape there, would be random: "
            f"{', '.join(gaps[:3])}{more}. Name a folder that was saved with its own config.json."
        )


def refusal(name: str, error: BaseException) -> ConfigError:
    """The error for an embedder that fails."""
    said = (str(error).splitlines() or [type(error).__name__])[0]
    return ConfigError(f"Embedder {name!r} could not be loaded: {said}")


def check_embedder_files(folder: Path) -> None:
    """ConfigError for a local folder that names classes of others, or numbers that no model has."""
    _refuse_foreign_code(folder)
    for path in sorted(folder.rglob("config.json")) if folder.is_dir() else ():
        try:
            settings = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise ConfigError(f"{path} cannot be read as JSON: {error}.") from error
        if isinstance(settings, dict):
            check_counts(f"embedder {str(folder)!r}", settings)


def _refuse_foreign_code(folder: Path) -> None:
    # modules.json may name classes to import; only the library's own are allowed.
    modules = folder / "modules.json"
    if not modules.is_file():
        return
    try:
        named = json.loads(modules.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{modules} cannot be read as JSON: {error}. Name a sentence-transformers folder.") from error
    if not isinstance(named, list) or not all(isinstance(module, dict) for module in named):
        raise ConfigError(f"{modules} is no list of modules. Name a sentence-transformers folder with --embedder.")
    for module in named:
        if not str(module.get("type", "")).startswith(TRUSTED_MODULES):
            raise ConfigError(
                f"{modules} asks to run {module.get('type')!r}, which is not part of sentence-transformers."
            )
