"""How a command ends: its exit code, and the message of a mistake."""

import sys
from collections.abc import Callable

from ...lake.errors import LakeError
from ..terminal import say
from . import streams

INTERRUPTED = 130
"""Exit code of what Ctrl-C ended."""


def outcome(command: Callable[[], object]) -> int:
    """Run a command on guarded streams; the exit code of how it ended, errors of ours said on stderr."""
    streams.prepare()
    try:
        code = _said(command)
        return code or _said(sys.stdout.flush)  # what could not be written is no success
    finally:
        streams.restore()


def _said(step: Callable[[], object]) -> int:
    try:
        step()
    except LakeError as error:
        say(f"lake: {error}")
        return error.exit_code
    except KeyboardInterrupt:
        return _interrupted()
    except SystemExit as ended:
        if ended.code == INTERRUPTED:  # what typer makes of Ctrl-C, without a word
            return _interrupted()
        if isinstance(ended.code, str):
            say(ended.code)
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    return 0


def _interrupted() -> int:
    say("lake: interrupted")
    return INTERRUPTED
