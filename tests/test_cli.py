"""The command line: what it imports, what --help says, and the installed command."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from eval import cli
from eval.models.random_weights import PRESETS
from eval.results.summary import PARSERS
from eval.run import flags
from eval.speed.flags import RANDOM_WEIGHTS
from vidcom2 import METHODS

ROOT = Path(__file__).resolve().parents[1]
BENCHMARKS = ("operator", "decode", "preprocess", "tower", "pipeline")
COMMANDS = [[], *([name] for name in [*cli.COMMANDS, *cli.ALIASES]), *(["bench", name] for name in BENCHMARKS)]
HEAVY = ("torch", "transformers", "matplotlib", "lmms_eval", "vidcom2", "llava")
LOADED = """
import sys
from eval.cli import main
try:
    main(sys.argv[1:])
finally:
    print("loaded:", [name for name in %r if name in sys.modules])
"""


def help_of(*command: str, **env: str) -> str:
    """What `--help` prints in a terminal of 80 columns, and which heavy packages it loaded."""
    clean = {name: value for name, value in os.environ.items() if name not in flags.VARIABLES}
    done = subprocess.run(
        [sys.executable, "-c", LOADED % (HEAVY,), *command, "--help"],
        cwd=ROOT,
        env={**clean, "COLUMNS": "80", "PYTHONIOENCODING": "utf-8", "NO_COLOR": "1", **env},
        capture_output=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help(command):
    """It loads nothing heavy, fits 80 columns, and says what happens without a flag."""
    text, _, loaded = help_of(*command).rpartition("loaded: ")
    assert loaded.strip() == "[]"
    assert max(map(len, text.splitlines())) <= 80
    assert "None" not in text
    assert "{" not in re.sub(r"\{[\w,.\s-]+\}", "", text)  # choices are in braces, what was not filled in has calls
    for name in cli.COMMANDS if not command else ():
        assert re.search(rf"^    {name}\b", text, re.M), name


@pytest.mark.parametrize("command", [c for c in COMMANDS if c not in ([], ["bench"])], ids=" ".join)
def test_every_flag_says_its_default(command):
    required = {"tasks", "compressors"} if command[0] in ("sweep", "run", "doctor", "frame-drop") else set()
    text = help_of(*command)
    body = text[text.index("\noptions:") :]
    for entry in re.split(r"\n(?=  -)", body)[1:]:
        flag = re.match(r"  --([\w-]+)( \S)?", entry)
        if flag and flag[2] and flag[1] not in (*required, "random-weights", "json", "render"):
            assert "default: " in " ".join(entry.split()), entry


def test_defaults_from_the_environment_are_shown():
    text = " ".join(help_of("run", MODEL="/my/model", PARSER="legacy").split())
    assert "env: MODEL; default: /my/model" in text
    assert "env: PARSER; default: legacy" in text
    assert all(f"env: {name}" in text for name in flags.VARIABLES)


def test_names_that_help_lists():
    """They are written down beside the flags, because their packages load torch."""
    assert set(flags.METHODS) == {name for name, method in METHODS.items() if method.__module__.startswith("vidcom2.")}
    assert set(RANDOM_WEIGHTS) == set(PRESETS)
    assert set(PARSERS) == {"current", "legacy"}


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "--tasks", "mvbench"],
        ["run", "--tasks", "mvbench", "--demo"],
        ["sweep", "--demo", "--compressors", "none"],
        ["compare", "--demo", "none", "vidcom2"],
        ["frame-drop", "--demo"],
        ["sweep", "--tasks", "mvbench", "--compressors", "none"],
        ["compare", "a", "b"],
        ["report", "a"],
        ["doctor", "--tasks", "mvbench"],
        ["see", "v.mp4"],
        ["web"],
        ["ask", "v.mp4"],
        ["analyse", "v.mp4"],
        ["visualize", "v.mp4"],
        ["efficiency"],
        ["table", "2"],
        ["frame-drop", "--tasks", "mvbench"],
        *(["bench", name] for name in BENCHMARKS),
    ],
    ids=" ".join,
)
def test_every_command_finds_its_work(arguments):
    assert callable(cli.function(cli.parse(arguments).start))


def test_heavy_commands_say_at_once_that_they_load(tmp_path):
    command = [sys.executable, "-m", "eval", "report", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.stderr.splitlines()[0].startswith("loading ")
    command = [sys.executable, "-m", "eval", "compare", str(tmp_path), str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.stderr.startswith("error: ")
    assert done.returncode == 1


@pytest.mark.parametrize("words", [["--model", ""], ["--compressor="], ["--output", "", "--num-gpus", "1"]])
def test_an_empty_value_is_no_default(words, capsys, monkeypatch):
    """Such as "$MODEL" of a shell in which MODEL is not set. An empty variable counts as not set."""
    for name in flags.VARIABLES:
        monkeypatch.setenv(name, "")
    assert cli.main(["run", *words]) == 1
    flag = words[0].rstrip("=")
    assert capsys.readouterr().err.endswith(f'error: {flag} "" is empty: give it a value, or leave it out\n')
