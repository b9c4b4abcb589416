"""What reaches the server: Gradio has more addresses than the page needs, and trusts what a client says of files."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

READ = re.compile(
    r"/|/(config|theme\.css|favicon\.ico|manifest\.json|robots\.txt)|/(assets|static)/.+"
    r"|/gradio_api/(info|theme\.css|app_id|startup-events|upload_progress|queue/data|heartbeat/\w+|file=.+)"
)
"""What a client may read. Not among it are Gradio's proxy, its history on the hub, and its recorder."""
WRITE = re.compile(r"/gradio_api/(upload|queue/join|cancel|reset)")
"""Where a client may send something to."""
LONGEST = 1_000_000
"""The most bytes of what a client says without uploading: a question and some settings."""
SEALS = (
    (
        b"content-security-policy",
        b"default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; frame-ancestors 'self'; object-src 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
)
"""Headers of every answer: browsers load nothing from elsewhere, and show the page in no other site's frame. Gradio's
own page has inline scripts and styles."""
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
"""Names of this machine, for itself."""


@dataclass(frozen=True)
class Rules:
    """What is let through.

    Attributes:
        folder: Where uploads are. A client may name no other file.
        upload_bytes: The most bytes of an upload.
        hosts: The names under which the server may be called. None for any.
    """

    folder: Path
    upload_bytes: int
    hosts: frozenset[str] | None


class Refusal(Exception):
    """A request that is not let through.

    Args:
        status: HTTP status.
        why: One line.
    """

    def __init__(self, status: int, why: str):
        super().__init__(why)
        self.status = status


class Guard:
    """ASGI middleware that refuses what the page never asks for.

    Another site's page may send requests to this machine, also under a name of its own (DNS rebinding). So a request
    has to call the server by a name of its own, and must not come from another site's page.

    Args:
        app: What is guarded.
        rules: What is let through.
    """

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]], rules: Rules):
        self._app, self._rules = app, rules

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        try:
            if scope["type"] != "http":
                raise Refusal(403, f"no {scope['type']} here")
            self._check(scope)
            if scope["method"] == "POST" and scope["path"] != "/gradio_api/upload":
                receive = await self._checked(receive)
        except Refusal as error:
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008, "reason": str(error)})
                return
            text = str(error).encode()
            kind = [(b"content-type", b"text/plain; charset=utf-8")]
            await send({"type": "http.response.start", "status": error.status, "headers": kind})
            await send({"type": "http.response.body", "body": text})
            return

        async def sealed(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), *SEALS]}
            await send(message)

        await self._app(scope, receive, sealed)

    def _check(self, scope: Scope) -> None:
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        host, rules = headers.get("host", ""), self._rules
        if rules.hosts is not None and urlsplit(f"//{host}").hostname not in rules.hosts:
            raise Refusal(403, "the server has other names: use the address that it printed, or start it with --host")
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != host:
            raise Refusal(403, "pages of other sites may not use this server")
        path, method = scope["path"], scope["method"]
        if method in ("GET", "HEAD"):
            if not READ.fullmatch(path):
                raise Refusal(404, "there is nothing here")
            if path.startswith("/gradio_api/file="):
                self._require_upload(path.partition("=")[2])
        elif method != "POST" or not WRITE.fullmatch(path):
            raise Refusal(404, "there is nothing here")
        elif not headers.get("content-length", "").isdecimal():
            raise Refusal(411, "say how long it is")
        else:
            most = rules.upload_bytes + LONGEST if path.endswith("/upload") else LONGEST
            if int(headers["content-length"]) > most:
                raise Refusal(413, f"at most {most} bytes are accepted")

    async def _checked(self, receive: Receive) -> Receive:
        """Read what was said, check the files that it names, and return a `receive` that gives it once more."""
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise Refusal(400, "the client has gone")
            body, more = body + message.get("body", b""), message.get("more_body", False)
            if len(body) > LONGEST:
                raise Refusal(413, f"at most {LONGEST} bytes are accepted")
        try:
            said = json.loads(body or b"null")
        except (ValueError, RecursionError) as error:
            raise Refusal(400, "that is no JSON") from error
        for path in named_files(said):
            self._require_upload(path)
        again = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay() -> Message:
            return again.pop() if again else await receive()

        return replay

    def _require_upload(self, path: object) -> None:
        """Refuse a file that is no upload, such as another one of this machine, or a URL, which Gradio would fetch."""
        folder = self._rules.folder.resolve()
        if not isinstance(path, str) or "\0" in path or not Path(path).is_absolute():
            raise Refusal(403, "only uploaded files may be named")
        if not Path(path).resolve().is_relative_to(folder):
            raise Refusal(403, "only uploaded files may be named")


def named_files(said: object) -> Iterator[object]:
    """Yield the path of each file object in JSON: what a key "path" holds, unless that is null."""
    waiting = [said]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            if one.get("path") is not None:
                yield one["path"]
            waiting += one.values()
        elif isinstance(one, list):
            waiting += one
