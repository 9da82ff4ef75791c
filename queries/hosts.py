"""Which requests a server on this machine answers: those that a browser on it made to it by a name of its own.

A web page in the next tab can send requests here too: to a name of its own that it lets point here (the `Host` gives it
away), or to our address (then the browser says where it comes from, in `Origin`).
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from ..lake.errors import UsageError

LOOPBACK = ("localhost", "127.0.0.1", "::1")
_NAME = re.compile(r"[a-z0-9_](?:[a-z0-9_.-]{0,252}[a-z0-9_])?|[0-9a-f:.]*:[0-9a-f:.]*")
_HOST = re.compile(r"(?:\[(?P<six>[0-9a-f:.]+)\]|(?P<name>[a-z0-9_.-]+))(?::\d{1,5})?")
HEADERS = {
    "X-Frame-Options": "DENY",
    "Content-Security-Policy": "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
"""What every answer carries: no other page may frame it, load it or learn its address."""


@dataclass(frozen=True)
class Hosts:
    """Names by which a server may be called, without ports, in lower case."""

    names: frozenset[str]

    @classmethod
    def of(cls, *more: str) -> "Hosts":
        """The loopback names and those that were typed; UsageError for what is no host name."""
        for name in more:
            if not _NAME.fullmatch(name.lower()):
                raise UsageError(
                    f"--allow-host {name!r} is no host name. Give it without scheme and port: gpu1.lab.org."
                )
        return cls(frozenset(LOOPBACK) | {name.lower() for name in more})

    def refusal(self, hosts: Iterable[str], origins: Iterable[str], *, needs_origin: bool = False) -> str | None:
        """Why a request with these `Host` and `Origin` headers is not answered; None if it is."""
        hosts, origins = list(hosts), list(origins)
        host = hosts[0].lower() if len(hosts) == 1 else ""
        matched = _HOST.fullmatch(host)
        name = matched and (matched["six"] or matched["name"])
        if name is None or name not in self.names:
            hint = f" To allow it: --allow-host {name}" if name and _NAME.fullmatch(name) else ""
            return f"This server does not answer to the name it was called by.{hint}"
        if not origins and not needs_origin:
            return None
        if len(origins) != 1 or origins[0].lower() not in (f"http://{host}", f"https://{host}"):
            return "This server does not answer other web pages."
        return None
