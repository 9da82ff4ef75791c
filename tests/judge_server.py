"""A judge to test against: a real HTTP server with an OpenAI-compatible address that answers, or misbehaves.

The model's name says how: `good`, `free` (no usage), `priced` (usage.cost), `429`, `500-twice`, `503`, `hang`, `reset`,
`html`, `no-choices`, `prose`, `fence`, `text-false`, `cut`, `by-order`; `solver` writes what
`solutions` has for the problem, `solver-cut` says that it was cut. Asked about features, it names the token that is
marked most often, and recognises passages by it; `chance` answers by the hash of a passage, `none` and `all` name no or
every passage, `out-of-range` one that is not there. `make judge-server` prints its address.
"""

import ast
import json
import re
import socket
import struct
import threading
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "test-key"
USAGE = {"prompt_tokens": 300, "completion_tokens": 20, "total_tokens": 320}
HANG_S = 5.0
_NAMES = r"PROBLEM|SOLUTION \d|DESCRIPTION|PASSAGE \d+"
PARTS = re.compile(rf"<<<({_NAMES}) (\w{{16}})>>>\n(.*?)\n<<<END OF \1 \2>>>", re.DOTALL)


class JudgeServer(ThreadingHTTPServer):
    """What came in, by model, and how many at once."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.calls: Counter[str] = Counter()
        self.bodies: list[dict[str, Any]] = []
        self.times: list[float] = []
        self.most_at_once = 0
        self.pause_s = 0.0
        self.retry_after = "0.05"
        self.solutions: dict[str, str] = {}
        """What `solver` writes, by problem."""
        self._now = 0
        self._lock = threading.Lock()

    @property
    def base_url(self) -> str:
        """The address for a client."""
        return f"http://127.0.0.1:{self.server_port}/v1"

    def begin(self, body: dict[str, Any]) -> int:
        """Note a call; returns how many of its model there were before."""
        with self._lock:
            self.bodies.append(body)
            self.times.append(time.monotonic())
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
            self.calls[body["model"]] += 1
            return self.calls[body["model"]] - 1

    def end(self) -> None:
        """Note that a call is over."""
        with self._lock:
            self._now -= 1


def shown(body: dict[str, Any]) -> dict[str, str]:
    """What a judge that obeys only the system message sees: the parts between markers."""
    return {name: text for name, _, text in PARTS.findall(body["messages"][1]["content"])}


def true_verdict(body: dict[str, Any]) -> bool:
    """Whether both solutions begin differently, as the methods of the bundled problems do."""
    parts = shown(body)
    return parts["SOLUTION 1"].split(":")[0] != parts["SOLUTION 2"].split(":")[0]


MARKED = re.compile(r"\[\[(.*?)\]\]", re.DOTALL)


def feature_reply(model: str, body: dict[str, Any]) -> dict[str, Any]:
    """The reply to a question about a feature: a label that holds a token, or the passages that hold that token."""
    parts = shown(body)
    passages = [text for name, text in parts.items() if name.startswith("PASSAGE")]
    if "DESCRIPTION" not in parts:
        marked = Counter(token for text in passages for token in MARKED.findall(text))
        return {"label": f"the token {min(marked, key=lambda token: (-marked[token], token))!r}"}
    fuzzing = "[[ and ]]" in body["messages"][0]["content"]
    named = [number for number, text in enumerate(passages, 1) if _names(model, parts["DESCRIPTION"], text, fuzzing)]
    return {"right" if fuzzing else "with": [len(passages) + 1] if model == "out-of-range" else named}


def _names(model: str, description: str, passage: str, fuzzing: bool) -> bool:
    if model in ("chance", "none", "all"):
        return model == "all" or (model == "chance" and zlib.crc32(passage.encode()) % 2 == 0)
    token = ast.literal_eval(description.removeprefix("the token "))
    return all(one == token for one in MARKED.findall(passage)) if fuzzing else token in passage


class _Handler(BaseHTTPRequestHandler):
    server: JudgeServer  # pyright: ignore[reportIncompatibleVariableOverride]
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is printed."""

    def do_GET(self) -> None:
        """The list of models; `listed` has a price."""
        price = {"prompt": "0.000001", "completion": "0.000002"}
        self._json(200, {"object": "list", "data": [{"id": "listed", "object": "model", "pricing": price}]})

    def do_POST(self) -> None:
        """One completion, good or bad."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        before = self.server.begin(body)
        try:
            time.sleep(self.server.pause_s)
            if self.headers["Authorization"] != f"Bearer {KEY}":
                self._json(401, {"error": {"message": "no such key"}})
            else:
                self._answer(body["model"], before, body)
        finally:
            self.server.end()

    def _answer(self, model: str, before: int, body: dict[str, Any]) -> None:
        if model.startswith("solver"):
            text = self.server.solutions.get(shown(body)["PROBLEM"], "")
            self._json(200, _said(model, text, cut=model == "solver-cut"))
            return
        parts, distinct = shown(body), False
        if "PROBLEM" in parts:
            distinct = true_verdict(body)
            good = json.dumps({"distinct": distinct, "reason": "They begin differently." if distinct else "The same."})
        else:
            good = json.dumps(feature_reply(model, body))
        if model == "429" and before == 0:
            self._json(429, {"error": {"message": "slow down"}}, {"Retry-After": self.server.retry_after})
        elif (model == "500-twice" and before < 2) or model == "503":
            self._json(int(model[:3]), {"error": {"message": "broken"}})
        elif model == "hang":
            time.sleep(HANG_S)
        elif model == "reset":
            self._reset()
        elif model == "html":
            self._send(200, b"<html><body>Welcome</body></html>", "text/html")
        elif model == "no-choices":
            self._json(200, {"id": "x", "object": "chat.completion", "usage": USAGE})
        else:
            self._json(200, _completion(model, good, parts))

    def _reset(self) -> None:
        """Send half of a body, then reset the connection."""
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(b'{"id": "x", "choices": [')
        self.wfile.flush()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True

    def _json(self, status: int, value: Any, headers: dict[str, str] | None = None) -> None:
        self._send(status, json.dumps(value).encode(), "application/json", headers)

    def _send(self, status: int, data: bytes, kind: str, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)


def _completion(model: str, good: str, parts: dict[str, str]) -> dict[str, Any]:
    solutions = [text for name, text in parts.items() if name.startswith("SOLUTION")]
    content = {
        "prose": "I think that they are distinct.",
        "fence": f"```json\n{good}\n```",
        "text-false": '{"distinct": "false", "reason": "x"}',
        "cut": good[:20],
        "by-order": json.dumps({"distinct": solutions == sorted(solutions), "reason": "by order"}),
    }.get(model, good)
    return _said(model, content, cut=model == "cut")


def _said(model: str, content: str, *, cut: bool) -> dict[str, Any]:
    choice = {
        "index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "length" if cut else "stop",
    }  # fmt: skip
    usage = {} if model == "free" else {"usage": USAGE | ({"cost": 0.0125} if model == "priced" else {})}
    return {"id": "x", "object": "chat.completion", "created": 0, "model": model, "choices": [choice], **usage}


@contextmanager
def judge_server() -> Iterator[JudgeServer]:
    """A server that runs while the context lasts."""
    server = JudgeServer()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


if __name__ == "__main__":
    with judge_server() as running:
        print(f"{running.base_url}  (key: {KEY})", flush=True)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            pass
