"""Runs that were begun here: remembered outside of any lake, so that their settings need not be typed again.

What is remembered is a digest of the whole run.json. A lake that came from elsewhere, or was edited, has another one.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path


def remember(about: Mapping[str, object]) -> None:
    """Note that whoever works on this machine began this run; without a place to note it, nothing is remembered."""
    with suppress(OSError):
        _note(about).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        _note(about).touch(mode=0o600)


def is_remembered(about: Mapping[str, object]) -> bool:
    """Whether a run with exactly this description was begun here and is not finished."""
    return _note(about).is_file()


def forget(about: Mapping[str, object]) -> None:
    """A finished run is not resumed any more."""
    with suppress(OSError):
        _note(about).unlink(missing_ok=True)


def _note(about: Mapping[str, object]) -> Path:
    state = os.environ.get("XDG_STATE_HOME") or os.path.join(os.path.expanduser("~"), ".local", "state")
    content = json.dumps(about, sort_keys=True, default=str).encode()
    return Path(state) / "tracelake" / "begun" / hashlib.sha256(content).hexdigest()
