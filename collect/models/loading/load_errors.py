"""What can go wrong while a model is loaded, as errors that say what is wrong and what to do about it."""

import json
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError

from ....lake.errors import ConfigError, DamageError, LakeError, NotFoundError
from ....lake.values import JsonView
from ...configuration.model_name import GIVE

FIRST_PASS = "first pass"
LFS_POINTER = b"version https://git-lfs"
FAULTS = (OSError, ValueError, ImportError, RuntimeError, LookupError, AttributeError, TypeError, ArithmeticError,
          AssertionError, StrictDataclassError, SafetensorError)  # fmt: skip
"""What transformers raises when files or settings are wrong: it names no base of its own."""


PARTS = {"layer", "layers", "head", "heads", "expert", "experts"}
TOKENS = "vocab"
"""In the name of a number that counts tokens, of each layer say: Gemma 3n and 4 have 262,144."""
MOST_PARTS = 100_000
"""More layers, heads or experts than this are a damaged number, not a model."""


@contextmanager
def loading(name: str, part: str) -> Iterator[None]:
    """Errors of the block as our own; `part` is what is being read: configuration, tokenizer or weights."""
    with load_reports() as reports:
        try:
            yield
        except LakeError:
            raise
        except FAULTS as error:
            unmade = [name for report in reports for name in weights_reported(report, "CONVERSION")]
            messages = [f"{name} cannot be put together from the checkpoint" for name in unmade]
            raise _explained(name, part, error, messages) from error


def check_files(name: str, folder: Path) -> None:
    """An error that names the first file of a local model that holds a Git LFS pointer instead of its content."""
    for file in sorted((*folder.glob("*.safetensors"), *folder.glob("*.json"), *folder.glob("*.model"))):
        with file.open("rb") as stream:
            if stream.read(len(LFS_POINTER)) == LFS_POINTER:
                raise NotFoundError(
                    f"Model {name!r}: {file.name} is a Git LFS pointer, its content was never downloaded. "
                    f"Run `git lfs pull` in {folder}."
                )


def check_counts(whose: str, settings: JsonView) -> None:
    """ConfigError for more layers, heads or experts than a model can have.

    Modules are made one by one before any weight is looked at: a number of layers like 10**12 would fill the memory.
    """
    for key, value in settings.items():
        words = set(key.split("_"))
        if PARTS & words and TOKENS not in words and type(value) is int and value > MOST_PARTS:
            raise ConfigError(
                f"The configuration of {whose} has {key} = {value:,}; nothing has that many parts. Its config.json is "
                "damaged, or was never meant to be loaded."
            )


def _explained(name: str, part: str, error: BaseException, messages: list[str]) -> LakeError:
    text, what = _first_sentence(error), f"The {part} of model {name!r}"
    if part == FIRST_PASS and not isinstance(error, ImportError):
        return ConfigError(
            f"Model {name!r} cannot run here: {text} Try another --attn-implementation (sdpa, eager), --device or "
            "--dtype."
        )
    if isinstance(error, ImportError):
        return ConfigError(
            f"Model {name!r} needs something that is not installed here: {text} Install it, or give a checkpoint "
            "(one that is not quantised) or an --attn-implementation (sdpa, eager) that does without."
        )
    if isinstance(error, SafetensorError):
        return DamageError(
            f"{what} cannot be read: {_damaged_file(name)} is cut off or is no safetensors file ({text}) Copy it again."
        )
    if _broken_text(error):
        return ConfigError(f"{what} cannot be read: {text} Copy the JSON files again.")
    if "trust_remote_code" in str(error):
        return ConfigError(
            f"Model {name!r} comes with code of its own, which is not run unless --trust-remote-code is given."
        )
    if kind := re.search(r"Unrecognized configuration class .*?\.configuration_(\w+)\.", str(error)):
        return ConfigError(
            f"Model {name!r} is of the kind {kind[1]}, of which transformers offers no language model (neither "
            "AutoModelForCausalLM nor AutoModelForSeq2SeqLM loads it). If it wraps one beside images or sound, save "
            "that part alone with save_pretrained, its tokenizer beside it, and collect from that folder."
        )
    if isinstance(error, OSError) or (isinstance(error, ValueError) and "model_type" in str(error)):
        folder = Path(name)
        return NotFoundError(f"{what} could not be loaded: {text} {_has(folder) if folder.is_dir() else GIVE}")
    if messages:
        return ConfigError(f"{what} do not fit the model: {'; '.join(messages)}. Give a checkpoint that is complete.")
    if isinstance(error, KeyError):
        text = f"it names {error}, which this version of transformers does not know."
    if part == "tokenizer" and Path(name).is_dir():
        text += f" {_has(Path(name))}"
    return ConfigError(f"{what} could not be loaded: {text}")


def _broken_text(error: BaseException | None) -> bool:
    """Whether a file that should be JSON is none, here or in what caused the error."""
    if error is None:
        return False
    return isinstance(error, (json.JSONDecodeError, UnicodeDecodeError)) or _broken_text(error.__context__)


def _has(folder: Path) -> str:
    names = sorted(file.name for file in folder.iterdir() if file.is_file())
    advice = ""
    if "adapter_config.json" in names:
        advice = " It is an adapter: merge it into its base model and save that (merge_and_unload, save_pretrained)."
    elif any(name.endswith((".bin", ".pt", ".pth")) for name in names):
        advice = (
            " Only safetensors are read, since pickled weights can run code: save the model again with save_pretrained."
        )
    return f"The folder has {', '.join(names[:12]) or 'no files'}.{advice}"


def _damaged_file(name: str) -> str:
    """The first weights file whose header does not fit its size; the folder's name where it is not a folder."""
    for file in sorted(Path(name).glob("*.safetensors")):
        size = file.stat().st_size
        with file.open("rb") as stream:
            start = stream.read(8)
            length = int.from_bytes(start, "little")
            if len(start) < 8 or length + 8 > size:
                return file.name
            header = json.loads(stream.read(length))
        ends = [entry["data_offsets"][1] for key, entry in header.items() if key != "__metadata__"]
        if max(ends, default=0) + 8 + length != size:
            return file.name
    return "a file"


def _first_sentence(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    text = " ".join(lines[:2]) if lines and lines[0].endswith(":") else lines[0] if lines else type(error).__name__
    return text if text.endswith((".", "!", "?")) else f"{text}."


@contextmanager
def load_reports() -> Iterator[list[str]]:
    """The reports that transformers only logs while it loads weights; nothing is printed."""
    logger = logging.getLogger("transformers.modeling_utils")
    reports: list[str] = []

    class Collecting(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            reports.append(record.getMessage())

    handler, level, propagate = Collecting(), logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.WARNING)
    logger.propagate = False
    try:
        yield reports
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate


def weights_reported(report: str, status: str) -> list[str]:
    """Names of the weights that a report lists as `status`: MISSING, MISMATCH, UNEXPECTED or CONVERSION."""
    rows = [line.split("|") for line in report.splitlines() if f"| {status}" in line]
    return [row[0].strip() for row in rows]
