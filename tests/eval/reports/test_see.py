"""`vidcom2 see`: from a video's file to figures, and what goes wrong on the way."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from matplotlib.figure import Figure

from eval.cli import parse
from eval.demo.encode import write_video
from eval.demo.world import draw_scene, render
from eval.models import load_engine, protocol_for
from eval.reports.flags import QUESTION
from eval.reports.look import watch
from eval.reports.see import drawable, prepare_see
from eval.run.setup import Unsuitable
from llava.video import FrameSampling, VideoError, read_video
from vidcom2 import VidCom2

FRAMES = 6


@pytest.fixture
def drawn(monkeypatch) -> list[Figure]:
    """The figures that are saved, each once."""
    figures: list[Figure] = []
    savefig = Figure.savefig

    def spy(figure: Figure, *args, **kwargs):
        if figure not in figures:
            figures.append(figure)
        savefig(figure, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", spy)
    return figures


def call(*arguments: object) -> int:
    """What the command line does."""
    return prepare_see(parse(["see", *map(str, arguments)]))()


def texts(figure: Figure) -> str:
    return "\n".join(text.get_text() for axes in figure.axes for text in axes.texts)


@pytest.mark.parametrize("spec", ["vidcom2.released@0.3", "random@0.3"])
def test_command(spec, onevision, noise, drawn, tmp_path, capsys):
    out = tmp_path / "out"
    flags = ("--model", onevision, "--compressor", spec, "--frames", FRAMES)
    assert call(noise, *flags, "--animate", "gif", "--width", "4", "--theme", "dark", "--output", out) == 0
    sheets = [out / f"{name}.{end}" for name in ("uniqueness", "kept", "tokens") for end in ("png", "pdf", "svg")]
    said = capsys.readouterr()
    assert said.out.split() == [str(file) for file in (*sheets, out / "kept.gif")]
    assert all(file.stat().st_size > 1000 for file in sheets)

    protocol = protocol_for(str(onevision)).sampled(FrameSampling("uniform", max_frames=FRAMES))
    engine = load_engine(str(onevision), protocol, "cpu", "float32")
    look = watch(engine, str(noise), QUESTION, drawable(spec))
    method = VidCom2.released(0.3) if spec.startswith("vidcom2") else VidCom2(0.3)
    assert look.uniqueness == pytest.approx(method.explain(look.features).frame_uniqueness.numpy())
    upper = drawn[0].axes[1]
    heights = look.uniqueness - look.uniqueness.min()
    assert [bar.get_height() for bar in upper.patches] == pytest.approx(heights.tolist(), abs=1e-6)
    for figure in drawn:
        assert figure.get_figwidth() == 4
        assert all(fact.split()[0] in texts(figure) for fact in look.facts)
        assert f"{FRAMES} frames" in texts(figure)
        assert "drawn shapes" not in texts(figure)
    assert "drawn shapes" not in said.err
    assert f"seen by {onevision.name}" in said.err
    assert read_video(out / "kept.gif", FrameSampling("uniform", max_frames=FRAMES)).total_frames == FRAMES


def test_the_demo_model_says_that_it_has_seen_drawn_shapes_only(drawn, tmp_path, capsys):
    """On any video: nothing in a file tells whether it shows what the model was trained on."""
    scene = np.repeat(np.repeat(render(draw_scene(np.random.default_rng(0), 4)), 2, axis=1), 2, axis=2)
    write_video(tmp_path / "scene.mp4", scene, 8)
    assert call(tmp_path / "scene.mp4", "--frames", 4, "--output", tmp_path / "out") == 0
    assert "never saw such pictures. Choose a real model with --model." in " ".join(capsys.readouterr().err.split())
    for figure in drawn:
        text = " ".join(texts(figure).split())
        assert "seen by demo model llava-onevision · 4 frames of 6 × 6 tokens · vidcom2@0.25 keeps" in text
        assert "Trained on drawn shapes only: of other videos this is the opinion of a tower" in text


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--compressor", "none"), "none drops no token; draw one of"),
        (("--compressor", "holitom.released@0.25"), "gives its tokens positions that are not their own"),
        (("--compressor", "aot.released@0.25"), "this one as aot without .released"),
        (("--compressor", "magic"), "'magic' is unknown"),
        (("--frames", 0), "--frames 0 must be at least 1"),
        (("--width", "wide"), "--width 'wide' is no width of a sheet: write column, page, or inches from 2.5 to 40"),
        (("--width", "2"), "--width '2' is no width"),
        (("--width", "nan"), "--width 'nan' is no width"),
    ],
)
def test_bad_settings(flags, message, onevision, noise, tmp_path):
    with pytest.raises(ValueError, match=message):
        call(noise, "--model", onevision, *flags, "--output", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_bad_videos(onevision, tmp_path):
    (tmp_path / "text.mp4").write_text("no video")
    for name, cause in (("gone.mp4", "no such file"), ("text.mp4", "cannot be read")):
        with pytest.raises(ValueError, match=f"{name}: {cause}"):
            call(tmp_path / name, "--model", onevision, "--output", tmp_path / "out")


def test_what_only_the_model_can_tell_is_one_error(onevision, noise, tmp_path, capsys, monkeypatch):
    output = tmp_path / "out"
    with pytest.raises(Unsuitable, match=r"^on --model .*, fastv cannot reach retention=0.1"):
        call(noise, "--model", onevision, "--compressor", "fastv@0.1:k=1", "--output", output)
    broken = shutil.copytree(onevision, tmp_path / "llava-broken")
    next(broken.glob("*.safetensors")).write_bytes(b"no weights")
    with pytest.raises(Unsuitable, match=f"^--model {broken} cannot be loaded: "):
        call(noise, "--model", broken, "--output", output)

    def unreadable(*args):
        raise VideoError("v.mp4", "ends too early")

    monkeypatch.setattr("eval.models.llava.sample_video", unreadable)
    assert call(noise, "--model", onevision, "--output", output) == 1
    assert "error: v.mp4: ends too early" in capsys.readouterr().err
    assert not list(output.iterdir())
