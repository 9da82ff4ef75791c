"""One architecture through the whole product: build a tiny model, collect, compare everything with the plain pass.

`python tests/coverage_case.py MODEL_TYPE:CLASS` prints the outcome as JSON; `docs/models.py` runs one after another.
"""

import json
import sys
import tempfile
import traceback
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from coverage_checks import problems_of
from plain_forward import log_probabilities
from plain_pass import NoReference, PlainReader, PlainReading
from random_models import D_VOCAB, PROMPTS, SCALE, byte_tokenizer
from tiny_architectures import SEQ_TO_SEQ, tiny_config
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from tracelake.collect.config import CollectConfig
from tracelake.collect.models.sites import SITES, Tap
from tracelake.collect.running import plan
from tracelake.collect.running.collector import Collection
from tracelake.lake import Lake
from tracelake.lake.errors import ConfigError, LakeError

N_NEW = 8
RUNS: dict[str, dict[str, Any]] = {
    "greedy": {"batch_size": 5},
    "sampled": {"batch_size": 4, "samples": 2, "temperature": 1.0, "segment_items": 5},
}
KEEP = ("tokens", "layers", "activations:resid_post", "activations:final_norm")
SCALES = (SCALE, 6.0, 3.0, 1.0)
"""Of the weights; the next smaller one where float32 and float64 of the bare model itself differ too much."""


