"""`analyse`: what is measured is what the model got and the methods kept, and nothing that was measured is lost."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from eval.cli import main, parse
from eval.demo.minibench import write_mvbench
from eval.models import load_engine, protocol_for
from eval.models.packaged import DEMO_MODEL
from eval.reports import analyse
from eval.reports.analyse import analyse_all, prepare_analyse, settings_of, videos_of
from eval.reports.analysis import COLUMNS, Analysis, as_json, rows
from eval.reports.flags import QUESTION
from eval.reports.look import watch
from llava.video import FrameSampling
from tests.eval.qwen_tiny import make_qwen
from vidcom2 import METHODS, Compressor, Kept, VidCom2, compressor, register
from vidcom2.measures import Measures, measure

TASKS = 9


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    """One of MiniBench's videos for each of its tasks."""
    return write_mvbench(tmp_path_factory.mktemp("minibench"), 1)


@pytest.fixture(scope="module")
def video(videos) -> Path:
    return next(iter(sorted(videos.rglob("*.mp4"))))


@pytest.fixture
def picky() -> Iterator[type[Compressor]]:
    """A registered method that serves no video."""

    @register("picky")
    @dataclasses.dataclass(frozen=True)
    class Picky(Compressor):
        def _select(self, x: torch.Tensor) -> Kept:
            raise ValueError("this method needs a sunny day")

    yield Picky
    METHODS.pop("picky")


def call(*arguments: object) -> int:
    return main(["analyse", *map(str, arguments)])


def error_of(capsys, *arguments: object) -> str:
    assert call(*arguments) == 1
    *_, last = capsys.readouterr().err.splitlines()
    return last.removeprefix("error: ")


def table(printed: str) -> dict[str, list[str]]:
    """The cells of each line of all parts of the printed table."""
    found: dict[str, list[str]] = {}
    for line in printed.splitlines():
        if cells := re.match(r"^(dense|[\w.+]+@[\d.]+) +(.*)$", line):
            found.setdefault(cells[1], []).extend(re.split(r" {2,}", cells[2].strip()))
    return found


def test_one_video_from_file_to_figure(video, tmp_path, capsys):
    """The printed and the written numbers are those of the features that the model hands to methods."""
    file, figures = tmp_path / "new" / "analysis.json", tmp_path / "figures"
    assert call(video, "--compressors", "vidcom2,random@0.3", "--retentions", "0.4,0.1", "--json", file,
                "--figures", figures) == 0  # fmt: skip
    printed = capsys.readouterr().out
    assert {path.name for path in figures.iterdir()} == {"analysis.png", "analysis.pdf", "analysis.svg"}
    assert str(figures / "analysis.png") in printed
    assert "1 video of 32 x 36 tokens" in printed
    content = json.loads(file.read_text())
    protocol = protocol_for(str(DEMO_MODEL)).sampled(FrameSampling("uniform", max_frames=32))
    x = watch(load_engine(str(DEMO_MODEL), protocol, "cpu", "float32"), str(video), QUESTION, VidCom2(0.5)).features
    (one,) = content["measured"]
    assert one["shape"] == [*x.shape] == [32, 36, 128]
    specs = ["none", "vidcom2@0.4", "vidcom2@0.1", "random@0.3"]
    assert list(one["measures"]) == [setting["compressor"] for setting in content["settings"]] == specs
    cells = table(printed)
    assert list(cells) == ["dense", *specs[1:]]
    for spec, setting in zip(specs, content["settings"], strict=True):
        expected = measure(x, compressor(spec).select(x))
        for name in (field.name for field in dataclasses.fields(Measures) if field.name != "budgets"):
            value = getattr(expected, name)
            assert one["measures"][spec][name] == pytest.approx(value, rel=1e-3, abs=1e-5), name
            assert setting["measures"][name] == pytest.approx([value] * 3, rel=1e-3, abs=1e-5), name
        assert one["measures"][spec]["budgets"] == list(expected.budgets)
        values = [float(cell) for cell in cells["dense" if spec == "none" else spec]]
        shown = [column.factor * getattr(expected, name) for name, column in COLUMNS.items()]
        assert values == pytest.approx(shown, abs=0.06)


