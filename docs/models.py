"""Write `docs/models.md`: every architecture of the installed transformers, collected and compared with plain passes.

`python docs/models.py` tries the architectures whose outcome is not known for the present code and writes the page;
model types as arguments try only these, again. `--check` tries as well, but fails where the page says something else.
Each runs in a process of its own, so that a crash or a hang is an outcome too; outcomes are kept in `build/models`.
Not part of the installed package.
"""

import argparse
import hashlib
import json
import multiprocessing
import os
import re
import resource
import sys
from collections import Counter
from collections.abc import Iterable
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parent
ROOT, PAGE, OUTCOMES = DOCS.parent, DOCS / "models.md", DOCS.parent / "build" / "models"
SECONDS, BYTES = 600, 6 * 2**30
"""Most wall time and memory of one architecture."""
TRIAL = ("tiny_architectures", "model_trial", "trial_checks", "plain_pass", "plain_forward", "random_models")
"""Modules of `tests/` on which an outcome depends."""
WORDS = {"exact": "exact", "limits": "exact, with limits", "refused": "refused"}


def main() -> None:
    """Try what is asked for, then write the page or compare it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="model types to try again")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if the page says something else")
    given = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ["PYTHONPATH"] = str(ROOT / "tests")
    sys.path.insert(0, os.environ["PYTHONPATH"])
    OUTCOMES.mkdir(parents=True, exist_ok=True)
    keys = architectures()
    asked = [key for name in given.names for key in keys if key.split(":")[0] == name]
    for key in asked or [key for key in keys if not is_known(key)]:
        keep(key, tried(key))
    rows = [json.loads(path_of(key).read_text(encoding="utf-8")) for key in keys if path_of(key).is_file()]
    if bad := [row["architecture"] for row in rows if row["verdict"] not in WORDS]:
        print(f"wrong, or ended in a traceback: {', '.join(bad)}", file=sys.stderr)
    text = page(rows)
    if not given.check:
        PAGE.write_text(text, encoding="utf-8")
    elif bad or not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != text:
        sys.exit("docs/models.md is not current: run `python docs/models.py`.")


def architectures() -> list[str]:
    """Names of all architectures, as `model_type:class`."""
    from tiny_architectures import model_types

    return sorted(model_types())


# -- outcomes ----------------------------------------------------------------------------------------------------------


def path_of(key: str) -> Path:
    """Where the outcome of an architecture is kept."""
    return OUTCOMES / f"{key.replace(':', '.')}.json"


def is_known(key: str) -> bool:
    """Whether there is an outcome for the present code."""
    path = path_of(key)
    return path.is_file() and json.loads(path.read_text(encoding="utf-8"))["code"] == code()


@cache
def code() -> str:
    """Digest of everything on which an outcome depends."""
    digest = hashlib.sha256()
    for path in [*sorted((ROOT / "collect").rglob("*.py")), *(ROOT / "tests" / f"{name}.py" for name in TRIAL)]:
        digest.update(path.read_bytes())
    for package in ("torch", "transformers"):
        digest.update(version(package).encode())
    return digest.hexdigest()


def keep(key: str, outcome: dict[str, Any]) -> None:
    """Store an outcome, and say it."""
    path_of(key).write_text(json.dumps({**outcome, "code": code()}, indent=1) + "\n", encoding="utf-8")
    print(f"{outcome['verdict']:10} {key}  {outcome['why'][:150]}", flush=True)


def tried(key: str) -> dict[str, Any]:
    """The outcome of one architecture, from a process of its own."""
    context = multiprocessing.get_context("forkserver")
    # Imported once, in the process from which those of the architectures are forked.
    context.set_forkserver_preload(["model_trial", "pandas"])
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_try, args=(key, theirs), daemon=True)
    process.start()
    theirs.close()
    outcome = None
    try:
        if ours.poll(SECONDS):
            outcome = ours.recv()
    except EOFError:
        pass
    if outcome is None:
        process.kill()
    process.join()
    crash = {"architecture": key, "verdict": "crash", "sites": [], "heads": ""}
    return outcome or {**crash, "why": f"its process ended with {process.exitcode}"}


def _try(key: str, answer: Any) -> None:
    from dataclasses import asdict

    import torch
    from model_trial import try_model

    resource.setrlimit(resource.RLIMIT_DATA, (BYTES, BYTES))
    torch.set_num_threads(1)
    answer.send(asdict(try_model(key)))


# -- the page ----------------------------------------------------------------------------------------------------------

_INTRODUCTION = """
Written by `python docs/models.py`. Changes made here are lost.

All {n} architectures that transformers {version} offers for generating text, decoders and encoder-decoders: {counts}.
For each, a tiny model with large random weights is collected through the whole product: five prompts of unequal length
(one of a single token, one longer than the windows), greedy and sampled, sequences that end at different steps, prompts
read in chunks of 16 tokens. Every stored token id, text, log-probability, entropy, rank, probability mass, layer
statistic, residual state and head statistic is compared with a plain pass over each sequence alone, unbatched and
without a cache, in float32; greedy tokens are those of `generate` as well where that agrees with plain passes. What
parts add to the residual stream is compared with its change. The tolerance is that of the [glossary](glossary.md).

* **exact**: every value is right, however sequences are batched.
* **exact, with limits**: every value is right because `lake collect` reads such a model otherwise, and says so.
* **refused**: `lake collect` does not collect it and says why, before anything is written.

*Sites* are those that every layer has (`--keep activations:SITE`); *heads*, whether attention is observed. A site of
some layers only can be kept with `@LAYERS`. `make test-models` does all this again.
"""


def page(rows: Iterable[dict[str, Any]]) -> str:
    """The page of all outcomes."""
    rows = list(rows)
    numbers = Counter(row["verdict"] for row in rows)
    counts = ", ".join(f"{numbers[verdict]} {words}" for verdict, words in WORDS.items())
    introduction = _INTRODUCTION.strip().format(n=len(rows), version=version("transformers"), counts=counts)
    note, _, text = introduction.partition("\n\n")
    lines = [f"<!-- {note} -->", "", "# Models", "", text, ""]
    lines += ["| architecture | model type | verdict | sites | heads |", "|---|---|---|---|---|"]
    return "\n".join([*lines, *map(row_of, rows)]) + "\n"


def row_of(outcome: dict[str, Any]) -> str:
    """The row of one architecture."""
    kind, name = outcome["architecture"].split(":")
    verdict = WORDS.get(outcome["verdict"], outcome["verdict"])
    if outcome["why"]:
        verdict += f": {_reason(outcome['why'], name)}"
    cells = (f"`{name}`", f"`{kind}`", verdict, _sites(outcome["sites"]), outcome["heads"])
    if outcome["verdict"] not in ("exact", "limits"):
        cells = (*cells[:3], "", "")
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _reason(why: str, name: str) -> str:
    """A sentence without what differs between machines: folders and measured errors."""
    text = " ".join(why.split())
    text = re.sub(r"(?i)\b(the (weights|configuration|tokenizer) of )?(model )?'[^']*/model'", "It", text)
    text = re.sub(r" \((relative (error|difference)|RuntimeError|ValueError)[^()]*\)", "", text)
    return text.removeprefix(f"{name} cannot be collected: ")


def _sites(sites: list[str]) -> str:
    ordinary = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "mlp_post", "z", "v", "rot_q", "rot_k")
    missing = [f"`{site}`" for site in ordinary if site not in sites]
    return f"all but {', '.join(missing)}" if missing else "all"


if __name__ == "__main__":
    main()
