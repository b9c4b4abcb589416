"""vidcom2 bench serving: time to first token and tokens per second of two servers, dense and compressed, under load."""

from __future__ import annotations

import argparse
import json
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.request import Request, urlopen

from rich.console import Console

from llava.model.builder import resolve_dtype
from llava.video import FrameSampling
from vidcom2 import compressor

from ..models import Protocol, environment
from ..models.random_weights import write_checkpoint
from ..models.served import require_vllm, served
from ..results.files import prepare_json, write_json
from ..results.terminal import stdout
from ..run.flags import require_at_least
from ..run.setup import Unsuitable
from .arguments import choose_device, dtype_of, numbers, require_drops
from .pipeline import choose_model, write_videos
from .rounds import machine
from .tables import new_table, print_table

STARTS_WITHIN = 600.0
"""Seconds after which a server that does not answer has failed."""
CACHES = ("prefix", "mm", "encoder")
"""What a server forgets before each round."""
NOTES = (
    "A request is a question about a video file of its own; so many are open at a time. TTFT is the median time to the "
    "first token, from video file to text. tokens/s counts the tokens of all answers, over the time of all requests; "
    "videos/s likewise. Each is the median of the rounds.",
    "Both servers take turns in one run and forget everything before each round. faster is dense divided by compressed "
    "for TTFT, compressed divided by dense for tokens/s.",
)


@dataclass(frozen=True)
class Server:
    """A running server of vLLM.

    Attributes:
        url: Where it is.
        model: What it calls the model.
        process: The server.
        log: Its output.
    """

    url: str
    model: str
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def end(self) -> str:
        """The end of its output."""
        return self.log.read_text(encoding="utf-8")[-3000:]

    def forget(self) -> None:
        """Empty its caches."""
        for cache in CACHES:
            urlopen(Request(f"{self.url}/reset_{cache}_cache", method="POST"), timeout=60).close()

    def ask(self, video: str, question: str, new_tokens: int) -> float:
        """Ask about a video file, for exactly `new_tokens` tokens. Returns the seconds until the first one.

        Raises:
            openai.OpenAIError: The server refuses.
            RuntimeError: It says nothing.
        """
        from openai import OpenAI

        content = [{"type": "video_url", "video_url": {"url": f"file://{video}"}}, {"type": "text", "text": question}]
        client = OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=STARTS_WITHIN)
        begin = time.perf_counter()
        stream: Any = client.chat.completions.create(
            model=self.model,
            messages=[{"role": "user", "content": content}],  # type: ignore[misc, list-item]
            temperature=0,
            max_tokens=new_tokens,
            stream=True,
            extra_body={"ignore_eos": True, "return_token_ids": True},
        )
        first = None
        for part in stream:
            if first is None and part.choices and getattr(part.choices[0], "token_ids", None):
                first = time.perf_counter() - begin
        if first is None:
            raise RuntimeError(f"{self.url} gave no token for {video}")
        return first


def prepare_serving(arguments: argparse.Namespace) -> Callable[[], int]:
    """Check the arguments; return a function that starts servers, measures, prints and writes."""
    require_at_least(1, arguments, "videos", "zoom", "new_tokens", "repeats")
    concurrent = numbers("--concurrent", arguments.concurrent, 1, "1,8")
    require_drops(arguments.compressor)
    if arguments.dtype is not None:
        resolve_dtype(arguments.dtype)
    require_vllm()
    with TemporaryDirectory() as folder:
        _, protocol = choose_model(arguments, Path(folder))
        frames_of(protocol)
        served(compressor(arguments.compressor), protocol)
    prepare_json(arguments.json)
    return partial(run_serving, arguments, concurrent)


def run_serving(arguments: argparse.Namespace, concurrent: list[int]) -> int:
    """Start two servers, measure them in turns, print the table and write the JSON file, if one is named."""
    device = choose_device(arguments.device)
    with TemporaryDirectory() as folder, ExitStack() as stack:
        path, protocol = choose_model(arguments, Path(folder))
        dtype = dtype_of(arguments, protocol, device)
        if arguments.random_weights:
            write_checkpoint(path, dtype)
        videos = list(write_videos(Path(folder) / "videos", arguments.videos, arguments.duration, arguments.zoom))
        settings = {"dense": "none", arguments.compressor: arguments.compressor}
        flags = [path, "--dtype", dtype, "--allowed-local-media-path", folder, "--max-model-len", "-1"]
        flags += ["--gpu-memory-utilization", "0.4", "--served-model-name", "measured"]
        flags += ["--media-io-kwargs", json.dumps({"video": {"num_frames": frames_of(protocol)}})]
        if device.type == "cpu":
            flags += ["--enforce-eager"]
        servers = {
            name: stack.enter_context(serve(spec, flags, Path(folder) / f"{i}.log"))
            for i, (name, spec) in enumerate(settings.items())
        }
        results = {
            str(number): measure(servers, videos, number, arguments.repeats, arguments.new_tokens)
            for number in concurrent
        }
    print_results(stdout(), results, f"{len(videos)} videos, {arguments.compressor}, {device}")
    if arguments.json is not None:
        names = ("compressor", "duration", "zoom", "new_tokens", "repeats")
        model = {"model": Path(path).name, "random_weights": bool(arguments.random_weights), "dtype": dtype}
        model["frames"] = frames_of(protocol)
        chosen = {**model, **{name: getattr(arguments, name) for name in names}, "videos": len(videos)}
        write_json(arguments.json, {**machine(device), **chosen, "notes": NOTES, "concurrent": results})
    return 0