def test_the_claim_of_the_still_video(video, tmp_path):
    """VidCom² keeps the same quarter of the picture in every frame, and the rest is never seen."""
    file = tmp_path / "still.json"
    assert call(video, "--still", "--compressors", "vidcom2@0.25,random@0.25", "--json", file) == 0
    content = json.loads(file.read_text())
    assert content["still"] is True
    measured = content["measured"][0]["measures"]
    assert measured["vidcom2@0.25"]["overlap"] == measured["vidcom2@0.25"]["overlap_far"] == 1
    assert measured["vidcom2@0.25"]["seen"] == 0.25
    assert measured["vidcom2@0.25"]["budgets"] == [9] * 32
    assert measured["random@0.25"]["seen"] == 1


def test_means_over_videos(videos, tmp_path, capsys):
    file = tmp_path / "all.json"
    assert call(videos, "--compressors", "vidcom2@0.25,vidcom2.released@0.25,fastvid@0.25", "--json", file) == 0
    assert f"{TASKS} videos of 32 x 36 tokens" in capsys.readouterr().out
    content = json.loads(file.read_text())
    assert len(content["measured"]) == content["videos"] == TASKS
    for setting in content["settings"]:
        for name, (mean, low, high) in setting["measures"].items():
            each = [video["measures"][setting["compressor"]][name] for video in content["measured"]]
            assert mean == pytest.approx(np.mean(each))
            assert min(each) - 1e-9 <= low <= mean + 1e-9
            assert mean - 1e-9 <= high <= max(each) + 1e-9
    assert content["settings"][2]["method"] == "vidcom2.released"


def test_limit_takes_videos_evenly(videos):
    every = videos_of(videos, None)
    assert len(every) == TASKS
    assert videos_of(videos, 3) == [every[0], every[4], every[8]]
    assert videos_of(videos, 100) == every


def test_videos_of_runs(tmp_path, monkeypatch, capsys):
    """A run's directory, and a demo's that holds runs, name the videos that were asked about."""
    monkeypatch.chdir(tmp_path)
    assert main(["run", "--demo", "--limit", "1", "--compressor", "uniform@0.25"]) == 0
    demo = Path("outputs/demo/mvbench")
    asked = videos_of(demo / "uniform@0.25", None)
    assert len(asked) == TASKS
    assert videos_of(demo, None) == asked
    assert sorted(asked) == videos_of(demo / "data", None)
    assert call(demo, "--compressors", "norm@0.1", "--limit", 2) == 0
    assert "2 videos" in capsys.readouterr().out


def test_a_bad_video_costs_itself_only(videos, video, tmp_path, capsys):
    folder, file = tmp_path / "videos", tmp_path / "out.json"
    folder.mkdir()
    for name in ("a.mp4", "c.mp4"):
        (folder / name).write_bytes(video.read_bytes())
    (folder / "b.mp4").write_bytes(b"no video")
    assert call(folder, "--compressors", "vidcom2@0.25", "--json", file) == 3
    printed = capsys.readouterr()
    (error,) = [line for line in printed.err.splitlines() if line.startswith("error: ")]
    assert "b.mp4" in error
    assert "2 videos of" in printed.out
    content = json.loads(file.read_text())
    assert [Path(one["video"]).name for one in content["measured"]] == ["a.mp4", "c.mp4"]
    assert [Path(one["video"]).name for one in content["failures"]] == ["b.mp4"]
    for name in ("a.mp4", "c.mp4"):
        (folder / name).write_bytes(b"no video")
    assert call(folder, "--compressors", "vidcom2@0.25", "--json", file, "--figures", tmp_path / "figures") == 1
    assert len(json.loads(file.read_text())["failures"]) == 3


def test_a_method_that_fails_costs_itself_only(video, tmp_path, capsys, picky):
    file = tmp_path / "out.json"
    assert call(video, "--compressors", "picky@0.25,vidcom2@0.25", "--json", file) == 3
    printed = capsys.readouterr()
    assert f"error: {video}, picky@0.25: this method needs a sunny day" in printed.err
    assert list(table(printed.out)) == ["dense", "vidcom2@0.25"]
    assert "Measured on 0 of them only: picky@0.25." in printed.out
    assert list(json.loads(file.read_text())["measured"][0]["measures"]) == ["none", "vidcom2@0.25"]


def test_an_interrupted_command_keeps_what_it_has(videos, tmp_path, monkeypatch):
    file, done = tmp_path / "out.json", []

    def interrupted(x, kept):
        done.append(x)
        if len(done) == 6:
            raise KeyboardInterrupt
        return measure(x, kept)

    monkeypatch.setattr(analyse, "measure", interrupted)
    assert call(videos, "--compressors", "vidcom2@0.25", "--json", file) == 130
    assert len(json.loads(file.read_text())["measured"]) == 2


