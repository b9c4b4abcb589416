"""A full disk, a place that nobody may write to, weights of other shapes: one line, which names it and what helps."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from eval.cli import main
from eval.results.files import Unwritable, prepare_directory, prepare_file, write_json, write_whole
from eval.results.sample import Sample
from eval.run.config import RunConfig
from eval.run.setup import Unsuitable, loading
from eval.run.store import Answers
from vidcom2 import Dense

FULL = Path("/dev/full")
"""A device on which there is never room."""
needs_full = pytest.mark.skipif(not FULL.exists(), reason="needs Linux's /dev/full")


@needs_full
def test_a_full_disk(tmp_path):
    with pytest.raises(Unwritable, match=r"/dev/full cannot be written \(No space left on device\): free some room"):
        write_json(FULL, {"a": 1})
    assert FULL.is_char_device()  # it is still what it was


@needs_full
def test_a_disk_that_is_full_in_the_middle_of_a_run(tmp_path):
    """The line that was being written is lost, no other."""
    (tmp_path / "answers.rank0.jsonl").symlink_to(FULL)
    answers = Answers(tmp_path, 0)
    answers.ask(("task", 0), "what was asked", "video")
    with (
        pytest.raises(Unwritable, match=r"answers.rank0.jsonl cannot be written \(No space left.*: free some"),
        answers.open(),
    ):
        answers.add(Sample("task", 0, "video", None, "A", None, 1, 1.0, 1, 1, {}))


def test_what_a_write_leaves_when_it_fails(tmp_path, monkeypatch):
    def full(self: Path, text: str, **more: str) -> int:
        self.write_bytes(text.encode()[:3])
        raise OSError(errno.ENOSPC, "No space left on device")

    write_whole(tmp_path / "kept.md", "as it was")
    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_text", full)
        with pytest.raises(Unwritable, match=r"kept\.md cannot be written \(No space left"):
            write_whole(tmp_path / "kept.md", "as it should be")
    assert [file.name for file in tmp_path.iterdir()] == ["kept.md"]
    assert (tmp_path / "kept.md").read_text(encoding="utf-8") == "as it was"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_cache_on_a_full_disk(number, monkeypatch, capsys):
    """Whoever writes it: transformers, datasets, matplotlib."""

    def start() -> int:
        raise OSError(number, "No room", "/cache/of/theirs")

    monkeypatch.setattr("eval.reports.compare.prepare_compare", lambda arguments: start)
    assert main(["compare", "a", "b"]) == 1
    assert capsys.readouterr().err == (
        "error: /cache/of/theirs cannot be written (No room): free some room there, and start again\n"
    )


def test_places_that_cannot_be_written_are_found_out_first(tmp_path):
    (tmp_path / "file").touch()
    below = tmp_path / "file" / "below"
    with pytest.raises(Unwritable, match=r"--json \S+/file/below cannot be written \(.*\): choose another place"):
        prepare_file("--json", below)
    with pytest.raises(Unwritable, match=r"--output \S+/file/below cannot be written \(.*\): choose another place"):
        prepare_directory("--output", below)
    with pytest.raises(IsADirectoryError, match=r"--json .* is a directory: name a file, such as .*/report"):
        prepare_file("--json", tmp_path)
    prepare_file("--json", tmp_path / "new" / "report.json")
    assert list((tmp_path / "new").iterdir()) == []


@pytest.mark.parametrize(
    "command",
    [
        ("compare", "RUN", "RUN", "--json", "BAD"),
        ("report", "RUN", "--output", "BAD"),
        ("table", "2", "--output", "BAD"),
        ("efficiency", "--output", "BAD"),
        ("doctor", "--tasks", "mvbench", "--data", "RUN", "--json", "BAD"),
        ("doctor", "--tasks", "mvbench", "--data", "RUN", "--checksums", "FILE/sums"),
        ("run", "--tasks", "mvbench", "--demo", "--output", "BAD"),
    ],
    ids=lambda command: " ".join(command[:1]),
)
def test_every_command_says_so_in_one_line(command, tmp_path, monkeypatch, capsys):
    (tmp_path / "FILE").touch()
    (tmp_path / "RUN").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("eval.reports.compare.compare", lambda a, b: None)
    monkeypatch.setattr("eval.reports.html.load_runs", lambda runs: {})
    assert main([part.replace("BAD", "FILE/below") for part in command]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert "FILE" in said
    assert said.count("\n") == 1


def other_shape(checkpoint: Path) -> None:
    for file in sorted(checkpoint.glob("*.safetensors")):
        tensors = load_file(file)
        for name in [name for name in tensors if "up_proj" in name][:1]:
            tensors[name] = torch.zeros(7, 64)
            save_file(tensors, file, metadata={"format": "pt"})


def test_weights_of_other_shapes(onevision, mvbench, tmp_path, capsys):
    model = shutil.copytree(onevision, tmp_path / onevision.name)
    other_shape(model)
    flags = ["run", "--tasks", "mvbench_action_count", "--model", str(model), "--data", str(mvbench), "--device", "cpu"]
    assert main([*flags, "--output", str(tmp_path / "out")]) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith(f"error: --model {model} cannot be loaded: {model} does not fit its config.json: 1 weights")


def test_other_errors_stay_what_they_are():
    with pytest.raises(RuntimeError, match="a mistake"), loading("--model m"):
        raise RuntimeError("a mistake")
    with pytest.raises(Unsuitable, match="--model m does not fit into the device's memory"), loading("--model m"):
        raise torch.OutOfMemoryError("CUDA out of memory")


@pytest.mark.parametrize("flag", ["timeout", "stuck_after"])
def test_limits_have_an_end(flag, onevision, tmp_path):
    config = RunConfig(str(onevision), "mvbench_action_count", Dense(), tmp_path, dtype="float32", device="cpu")
    with pytest.raises(ValueError, match=f"--{flag.replace('_', '-')} inf must be a number of seconds above 0"):
        RunConfig(**{**vars(config), flag: float("inf")}).check()
    with pytest.raises(ValueError, match="nan must be"):
        RunConfig(**{**vars(config), flag: float("nan")}).check()


def test_the_doctors_limit_has_an_end(tmp_path, capsys):
    flags = ["doctor", "--tasks", "mvbench", "--data", str(tmp_path), "--timeout", "inf"]
    assert main(flags) == 1
    assert capsys.readouterr().err == "error: --timeout inf must be a number of seconds above 0, at most 1000000\n"
