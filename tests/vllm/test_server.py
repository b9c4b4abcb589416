"""The OpenAI-compatible server, as scripts/serve.sh starts it: a client asks about real videos."""

from __future__ import annotations

import base64
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eval.demo.encode import write_video
from eval.models.packaged import DEMO_MODEL

pytestmark = pytest.mark.skipif(find_spec("vllm") is None, reason="needs vLLM")

ROOT = Path(__file__).parents[2]
QUESTION = "What moves? Answer with one word."
T, M = 32, 36
"""Frames that the server takes of a video, and tokens per frame of the demo model."""


@contextmanager
def server(compressor: str, videos: Path, log: Path, *more: str) -> Iterator[Any]:
    """A running server, as a client of the openai package. more: flags."""
    from openai import OpenAI

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = os.environ | {"PYTHON": sys.executable, "COMPRESSOR": compressor, "VLLM_CPU_KVCACHE_SPACE": "1"}
    env |= {"HF_HUB_OFFLINE": "1"}
    flags = ["--port", str(port), "--dtype", "float32", "--max-model-len", "4096", "--enforce-eager"]
    flags += ["--allowed-local-media-path", str(videos), "--served-model-name", "demo", *more]
    with log.open("w", encoding="utf-8") as out:
        process = subprocess.Popen(
            ["bash", str(ROOT / "scripts/serve.sh"), str(DEMO_MODEL), *flags], stdout=out, stderr=out, env=env
        )
    client = OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0, timeout=120)
    try:
        deadline = time.monotonic() + 240
        while True:
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(log.read_text(encoding="utf-8")[-4000:])
            try:
                client.models.list()
                break
            except Exception:
                time.sleep(1)
        yield client
    finally:
        process.terminate()
        process.wait(60)


def ask(client: Any, url: str, question: str = QUESTION) -> Any:
    """Ask about a video in chat form."""
    content = [{"type": "video_url", "video_url": {"url": url}}, {"type": "text", "text": question}]
    messages = [{"role": "user", "content": content}]
    return client.chat.completions.create(model="demo", messages=messages, temperature=0, max_tokens=8)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with two videos, and a file that is none."""
    root = tmp_path_factory.mktemp("videos")
    for i in range(2):
        frames = np.random.default_rng(i).integers(0, 255, (T, 72, 72, 3), dtype=np.uint8)
        write_video(root / f"{i}.mp4", frames, fps=8)
    (root / "bad.mp4").write_bytes(b"this is no video")
    return root


def test_a_client_asks(videos, tmp_path, capsys):
    from openai import APIStatusError

    log = tmp_path / "log"
    with server("vidcom2@0.25", videos, log) as client:
        one, other = (f"file://{videos}/{i}.mp4" for i in range(2))
        first = ask(client, one)
        text_only = client.chat.completions.create(
            model="demo", messages=[{"role": "user", "content": QUESTION}], temperature=0, max_tokens=8
        )
        video = first.usage.prompt_tokens - text_only.usage.prompt_tokens
        assert 0 <= video - (T * M // 4 + 1) <= 2, "a quarter, a newline, and a line break or two"
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda url: ask(client, url), [one, other] * 4))
        texts = [answer.choices[0].message.content for answer in answers]
        assert texts == texts[:2] * 4
        assert texts[0] == first.choices[0].message.content
        inline = base64.b64encode((videos / "0.mp4").read_bytes()).decode()
        assert ask(client, f"data:video/mp4;base64,{inline}").choices[0].message.content == texts[0]
        code = (ROOT / "docs/serving.md").read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]
        ours = {"http://localhost:8000/v1": str(client.base_url), "/videos/cat.mp4": f"{videos}/0.mp4"}
        for theirs, own in {**ours, "lmms-lab/llava-onevision-qwen2-7b-ov": "demo"}.items():
            code = code.replace(theirs, own)
        exec(code, {})
        assert capsys.readouterr().out.split()[-1].isdecimal(), "the number of tokens"
        with pytest.raises(APIStatusError) as error:
            ask(client, f"file://{videos}/bad.mp4")
        assert 400 <= error.value.status_code < 500
        assert ask(client, other).choices[0].message.content == texts[1], "the server lives on"
    assert "vidcom2 compresses videos with vidcom2@0.25:rounding=exact" in log.read_text(encoding="utf-8")


@pytest.mark.slow
def test_another_setting(videos, tmp_path):
    with server("none", videos, tmp_path / "log") as client:
        assert ask(client, f"file://{videos}/0.mp4").usage.prompt_tokens > T * M