def frames_of(protocol: Protocol) -> int:
    """Return how many frames the servers take of a video.

    Raises:
        ValueError: The sampling gives no fixed number.
    """
    sampling = protocol.sampling
    if not isinstance(sampling, FrameSampling) or sampling.kind != "uniform":
        raise ValueError(f"a server takes a number of frames, not {sampling}: set --sampling, such as uniform:32")
    return sampling.max_frames


@contextmanager
def serve(spec: str, flags: Sequence[str], log: Path) -> Iterator[Server]:
    """Run a server.

    Args:
        spec: The compressor.
        flags: The model and flags of `vllm serve`.
        log: Where its output goes.

    Raises:
        Unsuitable: It does not start.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--port", str(port), "--model", *flags]
    with log.open("w", encoding="utf-8") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env=environment.of_server(spec))
    server = Server(f"http://127.0.0.1:{port}", "measured", process, log)
    try:
        wait(server)
        yield server
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:  # what was measured must not be lost for that
            process.kill()


def wait(server: Server) -> None:
    """Wait until a server answers. Raises Unsuitable, with the end of its output, if it does not."""
    until = time.monotonic() + STARTS_WITHIN
    while server.process.poll() is None and time.monotonic() < until:
        try:
            urlopen(f"{server.url}/health", timeout=5).close()
            return
        except OSError:
            time.sleep(0.5)
    raise Unsuitable(f"the server did not start:\n{server.end}")


@contextmanager
def running(name: str, server: Server) -> Iterator[None]:
    """Turn errors of asking a server into Unsuitable, with the end of its output, where it has ended.

    Its engine may have been killed for memory, of which every server needs its share.
    """
    try:
        yield
    except Exception:
        with suppress(subprocess.TimeoutExpired):
            server.process.wait(30)
            raise Unsuitable(
                f"the server of {name} ended while it was measured (exit status {server.process.returncode}). Was the "
                f"memory too small for all servers?\n{server.end}"
            ) from None
        raise


def measure(
    servers: dict[str, Server], videos: Sequence[tuple[str, str]], concurrent: int, rounds: int, new_tokens: int
) -> dict[str, dict[str, Any]]:
    """Ask servers in turns. A first round is not counted.

    Args:
        servers: By name. The first is the one that others are compared with.
        videos: Files with their questions; each is one request.
        concurrent: Requests that are open at a time.
        rounds: Rounds that count.
        new_tokens: Tokens of an answer.

    Returns:
        By server: seconds of every round, and figures as NOTES defines them.
    """
    firsts: dict[str, list[float]] = {name: [] for name in servers}
    seconds: dict[str, list[float]] = {name: [] for name in servers}
    for i in range(rounds + 1):
        for name, server in servers.items():
            with running(name, server), ThreadPoolExecutor(concurrent) as pool:
                server.forget()
                begin = time.perf_counter()
                first = list(pool.map(lambda one, server=server: server.ask(*one, new_tokens), videos))
            if i > 0:
                seconds[name].append(round(time.perf_counter() - begin, 4))
                firsts[name].append(round(statistics.median(first), 4))
    return {
        name: {
            "seconds": seconds[name],
            "time_to_first_token": statistics.median(firsts[name]),
            "tokens_per_second": new_tokens * len(videos) / statistics.median(seconds[name]),
            "videos_per_second": len(videos) / statistics.median(seconds[name]),
        }
        for name in servers
    }


def print_results(console: Console, results: dict[str, dict[str, dict[str, Any]]], title: str) -> None:
    """Print the table and its notes. results: by number of concurrent requests and server."""
    table = new_table(title, "concurrent", ("TTFT s", "faster", "tokens/s", "faster", "videos/s"))
    for number, lines in results.items():
        dense = next(iter(lines.values()))
        for name, line in lines.items():
            first, tokens = line["time_to_first_token"], line["tokens_per_second"]
            table.add_row(
                number,
                name,
                f"{first:.2f}",
                f"{dense['time_to_first_token'] / first:.2f}",
                f"{tokens:.1f}",
                f"{tokens / dense['tokens_per_second']:.2f}",
                f"{line['videos_per_second']:.2f}",
            )
        table.add_section()
    print_table(console, table, NOTES)
