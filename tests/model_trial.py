"""One architecture through the whole product: build a tiny model, collect with it, compare with plain passes.

`python tests/model_trial.py llama:LlamaForCausalLM` prints the outcome; `docs/models.py` tries one after another.
"""

import json
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from huggingface_hub.errors import StrictDataclassError
from plain_forward import entropy_of, log_probabilities
from plain_pass import NoReference, PlainReader, PlainReading
from random_models import PROMPTS, SCALE, byte_tokenizer
from safetensors.torch import save_file
from tiny_architectures import SEQ_TO_SEQ, START, tiny_config
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer, PreTrainedModel
from trial_checks import Trial, differences

from tracelake.collect.configuration.config import CollectConfig
from tracelake.collect.models.sites.site_names import ATTENTION_SITES, CROSS_SITES, ROTARY_SITES, SITES
from tracelake.collect.models.sites.taps import Tap
from tracelake.collect.models.stack import CROSS, SELF
from tracelake.collect.running.collector import Collection
from tracelake.collect.running.planning import plan
from tracelake.lake import Lake
from tracelake.lake.errors import ConfigError, LakeError

N_NEW = 8
RUNS: dict[str, dict[str, Any]] = {
    "sampled": {"batch_size": 3, "temperature": 1.0, "prompt": PROMPTS[:3]},
    "greedy": {"batch_size": 5, "prompt": PROMPTS},
}
SCALES = (SCALE, 6.0, 3.0, 1.0)
"""Of the weights; the next smaller one where float32 and float64 of the bare model itself differ too much."""
EXACT, LIMITS, REFUSED, WRONG, TRACEBACK = "exact", "limits", "refused", "wrong", "traceback"
UNSTEADY = (RuntimeError, ValueError, TypeError, AttributeError, LookupError, AssertionError, StrictDataclassError)
"""What architectures of transformers raise where they cannot do what is asked."""


@dataclass
class Outcome:
    """What became of one architecture."""

    architecture: str
    verdict: str = EXACT
    why: str = ""
    sites: list[str] = field(default_factory=list)
    heads: str = ""
    """Whether attention is observed."""
    scale: float = SCALE
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def try_model(key: str) -> Outcome:
    """Try one architecture, named as in `tiny_architectures.model_types`."""
    for scale in SCALES:
        outcome = Outcome(key, scale=scale)
        with tempfile.TemporaryDirectory() as place, small_chunks(), torch.random.fork_rng():
            again = _attempt(key, Path(place), outcome)
        if not again:
            break
    return outcome


@contextmanager
def small_chunks() -> Iterator[None]:
    """Prompts are read 16 tokens at a time, the least that a plan allows."""
    with patch.object(plan, "CPU_BUDGET", 0):
        yield


