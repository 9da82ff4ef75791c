"""Options of `lake collect` that need more than a line to explain themselves."""

from typing import Annotated

import typer

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
EmbedScope = Annotated[list[str] | None, typer.Option(help="prompt+completion, completion or window:N; may repeat.")]
