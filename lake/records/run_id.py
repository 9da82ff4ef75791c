"""Ids of new runs, and the tags that begin them: one rule, whatever the run is made of."""

import re
import secrets
from datetime import UTC, datetime

from ..errors import UsageError

TAG = re.compile(r"[a-z][a-z0-9_-]{0,39}", re.IGNORECASE | re.ASCII)


def checked_tag(tag: str) -> str:
    """The tag itself; UsageError for one that cannot begin a run's id."""
    if TAG.fullmatch(tag) is None:
        raise UsageError(
            f"--tag {tag!r}: a tag begins with a letter and has at most 40 letters, digits, dashes and underscores."
        )
    return tag


def new_run_id(tag: str) -> str:
    """A sortable id: the tag in small letters, UTC time to the second, four random hex digits."""
    return f"{checked_tag(tag).lower()}-{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
