from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from eval.cli import parse
from eval.models.llava import LlavaEngine, Reader
from eval.run.setup import Unsuitable
from eval.speed.pipeline import NOTES, ask_about, prepare_pipeline
from tests.eval.speed.widths import TERMINAL, table_width

MODES = ["dense, one by one", "one by one", "shared", "ahead", "batches of 4"]


def prepare(*arguments: str):
    return prepare_pipeline(parse(["bench", "pipeline", "--device", "cpu", *arguments]))


def test_every_mode_answers_alike(tmp_path: Path, capsys, monkeypatch):
    reads: list[str] = []
    batches: list[int] = []
    read, answer_all = Reader.__call__, LlavaEngine.answer_all
    monkeypatch.setattr(Reader, "__call__", lambda self, file: reads.append(file) or read(self, file))
    monkeypatch.setattr(
        LlavaEngine,
        "answer_all",
        lambda *a: batches.append(len(a[1])) or answer_all(*a),
    )
    file = tmp_path / "pipeline.json"
    flags = ("--random-weights", "tiny", "--videos", "1", "--per-video", "1,2", "--batch-size", "4", "--repeats", "2")
    assert prepare(*flags, "--sampling", "uniform:8", "--new-tokens", "3", "--json", str(file))() == 0
    shown = capsys.readouterr().out
    assert table_width(shown, NOTES[0]) <= TERMINAL
    report = json.loads(file.read_text())
    assert (report["model"], report["videos"], report["compressor"]) == ("tiny", 9, "vidcom2@0.25")
    assert str(tmp_path) not in file.read_text()
    for number in ("1", "2"):
        lines = report["questions_per_video"][number]
        assert list(lines) == MODES
        assert all(name in shown for name in MODES)
        assert [line["differ"] for name, line in lines.items() if name != MODES[0]] == [0] * 4
        for line in lines.values():
            seconds = sorted(line["milliseconds"])
            assert line["questions_per_second"] == pytest.approx(9 * int(number) * 1000 * 2 / sum(seconds))
    # Two rounds and one before them. In this process: dense and one by one for each question, shared for each video.
    assert len(reads) == 3 * (9 + 9 + 9) + 3 * (18 + 18 + 9)
    assert {size: batches.count(size) for size in set(batches)} == {
        1: 3 * (4 * 9 + 1) + 3 * 4 * 18,
        4: 3 * 2 + 3 * 4,
        2: 3,
    }


def test_what_only_the_model_can_tell(onevision, tmp_path):
    flags = ("--videos", "1", "--repeats", "2", "--sampling", "uniform:2")
    with pytest.raises(Unsuitable, match=f"^on --model {onevision}, fastv cannot reach retention=0.1"):
        prepare("--model", str(onevision), "--compressor", "fastv@0.1:k=1", *flags)()
    broken = shutil.copytree(onevision, tmp_path / "llava-broken")
    next(broken.glob("*.safetensors")).write_bytes(b"no weights")
    with pytest.raises(Unsuitable, match=f"^--model {broken} cannot be loaded: "):
        prepare("--model", str(broken), *flags)()


def test_questions_of_other_videos():
    videos = [("a.mp4", "What?"), ("b.mp4", "Who?"), ("c.mp4", "Why?")]
    parts = ask_about(videos, 2, new_tokens=5)
    assert [(part.video, [one.text for one in part.questions]) for part in parts] == [
        ("a.mp4", ["What?", "Who?"]),
        ("b.mp4", ["Who?", "Why?"]),
        ("c.mp4", ["Why?", "What?"]),
    ]
    assert len({one.key for part in parts for one in part.questions}) == 6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--videos", "0"), "--videos 0 must be at least 1"),
        (("--per-video", "1,x"), "--per-video '1,x' must be different positive numbers"),
        (("--batch-size", "1"), "--batch-size '1' must be different numbers of 2 or more"),
        (("--batch-size", "4,4"), "--batch-size '4,4' must be different numbers"),
        (("--compressor", "none"), "--compressor none compresses nothing"),
        (("--compressor", "vidcom3"), "vidcom3"),
        (("--random-weights", "llava-8b"), "--random-weights 'llava-8b' is neither"),
        (("--model", "/nowhere"), "no such directory"),
        (("--dtype", "int8"), "int8"),
        (("--repeats", "1"), "--repeats 1 must be at least 2"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises((ValueError, OSError), match=message):
        prepare(*arguments)
