"""`vidcom2 web`: what is wrong with its flags is one line, and its script installs nothing when asked for help."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from eval.cli import main
from eval.web.command import models_of
from eval.web.server import environment
from llava.video import FrameSampling

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--max-mb", "0"], "--max-mb 0 must be more than 0"),
        (["--max-minutes", "-1"], "--max-minutes -1 must be more than 0"),
        (["--queue", "0"], "--queue 0 must be more than 0"),
        (["--max-new-tokens", "0"], "--max-new-tokens 0 must be more than 0"),
        (["--port", "70000"], "--port 70000 must be from 1 to 65535"),
        (["--sampling", "all"], "sampling 'all'"),
        (["--model", "/nowhere"], "--model /nowhere"),
    ],
    ids=str,
)
def test_wrong_flags(flags, line, capsys):
    assert main(["web", *flags]) == 1
    (said,) = [one for one in capsys.readouterr().err.splitlines() if one != "loading ..."]
    assert said.startswith("error: ")
    assert line in said


def test_models(onevision, llava_video):
    demos = models_of(None)
    assert list(demos) == ["demo model llava-onevision", "demo model llava-video"]
    for offer in demos.values():
        _, protocol = offer.open.args
        assert protocol.sampling == FrameSampling("uniform", max_frames=32)  # the units of a scene
    own = models_of([str(onevision), str(llava_video)], "uniform:4")
    assert list(own) == [onevision.name, llava_video.name]
    assert all(offer.open.args[1].sampling.max_frames == 4 for offer in own.values())
    with pytest.raises(ValueError, match="name it once"):
        models_of([str(onevision), str(onevision)])


def test_without_gradio(monkeypatch, capsys):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "gradio" else found(name))
    monkeypatch.delitem(sys.modules, "eval.web.command")
    assert main(["web"]) == 1
    assert "error: the page needs gradio: pip install " in capsys.readouterr().err


def test_a_port_that_is_taken(capsys):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert main(["web", "--port", str(port)]) == 1
    assert f"error: --host 127.0.0.1 --port {port} cannot be listened on" in capsys.readouterr().err


def test_the_environment_is_as_before():
    os.environ.pop("VIDCOM2_TEST", None)
    with environment({"VIDCOM2_TEST": "1", "PATH": "x"}):
        assert (os.environ["VIDCOM2_TEST"], os.environ["PATH"]) == ("1", "x")
    assert "VIDCOM2_TEST" not in os.environ
    assert os.environ["PATH"] != "x"


@pytest.mark.slow
def test_a_server_that_is_told_to_end_leaves_nothing(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "eval", "web", "--port", str(port)]
    settings = {**os.environ, "TMPDIR": str(tmp_path), "GRADIO_ALLOWED_PATHS": "/etc", "GRADIO_SERVER_NAME": "0.0.0.0"}
    with subprocess.Popen(command, cwd=ROOT, env=settings, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout.readline() == f"the page is at http://127.0.0.1:{port}/ (Ctrl-C ends it)\n"
        (folder,) = tmp_path.glob("vidcom2-web-*")
        assert httpx.post(f"http://127.0.0.1:{port}/gradio_api/upload", files={"files": ("v", b"v")}).status_code == 200
        assert httpx.get(f"http://127.0.0.1:{port}/gradio_api/file=/etc/hostname").status_code == 403
        server.send_signal(signal.SIGTERM)
        assert server.wait(30) == 0
    assert not folder.exists()


def test_help_of_the_script_installs_nothing(tmp_path):
    settings = {"PATH": "/usr/bin:/bin", "PYTHON": "/nowhere/python", "HOME": str(tmp_path)}
    done = subprocess.run(
        ["bash", ROOT / "scripts/web.sh", "--help"], env=settings, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("Usage: scripts/web.sh [FLAG]...\n")
    assert done.stderr == ""
    assert max(map(len, done.stdout.splitlines())) <= 80