@pytest.mark.parametrize("kind", ["llava_video", "qwen2_vl", "qwen3_vl"])
def test_other_models(kind, video, request, tmp_path):
    checkpoint = make_qwen(tmp_path, kind) if kind.startswith("qwen") else request.getfixturevalue(kind)
    protocol = protocol_for(str(checkpoint)).sampled(FrameSampling("uniform", max_frames=6))
    analysis = Analysis(settings_of("vidcom2@0.25", None))
    analyse_all(analysis, str(checkpoint), protocol, [str(video)])
    x = watch(load_engine(str(checkpoint), protocol, "cpu", "float32"), str(video), QUESTION, VidCom2(0.25)).features
    assert analysis.failures == []
    assert analysis.videos[0].shape == tuple(x.shape)
    expected = measure(x, VidCom2(0.25).select(x))
    found = analysis.videos[0].measures["vidcom2@0.25"]
    assert found.budgets == expected.budgets
    assert (found.nqe, found.coverage) == pytest.approx((expected.nqe, expected.coverage), rel=1e-3)


def test_a_video_of_one_frame_has_no_overlap(video):
    analysis = Analysis(settings_of("vidcom2@0.25", None))
    protocol = protocol_for(str(DEMO_MODEL)).sampled(FrameSampling("uniform", max_frames=1))
    analyse_all(analysis, str(DEMO_MODEL), protocol, [str(video)])
    header, _, line = rows(analysis)
    assert line[header.index(COLUMNS["overlap"].title)] == ""
    assert as_json(analysis, str(DEMO_MODEL), 1, False)["settings"][1]["measures"]["overlap"] is None


# ---- what is asked for


def test_specs_and_retentions():
    def specs(*arguments):
        return [(setting.method, setting.compressor.spec) for setting in settings_of(*arguments)]

    dense = ("dense", "none")
    assert specs("vidcom2", "0.5,0.1") == [dense, ("vidcom2", "vidcom2@0.5"), ("vidcom2", "vidcom2@0.1")]
    assert specs("none,norm@0.3,random", "0.5") == [dense, ("norm", "norm@0.3"), ("random", "random@0.5")]
    assert [spec for _, spec in specs("random", None)[1:]] == [f"random@{r}" for r in (0.4, 0.25, 0.15, 0.1, 0.05)]
    assert {method for method, _ in specs("vidcom2:rounding=exact", "0.5,0.1")} == {"dense", "vidcom2:rounding=exact"}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--compressors", "fastv@0.5"), "fastv@0.5 drops tokens between the LLM's layers"),
        (("--compressors", "vidcom2@0.5,holitom.released@0.25"), "take it without .released"),
        (("--compressors", "vidcom2@0.5", "--retentions", "0.1"), "--retentions 0.1: every spec"),
        (("--compressors", "vidcom2,vidcom2@0.25"), "has vidcom2@0.25 twice"),
        (("--compressors", "none"), "names no method that drops tokens"),
        (("--compressors", "nothing@0.5"), "compressor 'nothing' is unknown"),
        (("--retentions", "a lot"), "--retentions 'a lot' is not numbers"),
        (("--retentions", "25"), "retention=25.0 must be a number in (0, 1]"),
        (("--frames", "0"), "--frames 0 must be at least 1"),
        (("--limit", "0"), "--limit 0 must be at least 1"),
        (("--model", "/nowhere"), "--model /nowhere"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_errors_before_the_model_is_loaded(flags, message, video, capsys, monkeypatch):
    monkeypatch.setattr(analyse, "opened", lambda *_: pytest.fail("the model was loaded"))
    assert message in error_of(capsys, video, *flags)


def test_paths_that_name_no_video(tmp_path, capsys):
    assert f"{tmp_path / 'gone'} does not exist" in error_of(capsys, tmp_path / "gone")
    (tmp_path / "text.mp4").write_text("no video")
    assert "text.mp4" in error_of(capsys, tmp_path / "text.mp4")
    (tmp_path / "empty").mkdir()
    assert "holds neither a finished run nor a video" in error_of(capsys, tmp_path / "empty")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "results.json").write_text("{")
    assert "run again with --overwrite" in error_of(capsys, tmp_path / "run")


def test_more_methods_than_a_figure_can_tell_apart(video, tmp_path, capsys):
    many = ",".join(f"vidcom2@0.5:tau={i}" for i in range(1, 14))
    assert "13 methods in a figure" in error_of(capsys, video, "--compressors", many, "--figures", tmp_path)
    assert callable(prepare_analyse(parse(["analyse", str(video), "--compressors", many])))