def _attempt(key: str, place: Path, outcome: Outcome) -> bool:
    """Fill in the outcome; whether smaller weights should be tried."""
    folder = place / "model"
    reference = _reference(key, folder, outcome)
    try:
        # The first run keeps what is kept if nobody asks; the second what the first has shown to be there.
        settings: dict[str, Any] = {}
        for name, run_settings in RUNS.items():
            lake = Lake.create(place / name)
            collection = _prepared(folder, **run_settings, **settings)
            run = collection.start(lake, assume_yes=True).run_id
            settings = {"keep": _everything(collection, outcome)}
            # Batches one after the other cost time, not numbers: the page tells of what is read otherwise.
            outcome.why = " and ".join(replace(collection.plan.reading, separate=False).limits)
            outcome.verdict = LIMITS if outcome.why else EXACT
            outcome.problems += _compared(lake, run, reference, name, outcome.notes)
    except LakeError as error:
        # A run that failed says so in a sentence, but was not refused.
        failed = error.__cause__ is not None and "failed" in str(error)
        outcome.verdict, outcome.why = TRACEBACK if failed else REFUSED, str(error)
        return False
    except Exception as error:
        frames = [f"{Path(frame.filename).name}:{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__)]
        outcome.verdict, outcome.why = TRACEBACK, f"{type(error).__name__}: {error} at {' '.join(frames[-8:])}"
        return False
    if not outcome.problems:
        return False
    outcome.verdict, outcome.why, outcome.problems = WRONG, outcome.problems[0], outcome.problems[:6]
    return reference is not None and _is_ill_conditioned(reference, folder, outcome)


@dataclass
class Reference:
    """The bare model beside the product, its prompts, and what `generate` writes after them."""

    reader: PlainReader
    prompts: list[np.ndarray]
    greedy: list[np.ndarray]
    tokenizer: Any
    """As transformers loads it: it may choose another class for a model type."""

    def n_encoded(self, prompt: np.ndarray) -> int:
        """Tokens that an encoder reads."""
        return len(prompt) - 1 if self.reader.two_stacks else 0


def _reference(key: str, folder: Path, outcome: Outcome) -> Reference | None:
    """Build the model, and read it plainly; None where transformers itself can do neither."""
    try:
        _build(key, folder, outcome.scale)
    except (*UNSTEADY, ImportError) as error:
        outcome.notes.append(f"transformers cannot build it: {_words(error)}")
        _leave_configuration(key, folder)
        return None
    try:
        reader = PlainReader(folder, _auto(key))
        tokenizer = AutoTokenizer.from_pretrained(folder)
        prompts = [np.array(tokenizer(text)["input_ids"]) for text in PROMPTS]
        if reader.two_stacks:
            prompts = [np.append(ids, START) for ids in prompts]
        reference = Reference(reader, prompts, [], tokenizer)
        reference.greedy = _choose_ends(reference, folder)
    except UNSTEADY as error:
        outcome.notes.append(f"a plain pass fails: {_words(error)}")
        return None
    return reference


def _auto(key: str) -> Any:
    return AutoModelForSeq2SeqLM if key in SEQ_TO_SEQ else AutoModelForCausalLM


def _words(error: BaseException) -> str:
    return f"{type(error).__name__} {' '.join(str(error).split())}"[:300]


def _build(key: str, folder: Path, scale: float) -> None:
    """Write a tiny model with its tokenizer; large weights make attention and predictions far from uniform."""
    torch.manual_seed(0)
    model: PreTrainedModel = _auto(key).from_config(tiny_config(key.split(":")[0])).eval()
    with torch.no_grad():
        if any("indexer" in name for name, _ in model.named_modules()):
            # A padding token that is embedded as zero scores all keys alike: which of them it selects is chance.
            embedding = model.get_input_embeddings().weight
            embedding[embedding.norm(dim=-1) == 0] = 0.02
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and "A_log" not in name:
                parameter.mul_(scale)
            elif parameter.is_floating_point():
                parameter.add_(0.3 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)


def _leave_configuration(key: str, folder: Path) -> None:
    """Of a model that cannot be built here: its configuration and tokenizer, beside weights that are not its own."""
    kind, name = key.split(":")
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"model_type": kind, "architectures": [name]}))
    byte_tokenizer().save_pretrained(folder)
    save_file({"nothing": torch.zeros(1)}, folder / "model.safetensors", {"format": "pt"})


def _choose_ends(reference: Reference, folder: Path) -> list[np.ndarray]:
    """Make some tokens end sequences, so that they end at different steps; returns what greedy decoding writes."""
    greedy = [_greedy(reference, ids) for ids in reference.prompts]
    ends = next(_end_ids(greedy))
    path = folder / "generation_config.json"
    settings = json.loads(path.read_text()) if path.is_file() else {}
    settings |= {"eos_token_id": ends, "pad_token_id": 2}
    settings.pop("forced_eos_token_id", None)
    if reference.reader.two_stacks:
        settings["decoder_start_token_id"] = START
    path.write_text(json.dumps(settings))
    return [ids[: _n_until(ids, ends)] for ids in greedy]


def _greedy(reference: Reference, prompt: np.ndarray) -> np.ndarray:
    """What `generate` writes, if plain passes agree; else what they write."""
    n = reference.n_encoded(prompt)
    try:
        ids = reference.reader.generated(prompt, n, N_NEW)
        logits = reference.reader.read(np.concatenate((prompt, ids)), n).logits[-N_NEW - 1 : -1]
        if logits.argmax(-1).tolist() == ids.tolist():
            return ids
    except (*UNSTEADY, NoReference):
        pass
    return reference.reader.greedy(prompt, n, N_NEW)


def _end_ids(greedy: list[np.ndarray]) -> Iterator[list[int]]:
    """Pairs of tokens under which the sequences have at least three lengths, two, or whatever there is."""
    pairs = [[int(a), int(b)] for a in greedy[0][1:] for b in greedy[2][1:]]
    for wanted in (3, 2, 1):
        for pair in pairs:
            if len({_n_until(ids, pair) for ids in greedy}) >= wanted:
                yield pair


