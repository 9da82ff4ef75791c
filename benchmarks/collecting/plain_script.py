"""Collection against the script that people write today: `generate` with all outputs, numbers one by one, JSON."""

import json
import math
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from benchmarks.collecting.collection import BATCH, EVERYTHING, KEEPS, Collecting
from benchmarks.gpt2_size import prompt_ids, prompt_texts, save_model
from benchmarks.measurement import Quiet, Result, arguments, interleave, ratio_range, speed_ratio
from benchmarks.report import finish

TOPK = 10


class PlainScript:
    """Generates with eager attention and all outputs, summarises scalar by scalar, dumps JSON.

    `dump_all` also writes the attention maps and the scores over the vocabulary as lists, as scripts do that save what
    `generate` returned. Without it only what our collection keeps is written.
    """

    def __init__(self, model: Any, ids: Tensor, new_tokens: int, file: Path, *, dump_all: bool) -> None:
        self.model, self.ids, self.new_tokens, self.file, self.dump_all = model, ids, new_tokens, file, dump_all
        self.n_bytes = 0

    def __call__(self) -> float:
        """One batch to one durable JSON file; returns its seconds."""
        start = time.perf_counter()
        with torch.no_grad():
            output = self.model.generate(
                self.ids,
                attention_mask=torch.ones_like(self.ids),
                max_new_tokens=self.new_tokens,
                do_sample=False,
                output_hidden_states=True,
                output_attentions=True,
                output_scores=True,
                return_dict_in_generate=True,
            )
            steps = [self._step(output, i) for i in range(len(output.scores))]
        with self.file.open("w", encoding="utf-8") as stream:
            json.dump({"sequences": output.sequences.tolist(), "steps": steps}, stream)
            stream.flush()
        seconds = time.perf_counter() - start
        self.n_bytes = self.file.stat().st_size
        self.file.unlink()
        return seconds

    def _step(self, output: Any, step: int) -> list[dict[str, Any]]:
        scores, hidden, attentions = output.scores[step], output.hidden_states[step], output.attentions[step]
        found = []
        for row in range(len(self.ids)):
            entry = {"step": step, "row": row, "token": _token_numbers(scores[row], output.sequences[row], self, step)}
            n_tokens = hidden[0].shape[1]
            entry["layers"] = [
                {"layer": i, "position": p, **_state_numbers(hidden, i, row, p), "vector": state[row, p].tolist()}
                for i, state in enumerate(hidden)
                for p in range(n_tokens)
            ]
            entry["heads"] = [
                {"layer": i, "head": h, "position": p, **_head_numbers(maps[row, h, p])}
                for i, maps in enumerate(attentions)
                for h in range(maps.shape[1])
                for p in range(n_tokens)
            ]
            if self.dump_all:
                entry["attentions"] = [maps[row].tolist() for maps in attentions]
                entry["scores"] = scores[row].tolist()
            found.append(entry)
        return found


def _token_numbers(scores: Tensor, sequence: Tensor, script: PlainScript, step: int) -> dict[str, Any]:
    logprobs = torch.log_softmax(scores, -1)
    token = int(sequence[script.ids.shape[1] + step])
    best = logprobs.topk(TOPK)
    return {
        "token_id": token,
        "logprob": logprobs[token].item(),
        "entropy": -(logprobs.exp() * logprobs).sum().item() / math.log(2),
        "rank": (scores > scores[token]).sum().item(),
        "top1_prob": best.values[0].exp().item(),
        "margin": (best.values[0].exp() - best.values[1].exp()).item(),
        "top10_mass": best.values.exp().sum().item(),
        "topk_ids": best.indices.tolist(),
        "topk_logprobs": best.values.tolist(),
    }


def _state_numbers(hidden: tuple[Tensor, ...], layer: int, row: int, position: int) -> dict[str, float]:
    state = hidden[layer][row, position]
    numbers = {
        "l2_norm": state.norm().item(),
        "mean": state.mean().item(),
        "std": state.std().item(),
        "max_abs": state.abs().max().item(),
        "n_nan": state.isnan().sum().item(),
        "n_inf": state.isinf().sum().item(),
    }
    if layer > 0:
        below = hidden[layer - 1][row, position]
        numbers["cos_prev_layer"] = torch.cosine_similarity(state, below, dim=0).item()
        numbers["delta_norm"] = (state - below).norm().item()
    if position > 0:
        numbers["cos_prev_position"] = torch.cosine_similarity(state, hidden[layer][row, position - 1], dim=0).item()
    return numbers


def _head_numbers(weights: Tensor) -> dict[str, float]:
    top = weights.max(-1)
    return {
        "entropy": -(weights * (weights + 1e-12).log2()).sum().item(),
        "max_weight": top.values.item(),
        "max_key": top.indices.item(),
    }


def main() -> None:
    """Measure and store."""
    options = arguments(__doc__).parse_args()
    length, new_tokens = (4, 3) if options.quick else (32, 48)
    settings = {"batch": BATCH, "prompt tokens": length, "new tokens": new_tokens, "threads": torch.get_num_threads()}
    result = Result("plain_script", "Collection against a plain script, GPT-2 size", settings)
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        scratch = Path(folder)
        model = save_model(scratch / "model", quick=options.quick)
        eager = AutoModelForCausalLM.from_pretrained(model, attn_implementation="eager").eval()
        ids = prompt_ids(BATCH, length)
        ours = Collecting(scratch / "lake", model, prompt_texts(ids), KEEPS[EVERYTHING], new_tokens)
        scripts = {
            "script, the same content": PlainScript(eager, ids, new_tokens, scratch / "same.json", dump_all=False),
            "script, everything dumped": PlainScript(eager, ids, new_tokens, scratch / "all.json", dump_all=True),
        }
        cases = {"collection": ours, **scripts}
        found = interleave(
            cases, options.repeats or (1 if options.quick else 3), warm_up=False, quiet=Quiet(options.patience)
        )
    table = result.table(
        "One batch", "case", "tokens/s", "rounds", "bytes per token", "times slower", "times the bytes"
    )
    table.add(
        "collection", round(ours.n_tokens / found["collection"].median, 1), found["collection"].spread,
        round(ours.n_bytes / ours.n_tokens), 1.0, 1.0,
    )  # fmt: skip
    for name, script in scripts.items():
        faster, smaller = speed_ratio(found["collection"], found[name]), script.n_bytes / ours.n_bytes
        rate, size = ours.n_tokens / found[name].median, script.n_bytes / ours.n_tokens
        table.add(name, round(rate, 1), found[name].spread, round(size), round(faster, 2), round(smaller, 2))
        result.promise(f"{name}: times as fast", 5.0, faster)
        result.promise(f"{name}: times fewer bytes", 20.0, smaller)
        result.notes.append(f"{name}: {ratio_range(found['collection'], found[name])} times slower in single rounds.")
    result.notes.append(
        "The script describes generated tokens' distributions only, never syncs its file to disk and does not read the "
        "last token; the collection does all three. Vectors are float32 on both sides."
    )
    finish(result, options)


if __name__ == "__main__":
    main()
