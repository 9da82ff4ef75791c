"""Every error a user can cause or meet, with the exit code that `lake` gives it.

LakeError (1)
├── UsageError (2)          the call is wrong: options that contradict, a bad value
├── NotFoundError (3)       no such lake, run, model, query, table, column or file
├── ConfigError (4)         the configuration cannot work: unknown key, site, layer, dtype
├── LockedError (5)         another process holds the run
├── DamageError (6)         bytes on disk are not what the records say
├── FailedError (1)         the model, its tokenizer or the device broke a run off; recorded in `runs.error`
├── StoppedError (7)        stopped on purpose or by a limit; resumable
├── DiskFullError (8)       no room; committed segments are safe; resumable
└── NewerFormatError (9)    the lake was written by a newer tracelake

Messages say what happened, what was given, what is possible and what to do next.
"""

import difflib
from collections.abc import Iterable


class LakeError(Exception):
    """Base of all errors that tracelake raises on purpose."""

    exit_code = 1


class UsageError(LakeError):
    """The call contradicts itself or has a value that cannot be."""

    exit_code = 2


class NotFoundError(LakeError):
    """Something named by the user does not exist."""

    exit_code = 3


class ConfigError(LakeError):
    """The configuration cannot work with this model, data or lake."""

    exit_code = 4


class LockedError(LakeError):
    """Another process is writing this run."""

    exit_code = 5


class DamageError(LakeError):
    """A file is missing, torn or changed since it was committed; `run_id` is the run that it belongs to, if known."""

    exit_code = 6

    def __init__(self, message: str, *, run_id: str | None = None) -> None:
        super().__init__(message)
        self.run_id = run_id


class FailedError(LakeError):
    """The model, its tokenizer or the device broke a run off; the reason is in `runs.error`."""


class StoppedError(LakeError):
    """The run was stopped; what is committed is safe and `--resume` completes it."""

    exit_code = 7


class DiskFullError(LakeError):
    """The disk is full; what is committed is safe and `--resume` completes it."""

    exit_code = 8


class NewerFormatError(LakeError):
    """The lake was written by a newer version of tracelake."""

    exit_code = 9


def did_you_mean(given: str, possible: Iterable[str], *, show: int = 12) -> str:
    """The half sentence after an unknown name: the nearest match and what exists."""
    names = list(possible)
    near = difflib.get_close_matches(given, names, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    if not names:
        return f"{hint} There are none."
    rest = f" and {len(names) - show} more" if len(names) > show else ""
    return f"{hint} Possible: {', '.join(names[:show])}{rest}."
