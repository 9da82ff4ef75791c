"""Write `docs/models.md`: every architecture of the installed transformers, collected and compared with plain passes.

`python docs/models.py` tries those whose result is not known yet; names (`llama`) try only these, again. What was
found is kept in `build/models`. `--check` fails if the page says something else. Not part of the installed package.
"""

import argparse
import hashlib
import json
import multiprocessing
import os
import resource
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parent
TESTS, RESULTS = DOCS.parent / "tests", DOCS.parent / "build" / "models"
SECONDS, BYTES = 600, 6 * 2**30
"""Most wall time and memory of one architecture."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="model types to try again")
    parser.add_argument("--check", action="store_true", help="write no page; fail if it is not current")
    given = parser.parse_args()
    os.environ["PYTHONPATH"] = str(TESTS)
    os.environ["OMP_NUM_THREADS"] = "1"
    sys.path.insert(0, str(TESTS))
    RESULTS.mkdir(parents=True, exist_ok=True)
    from tiny_architectures import model_types

    keys = list(model_types())
    for key in keys:
        if key.split(":")[0] in given.names or (not given.names and not known(key)):
            store(key, tried(key))


def known(key: str) -> bool:
    return path_of(key).is_file() and json.loads(path_of(key).read_text())["fingerprint"] == fingerprint()


def path_of(key: str) -> Path:
    return RESULTS / f"{key.replace(':', '.')}.json"


def fingerprint() -> str:
    return "first"


def store(key: str, outcome: dict[str, Any]) -> None:
    path_of(key).write_text(json.dumps({"fingerprint": fingerprint(), **outcome}, indent=1) + "\n")
    print(
        f"{outcome['verdict']:10}{key}  {outcome['why']} {outcome['problems'][:2]} {outcome['notes'][:3]}"[:400],
        flush=True,
    )


def tried(key: str) -> dict[str, Any]:
    """The outcome of one architecture, from a process of its own: a crash or a hang is an outcome too."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["coverage_case", "pandas"])
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(key, theirs), daemon=True)
    process.start()
    theirs.close()
    outcome = None
    if ours.poll(SECONDS):
        try:
            outcome = ours.recv()
        except EOFError:
            outcome = None
    process.join(5)
    if process.is_alive():
        process.kill()
        process.join()
    if outcome is None:
        why = f"the process ended with {process.exitcode}"
        outcome = {
            "architecture": key,
            "verdict": "traceback",
            "why": why,
            "problems": [],
            "notes": [],
            "sites": [],
            "heads": None,
            "scale": None,
        }
    return outcome


def _child(key: str, answer: Any) -> None:
    from dataclasses import asdict

    import torch
    from coverage_case import run

    resource.setrlimit(resource.RLIMIT_DATA, (BYTES, BYTES))
    torch.set_num_threads(1)
    answer.send(asdict(run(key)))


if __name__ == "__main__":
    main()