def _n_until(ids: np.ndarray, ends: list[int]) -> int:
    """How many tokens there are up to the first that ends a sequence."""
    return next((step + 1 for step, token in enumerate(ids) if int(token) in ends), len(ids))


def _everything(collection: Collection, outcome: Outcome) -> tuple[str, ...]:
    """What `--keep` can ask of the model; heads only where they can be observed."""
    observed = collection.kept.attention
    outcome.heads = ("of some layers" if observed.reason else "observed") if observed else ""
    outcome.sites = [site for site in SITES if site not in ROTARY_SITES and _is_there(collection, site)]
    sites = [f"activations:{site}@0,-1" for site in outcome.sites if site != "resid_post"]
    return ("tokens", "layers", "activations:resid_post", *sites, *(["heads"] if observed else []))


def _is_there(collection: Collection, site: str) -> bool:
    """Whether all layers have the site, of all stacks that could."""
    stacks = collection.loaded.stacks
    if site in ATTENTION_SITES:
        attention = collection.kept.attention
        twice = site == "v" and any((stack.name, SELF) in attention.twice for stack in stacks)
        return not twice and all(len(attention.layers_of(stack, SELF)) == stack.n_layers for stack in stacks)
    if site in CROSS_SITES:
        # A decoder used alone has cross-attention that nothing passes through.
        stacks = [stack for stack in stacks if CROSS in stack.kinds]
    try:
        for stack in stacks:
            Tap(stack.anatomy, {(site, layer) for layer in range(stack.n_layers)})
    except ConfigError:
        return False
    return len(stacks) > 0


def _prepared(folder: Path, **settings: Any) -> Collection:
    """A collection of the prompts, before it starts."""
    given = {"device": "cpu", "max_new_tokens": N_NEW, "chat": "off", **settings}
    return Collection(CollectConfig(model=str(folder), **given))


def _compared(lake: Lake, run: str, reference: Reference | None, name: str, notes: list[str]) -> list[str]:
    """What is wrong in a run; where only `generate` differs from plain passes, a note."""
    if reference is None:
        return ["collected, although transformers itself cannot read it"]
    greedy = reference.greedy if name == "greedy" else None
    prompts = reference.prompts[: len(RUNS[name]["prompt"])]
    try:
        texts = differences(Trial(lake, run, reference.reader, reference.tokenizer, prompts, greedy))
    except NoReference as error:
        texts = [f"there is no reference: {error}"]
    notes += [f"{name} {text}" for text in texts if text.startswith("generate")]
    return [f"{name} {text}" for text in texts if not text.startswith("generate")]


def _is_ill_conditioned(reference: Reference, folder: Path, outcome: Outcome) -> bool:
    """Whether the bare model in float64 is farther from float32 than a tenth of the tolerance."""
    try:
        exact = PlainReader(folder, _auto(outcome.architecture), torch.float64)
        differ = any(_differ(*_read_by_both(reference, exact, ids)) for ids in reference.prompts)
    except UNSTEADY as error:
        outcome.notes.append(f"in float64: {_words(error)}")
        return False
    return differ


def _read_by_both(reference: Reference, exact: PlainReader, ids: np.ndarray) -> tuple[PlainReading, PlainReading]:
    n_encoded = reference.n_encoded(ids)
    return reference.reader.read(ids, n_encoded), exact.read(ids, n_encoded)


def _differ(single: PlainReading, double: PlainReading) -> bool:
    a, b = log_probabilities(single.logits), log_probabilities(double.logits)
    if (np.abs(a - b) > 0.1 * (1e-5 + 1e-4 * np.abs(b))).any():
        return True
    for name, stack in double.stacks.items():
        for site, wanted in stack.states.items():
            error = np.linalg.norm(single.stacks[name].states[site] - wanted, axis=-1)
            if (error > 0.1e-4 * np.linalg.norm(wanted, axis=-1)).any():
                return True
        for kind, maps in stack.attention.items():
            for ours, wanted in zip(single.stacks[name].attention[kind], maps, strict=True):
                a, b = entropy_of(ours), entropy_of(wanted)
                if (np.abs(a - b) > 0.1 * (1e-5 + 1e-4 * np.abs(b))).any():
                    return True
    return False


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(asdict(try_model(sys.argv[1])), indent=1))
