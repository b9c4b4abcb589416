"""The server: Gradio behind the guard, with a folder of its own that is gone when it ends."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import gradio as gr
from starlette.middleware import Middleware

from ..results.errors import UserError
from .guard import LOOPBACK, Guard, Rules
from .parts import STYLE
from .uploads import Limits

KEPT_FOR, SWEPT_EVERY = 3600, 60
"""Seconds that an upload stays at most, and seconds between looks for such."""
SESSIONS = 100
"""Conversations that are held at most."""
OFFLINE = {
    "GRADIO_ANALYTICS_ENABLED": "False",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "GRADIO_ALLOWED_PATHS": "",
    "GRADIO_SHARE": "False",
}
"""The environment of the server: Gradio reports nothing and shares nothing."""


@dataclass(frozen=True)
class Place:
    """Where the server listens, and what it lets in.

    Attributes:
        host: The address.
        port: The port. None for the first free one from 7860 on.
        limits: How large videos may be.
        waiting: Questions that may wait.
    """

    host: str
    port: int | None
    limits: Limits
    waiting: int

    @property
    def hosts(self) -> frozenset[str] | None:
        """The names that the server goes by. Any, where other machines are let in."""
        return LOOPBACK if self.host in LOOPBACK else None

    def require_free(self) -> None:
        """Check that the server can listen there. Raises PortTaken."""
        try:
            socket.create_server(
                (self.host, self.port or 0), family=socket.AF_INET6 if ":" in self.host else socket.AF_INET
            ).close()
        except OSError as error:
            raise PortTaken(self, error) from error


class PortTaken(UserError):
    """The server cannot listen where it was told to."""

    def __init__(self, place: Place, error: OSError):
        super().__init__(
            f"--host {place.host} --port {place.port} cannot be listened on ({error.strerror or error}): is another "
            "server there? Choose another --port, or an address of this machine"
        )


@contextmanager
def serving(place: Place, build: Callable[[Path, Path], gr.Blocks]) -> Iterator[str]:
    """Serve a page while the block runs.

    Args:
        place: Where.
        build: Makes the page, given the folder for uploads and one for other files. Both are empty.

    Yields:
        The page's address.

    Raises:
        PortTaken: The server cannot listen there.
    """
    with TemporaryDirectory(prefix="vidcom2-web-") as folder:
        uploads, others = Path(folder, "uploads"), Path(folder, "others")
        uploads.mkdir()
        others.mkdir()
        with environment({**OFFLINE, "GRADIO_TEMP_DIR": str(uploads)}):
            page = build(uploads, others)
            page.queue(max_size=place.waiting, default_concurrency_limit=1)
            with started(page, place, Rules(uploads, place.limits.bytes, place.hosts)) as address:
                yield address


@contextmanager
def started(page: gr.Blocks, place: Place, rules: Rules) -> Iterator[str]:
    """Run the server of a page while the block runs, and yield its address. Raises PortTaken."""
    try:
        launch(page, place, rules)
    except OSError as error:
        raise PortTaken(place, error) from error
    try:
        yield str(page.local_url)
    finally:
        page.close(verbose=False)


def launch(page: gr.Blocks, place: Place, rules: Rules) -> None:
    """Start Gradio's server in a thread of its own, with nothing that the page does not need."""
    page.launch(
        server_name=f"[{place.host}]" if ":" in place.host else place.host,
        server_port=place.port,
        prevent_thread_lock=True,
        quiet=True,
        share=False,
        inbrowser=False,
        allowed_paths=[],
        max_file_size=place.limits.bytes,
        state_session_capacity=SESSIONS,
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        ssr_mode=False,
        mcp_server=False,
        num_workers=0,
        pwa=False,
        css_paths=[STYLE],
        theme=gr.themes.Default(primary_hue="blue").set(
            block_info_text_color="*neutral_600",
            block_info_text_color_dark="*neutral_300",
            body_text_color_subdued="*neutral_600",
            body_text_color_subdued_dark="*neutral_300",
        ),
        app_kwargs={"middleware": [Middleware(Guard, rules=rules)]},
    )


@contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables for a with-block."""
    before: dict[str, Any] = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
