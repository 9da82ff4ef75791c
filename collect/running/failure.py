"""A run that breaks off by itself: why, in words that say what to do, recorded before the error reaches the caller."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from traceback import extract_tb

import torch

from ...lake.errors import DiskFullError, FailedError, LakeError, LockedError, StoppedError
from ...lake.writing.writer import RunWriter

NOT_FAILURES = (StoppedError, DiskFullError, LockedError, KeyboardInterrupt, SystemExit, GeneratorExit)
"""What interrupts a run without anything being wrong with it: it is `interrupted`, not `failed`."""
LONGEST_REASON = 500


def reason(error: BaseException, batch_size: int) -> str:
    """One sentence that names what broke, without line breaks."""
    words = " ".join(str(error).split())[:LONGEST_REASON]
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return f"out of memory with --batch-size {batch_size} ({words or type(error).__name__})"
    if isinstance(error, LakeError):
        return words
    raised = extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}{': ' if words else ''}{words} ({Path(raised.filename).name}:{raised.lineno})"


def _advice(error: BaseException, command: str, batch_size: int) -> str:
    again = f"What is committed is safe; `{command}` goes on where it broke"
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        smaller = max(1, batch_size // 2)
        start = f"Start a new run with --batch-size {smaller}, shorter prompts (--on-long truncate) or less to --keep"
        return f"{start}. {again} with the same batches, once there is more memory."
    return f"{again}, if the cause is mended."


@contextmanager
def failing_said(run: RunWriter, batch_size: int, command: str) -> Iterator[None]:
    """Record a failure inside the block as the run's end, and raise it as a FailedError; `command` resumes the run.

    Errors of ours keep their kind and exit code. A run that was stopped, or has no room, is `interrupted` instead.
    """
    try:
        yield
    except NOT_FAILURES:
        raise
    except BaseException as error:
        why = reason(error, batch_size)
        with suppress(LakeError):  # a store that cannot be written must not hide what happened
            run.finish("failed", error=why)
        if isinstance(error, LakeError):
            raise
        raise FailedError(f"Run {run.run_id} failed: {why}. {_advice(error, command, batch_size)}") from error
