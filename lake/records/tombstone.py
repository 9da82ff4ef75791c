"""The tombstone of a removed run: what hides it, whatever is left of it on disk."""

from .. import layout
from ..errors import DamageError
from ..json_values import Time, check_types, parse
from ..storage.store import Store
from . import commits
from .run_json import TOMBSTONES, RunJson


def bury(store: Store, run_id: str, digest: str, draft: str) -> None:
    """Publish the tombstone of a run whose run.json has this digest (empty if it cannot be read)."""
    body = {"run_id": run_id, "removed_at": commits.now(), "run_json": digest}
    commits.publish(store, commits.sealed(body)[0], layout.tombstone(run_id), draft=draft)


def check_tombstone(store: Store, run_id: str, run_json: RunJson | None, digest: str | None) -> None:
    """DamageError if what lies there is not the tombstone of this run: a run must not vanish by a stray file."""
    what = f"The tombstone of run {run_id}"
    data = commits.read(store, layout.tombstone(run_id), run_id)
    if data.startswith(b'{"sha256"'):
        body, _ = commits.unsealed(data, what)
    else:
        if run_json is not None and run_json.get(TOMBSTONES) == "sealed":
            raise DamageError(f"{what} was not written by `lake rm`. Run `lake verify` to see what is hit.")
        body = parse(data, what)
    check_types(body, {"run_id": str, "removed_at": Time, "run_json": str}, what)
    if body.get("run_id") != run_id or "removed_at" not in body:
        raise DamageError(f"{what} is of run {body.get('run_id')!r}: somebody put it there. Run `lake verify`.")
    if digest and body.get("run_json") and body["run_json"] != digest:
        raise DamageError(f"{what} is of another run.json than the one that is there. Run `lake verify`.")