@dataclass
class Outcome:
    """What became of one architecture."""

    architecture: str
    verdict: str = "exact"
    """exact, limits, refused, wrong, traceback or untried"""
    why: str = ""
    sites: list[str] = field(default_factory=list)
    heads: bool | None = None
    scale: float = SCALE
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def random_weights(model: PreTrainedModel, scale: float) -> None:
    """Large weights: attention far from uniform, predictions far from certain."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and "A_log" not in name:
                parameter.mul_(scale)
            elif parameter.is_floating_point():
                parameter.add_(0.3 * torch.randn_like(parameter))


def build(key: str, folder: Path, scale: float) -> PreTrainedModel:
    """Write a tiny model with its tokenizer."""
    kind = key.split(":")[0]
    config = tiny_config(kind)
    torch.manual_seed(0)
    model = (AutoModelForSeq2SeqLM if key in SEQ_TO_SEQ else AutoModelForCausalLM).from_config(config).eval()
    random_weights(model, scale)
    model.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return model


def leave_configuration(key: str, folder: Path) -> None:
    """Of a model that cannot be built here: what its folder would hold, with weights of another."""
    kind = key.split(":")[0]
    try:
        config = tiny_config(kind)
    except Exception:
        config = CONFIG_MAPPING[kind]()
    config.architectures = [key.split(":")[1]]
    config.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    save_file({"nothing": torch.zeros(1)}, folder / "model.safetensors", {"format": "pt"})


def choose_ends(reader: PlainReader, folder: Path, prompts: list[np.ndarray], n_encoded: list[int]) -> list[np.ndarray]:
    """Make some tokens end sequences, so that they end at different steps; returns what greedy decoding writes."""
    try:
        greedy = [reader.generated(ids, n, N_NEW) for ids, n in zip(prompts, n_encoded, strict=True)]
    except (ValueError, TypeError, AttributeError, RuntimeError, IndexError, NotImplementedError):
        greedy = [reader.greedy(ids, n, N_NEW) for ids, n in zip(prompts, n_encoded, strict=True)]
    ends = {int(greedy[0][2]), int(greedy[2][5]), *range(11, D_VOCAB, 40)}
    path = folder / "generation_config.json"
    settings = json.loads(path.read_text()) if path.is_file() else {}
    settings |= {"eos_token_id": sorted(ends), "pad_token_id": 2}
    settings.pop("forced_eos_token_id", None)
    if reader.two_stacks:
        settings["decoder_start_token_id"] = 2
    path.write_text(json.dumps(settings))
    lasts = [next((i for i, token in enumerate(ids) if int(token) in ends), N_NEW - 1) for ids in greedy]
    return [ids[: last + 1] for ids, last in zip(greedy, lasts, strict=True)]


def available_sites(collection: Collection) -> list[str]:
    """Sites that some stack of the model has in its last layer."""
    names = []
    observable = collection.wishes.attention
    for site in SITES:
        for stack in collection.loaded.stacks:
            if site in ("v", "rot_q", "rot_k"):
                there = observable
            else:
                try:
                    Tap(stack.anatomy, {(site, stack.n_layers - 1)})
                    there = True
                except ConfigError:
                    there = False
            if there:
                names.append(site)
                break
    return names


def what_to_keep(folder: Path, outcome: Outcome) -> tuple[str, ...]:
    """Everything that the model has; heads only if they can be observed."""
    collection = prepared(folder, keep=KEEP)
    outcome.sites, outcome.heads = available_sites(collection), collection.wishes.attention
    sites = tuple(f"activations:{site}" for site in outcome.sites if site not in ("resid_post", "final_norm"))
    return (*KEEP, *sites, *(("heads",) if outcome.heads else ()))


def prepared(folder: Path, **settings: Any) -> Collection:
    """A collection of the prompts, before it starts."""
    given = {"prompt": PROMPTS, "device": "cpu", "max_new_tokens": N_NEW, "chat": "off", **settings}
    return Collection(CollectConfig(model=str(folder), **given))


def collected(folder: Path, path: Path, **settings: Any) -> tuple[Lake, Collection, str]:
    collection = prepared(folder, **settings)
    lake = Lake.create(path)
    return lake, collection, collection.start(lake, assume_yes=True).run_id


def run(key: str) -> Outcome:
    """Try one architecture."""
    outcome = Outcome(key)
    # So small that prompts are read in chunks of 16 tokens.
    plan.CPU_BUDGET = 0
    for scale in SCALES:
        outcome = Outcome(key, scale=scale)
        with tempfile.TemporaryDirectory() as place:
            again = attempt(key, Path(place), outcome)
        if not again:
            return outcome
    return outcome


def attempt(key: str, place: Path, outcome: Outcome) -> bool:
    """Fill in the outcome; whether smaller weights should be tried."""
    folder = place / "model"
    try:
        build(key, folder, outcome.scale)
    except Exception as error:
        outcome.notes.append(f"transformers cannot build it: {type(error).__name__} {error}"[:300])
        leave_configuration(key, folder)
    tokenizer = byte_tokenizer()
    try:
        reader = PlainReader(folder)
        texts = [np.array(tokenizer(text)["input_ids"]) for text in PROMPTS]
        n_encoded = [len(ids) if reader.two_stacks else 0 for ids in texts]
        prompts = [np.append(ids, 2) if reader.two_stacks else ids for ids in texts]
        greedy = choose_ends(reader, folder, prompts, n_encoded)
    except Exception as error:
        reader = None
        outcome.notes.append(f"no reference: {type(error).__name__} {error}"[:300])
    try:
        keep = what_to_keep(folder, outcome)
        for name, settings in RUNS.items():
            lake, collection, run_id = collected(folder, place / name, keep=keep, **settings)
            limits = [text for text in collection.notices if not text.startswith("Attention is not observed")]
            if limits:
                outcome.verdict, outcome.why = "limits", " ".join(limits)
            if reader is None:
                outcome.verdict = "wrong"
                outcome.problems.append("collected without a reference")
                continue
            try:
                found = problems_of(lake, run_id, reader, prompts, greedy if name == "greedy" else None, settings)
            except NoReference as error:
                found = [f"no reference: {error}"]
            outcome.notes += [text for text in found if text.startswith("generate")]
            outcome.problems += [f"{name}: {text}" for text in found if not text.startswith("generate")]
            keep = (*KEEP, *(("heads",) if outcome.heads else ()))
    except LakeError as error:
        outcome.verdict, outcome.why = "refused", f"{type(error).__name__}: {error}"
        return False
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        where = [f"{Path(f.filename).name}:{f.lineno}" for f in frames]
        own = [f"{Path(f.filename).name}:{f.lineno}" for f in frames if "collect/" in f.filename]
        outcome.verdict = "traceback"
        outcome.why = f"{type(error).__name__}: {str(error)[:300]} at {own[-1] if own else '?'} .. {where[-1]}"
        return False
    if outcome.problems:
        outcome.verdict = "wrong"
        return reader is not None and ill_conditioned(reader, folder, prompts, n_encoded, outcome)
    return False


def differ(single: PlainReading, double: PlainReading) -> bool:
    """Whether two readings of one sequence are farther apart than a quarter of the tolerance."""
    a, b = log_probabilities(single.logits), log_probabilities(double.logits)
    if (np.abs(a - b) > 0.25 * (1e-5 + 1e-4 * np.abs(b))).any():
        return True
    for name, stack in double.stacks.items():
        for site, wanted in stack.states.items():
            norm = np.linalg.norm(wanted, axis=-1)
            if (np.linalg.norm(single.stacks[name].states[site] - wanted, axis=-1) > 0.25e-4 * norm).any():
                return True
    return False


def ill_conditioned(reader: PlainReader, folder: Path, prompts: list, n_encoded: list, outcome: Outcome) -> bool:
    """Whether the bare model itself in float64 is farther from float32 than a quarter of the tolerance."""
    try:
        exact = PlainReader(folder, torch.float64)
        for ids, n in zip(prompts, n_encoded, strict=True):
            if differ(reader.read(ids, n), exact.read(ids, n)):
                outcome.notes.append(f"ill-conditioned at {outcome.scale}")
                return True
    except Exception as error:
        outcome.notes.append(f"float64: {type(error).__name__}")
    return False


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(asdict(run(sys.argv[1])), indent=1))
