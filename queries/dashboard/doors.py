"""What stands before the dashboard: checks whom a request is for and from, and that the page is not framed."""

import os
import sys
import threading
from typing import Any

from ...lake.values import Json
from ..hosts import HEADERS, Hosts

VARIABLE = "TRACELAKE_ALLOWED_HOSTS"
_REFUSED = 1008  # a WebSocket's close code: policy violation


class Doors:
    """ASGI middleware over the whole server, WebSockets and files included."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self.hosts = Hosts.of(*os.environ.get(VARIABLE, "").split())

    async def __call__(self, scope: Json, receive: Any, send: Any) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] not in ("http", "websocket"):
            return await self.app(scope, receive, send)
        socket = scope["type"] == "websocket"
        named = {name: [v.decode("latin-1") for k, v in scope["headers"] if k == name] for name in (b"host", b"origin")}
        refused = self.hosts.refusal(named[b"host"], named[b"origin"], needs_origin=socket)
        if refused is None:
            return await self.app(scope, receive, send if socket else _guarded(send))
        if socket:
            return await send({"type": "websocket.close", "code": _REFUSED})
        body = f"{refused}\n".encode()
        headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
        await _guarded(send)({"type": "http.response.start", "status": 403, "headers": headers})
        return await send({"type": "http.response.body", "body": body})


def _guarded(send: Any) -> Any:
    """`send` with our headers in the place of what the application says of the same name."""
    ours = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
    names = {name for name, _ in ours}

    async def guarded(message: Json) -> None:
        if message["type"] == "http.response.start":
            kept = [(name, value) for name, value in message["headers"] if name.lower() not in names]
            message = {**message, "headers": [*kept, *ours]}
        await send(message)

    return guarded


def end_with_parent() -> None:
    """End this process when the one that started it does, however that ends: its end of our stdin closes then."""

    def watch() -> None:
        while sys.stdin.buffer.read(1):
            pass
        os._exit(0)  # nothing to save, and threads of Streamlit would go on

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()
