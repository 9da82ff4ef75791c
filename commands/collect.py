"""`lake collect`: its options, one for one the fields of `CollectConfig`."""

from pathlib import Path
from typing import Annotated

import typer

from .terminal import HERE, AsJson, LakePath

Keep = Annotated[
    list[str] | None,
    typer.Option(
        help="tokens, layers, heads, edges, embeddings, "
        "activations:SITE[@LAYERS][:prompt|:generated|:last]; may repeat."
    ),
]
StopWhen = Annotated[
    list[str] | None,
    typer.Option(metavar="RULE", help="End a sequence: `entropy_bits > 6 and margin < 0.1 for 5`; may repeat."),
]
ObservePrompt = Annotated[
    bool | None,
    typer.Option("--prompt-telemetry/--no-prompt", help="Observe the prompt, or only what is generated."),
]
StrictTimings = Annotated[
    bool | None, typer.Option("--strict-timings", help="Measure what observing costs; see `lake show --timings`.")
]
AllowMissing = Annotated[
    bool | None, typer.Option("--allow-missing", help="Run a model whose checkpoint lacks weights, with random ones.")
]
EmbedScope = Annotated[list[str] | None, typer.Option(help="prompt+completion, completion or window:N; may repeat.")]


def collect(
    model: Annotated[str | None, typer.Option(help="Hugging Face id, folder, or the bundled `tinymath`.")] = None,
    revision: Annotated[str | None, typer.Option(help="Revision of the model repository.")] = None,
    prompt: Annotated[list[str] | None, typer.Option(help="A prompt; may repeat.")] = None,
    prompts: Annotated[str | None, typer.Option(help="File: text (a prompt per line), JSONL, CSV or Parquet.")] = None,
    dataset: Annotated[str | None, typer.Option(help="NAME[:SPLIT], e.g. tinymath:test or a hub dataset.")] = None,
    limit: Annotated[int | None, typer.Option(help="Only the first N items.")] = None,
    max_new_tokens: Annotated[int | None, typer.Option(help="Most tokens to generate; 0 only reads.")] = None,
    keep: Keep = None,
    samples: Annotated[int | None, typer.Option(help="Completions per prompt.")] = None,
    temperature: Annotated[float | None, typer.Option(help="0 is greedy; 1 if --samples > 1.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Sample from the smallest set with this mass.")] = None,
    top_k: Annotated[int | None, typer.Option(help="Sample from this many best tokens.")] = None,
    min_p: Annotated[float | None, typer.Option(help="Drop tokens below this share of the best.")] = None,
    repetition_penalty: Annotated[float | None, typer.Option(help="Penalty for tokens already seen; 1 is off.")] = None,
    stop: Annotated[list[str] | None, typer.Option(help="Text that ends a sequence; may repeat.")] = None,
    stop_when: StopWhen = None,
    chat: Annotated[str | None, typer.Option(help="Chat template: auto, on or off.")] = None,
    on_long: Annotated[str | None, typer.Option(help="Too long a prompt: error, truncate or split.")] = None,
    dtype: Annotated[str | None, typer.Option(help="Model format: auto, float32, float16, bfloat16.")] = None,
    store_dtype: Annotated[str | None, typer.Option(help="Stored format: auto, float32, float16, bfloat16.")] = None,
    max_bytes: Annotated[int | None, typer.Option(help="Stop cleanly after this many bytes.")] = None,
    segment_items: Annotated[int | None, typer.Option(help="Prompts per segment.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, mps or auto.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Sequences per batch.")] = None,
    tag: Annotated[str | None, typer.Option(help="Label of the run; begins its id.")] = None,
    seed: Annotated[int | None, typer.Option(help="Run seed.")] = None,
    topk: Annotated[int | None, typer.Option(help="Best tokens kept per position.")] = None,
    attn_implementation: Annotated[str | None, typer.Option(help="Attention implementation to compute with.")] = None,
    observe_prompt: ObservePrompt = None,
    strict_timings: StrictTimings = None,
    edge_threshold: Annotated[float | None, typer.Option(help="Keep attention edges heavier than this.")] = None,
    edge_cap: Annotated[int | None, typer.Option(help="Most attention edges per prompt, layer and head.")] = None,
    embedder: Annotated[str | None, typer.Option(help="Sentence-transformers model for embeddings.")] = None,
    embed_scope: EmbedScope = None,
    trust_remote_code: Annotated[bool | None, typer.Option(help="Run code from the model repository.")] = None,
    allow_missing: AllowMissing = None,
    config: Annotated[Path | None, typer.Option(help="YAML file of these settings.")] = None,
    resume: Annotated[str | None, typer.Option(metavar="RUN", help="Complete an interrupted run.")] = None,
    dry_run: Annotated[bool, typer.Option(help="Print tokens, bytes and files; write nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Start even if half of the free disk may fill.")] = False,
    as_json: AsJson = False,
    lake: LakePath = HERE,
) -> None:
    """Run a model and record every token, layer, head and activation asked for.

    Settings come from --config, then TRACELAKE_* variables, then these options. Defaults are in docs/cli.md.
    """
    flags = dict(locals())
    for name in ("config", "resume", "dry_run", "yes", "as_json", "lake"):
        flags.pop(name)
    flags = {name: value for name, value in flags.items() if value not in (None, [])}
    from .collect_run import run_collect

    run_collect(lake, flags, config=config, resume=resume, dry_run=dry_run, assume_yes=yes, as_json=as_json)
