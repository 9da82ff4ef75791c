"""Runs made up for the metrics, and lake metrics as a process."""

import os
import subprocess
import sys

import numpy as np

from tracelake.lake.lake import Lake

CANARIES = ("Xylophon", "Quokka", "zebra-7f3a")


def lake_metrics(*words, **environment):
    return subprocess.run(
        [sys.executable, "-m", "tracelake.cli", "metrics", *map(str, words)],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | environment,
    )


def hand_made(path, run_id="odd-run", n_layers=2, n_nan=0, **run_json):
    """A run of one sequence that kept states but no distributions."""
    lake = Lake.create(path)
    with lake.start_run(run_id, {"kind": "read", "model": {"name": "m", "n_layers": n_layers}} | run_json) as run:
        with run.segment(0, (0, 1)) as segment:
            text = {"prompt": CANARIES[0], "completion": CANARIES[1], "finish_reason": CANARIES[2]}
            counts = {"n_prompt_tokens": 2, "n_generated_tokens": 0}
            segment.append("sequences", {"sequence_id": [0]} | text | counts)
            position = np.arange(2, dtype=np.int32)
            segment.append(
                "token_steps", {"sequence_id": 0, "position": position, "stack": "decoder", "is_prompt": True}
            )
            for layer in range(n_layers):
                place = {"layer": layer, "site": "resid_post", "stack": "decoder"}
                norms = np.array([9, np.inf if n_nan else 2], np.float32)
                counted = {"l2_norm": norms, "n_nan": n_nan, "n_inf": 1 if n_nan else 0}
                segment.append("layer_summaries", {"sequence_id": 0, "position": position} | place | counted)
        run.finish()
    return lake


HOSTILE = 'a"b\\c\nd{e="f"} 1\n# TYPE x counter\r\tü💥,|\x00'
