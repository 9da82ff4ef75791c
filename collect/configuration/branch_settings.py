"""Which settings of a collection fit together that goes on from stored sequences."""

import re
from typing import TYPE_CHECKING

from .keep import Keep

if TYPE_CHECKING:
    from .config import CollectConfig


def check_branches(config: "CollectConfig") -> None:
    """ValueError for settings of stored sequences that do not fit together."""
    if not config.goes_on:
        if named := [name for name in ("sequence", "at", "force") if getattr(config, name)]:
            raise ValueError(f"{named[0]} belongs to --branch-from RUN or --continue RUN")
        return
    others = [name for name in ("prompt", "prompts", "dataset", "given") if getattr(config, name)]
    if others or (config.branch_from and config.continue_run):
        other = f"--{others[0]}" if others else "--continue"
        raise ValueError(f"the stored sequences of a run are the prompts; leave out {other}")
    if config.branch_from and not config.at:
        raise ValueError("--branch-from needs --at STEP or --at every:K: where the branches leave their parents")
    if config.continue_run and (config.at or config.force):
        raise ValueError("--continue goes on from the end; --at and --force belong to --branch-from")
    for text in config.at:
        if re.fullmatch(r"\d+|every:[1-9]\d*", text) is None:
            raise ValueError(f"--at is a step or every:K, not {text!r}")
    if config.branch_from and config.max_new_tokens == 0 and config.force is None:
        raise ValueError("--max-new-tokens 0 and no --force: the branches would have no token of their own")
    if config.branch_from and not config.observe_prompt:
        raise ValueError("the prompt of a branch is its parent's and never observed; leave out --no-prompt")
    if config.branch_from and "prompt" in Keep.parse(config.keep).edges:
        raise ValueError("the prompt of a branch is its parent's and never observed; keep edges:generated")
