"""Figures of one video: what is drawn is what the models got and the methods kept."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from eval.cli import parse
from eval.demo.encode import write_video
from eval.models import load_engine, protocol_for
from eval.models.qwen_protocol import QWEN_PROTOCOLS
from eval.reports.flags import QUESTION
from eval.reports.visualize import (
    central_square,
    darkened,
    draw_kept,
    draw_uniqueness,
    drawable,
    layer_hooks,
    prepare_visualize,
    watch,
)
from eval.run.setup import Unsuitable
from llava.video import FrameSampling, VideoError
from tests.eval.qwen_tiny import make_qwen
from tests.llava.test_video import noisy_frames
from vidcom2 import METHODS, Compressor, Kept, VidCom2

FRAMES = 6


@pytest.fixture(scope="module")
def video(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("video") / "noise.mp4"
    write_video(file, noisy_frames(48), 24)
    return file


@pytest.fixture(scope="module")
def engine(request, tmp_path_factory):
    """Of the checkpoint that a test's parameter names."""
    kind = request.param
    if kind in QWEN_PROTOCOLS:
        checkpoint = make_qwen(tmp_path_factory.mktemp("qwen"), kind)
    else:
        checkpoint = request.getfixturevalue(kind)
    protocol = protocol_for(str(checkpoint)).sampled(FrameSampling("uniform", max_frames=FRAMES))
    return load_engine(str(checkpoint), protocol, "cpu", "float32")


KINDS = ["onevision", "llava_video", *QWEN_PROTOCOLS]
over_engines = pytest.mark.parametrize("engine", KINDS, indirect=True)


@pytest.fixture
def drawn(monkeypatch) -> list[Figure]:
    """The figures that are saved."""
    figures: list[Figure] = []
    savefig = Figure.savefig

    def spy(figure: Figure, *args, **kwargs):
        figures.append(figure)
        savefig(figure, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", spy)
    return figures


def call(*arguments: object) -> int:
    """What the command line does."""
    return prepare_visualize(parse(["visualize", *map(str, arguments)]))()


def frames_and_grid(engine, seen) -> tuple[int, tuple[int, int]]:
    """How many frames, and their rows and columns of tokens, from what the model itself computes."""
    if hasattr(seen, "inputs"):
        t, height, width = seen.inputs[2]["video_grid_thw"][0].tolist()
        return t, (height // 2, width // 2)
    pooled = engine.model.get_2dPool(seen.encoded.features)
    return len(pooled), (int(pooled.shape[1] ** 0.5),) * 2


@pytest.mark.parametrize(
    "engine",
    [pytest.param(kind, marks=[] if kind in ("onevision", "qwen3_vl") else pytest.mark.slow) for kind in KINDS],
    indirect=True,
)
@pytest.mark.parametrize("name", sorted(name for name in METHODS if METHODS[name].drops))
def test_every_method_on_every_kind_of_model(name, engine, video):
    # Inside the LLM, less cannot be reached on two layers.
    retention = 0.25 if METHODS[name].stage == "before LLM" else 0.75
    more = {"fastv": ":k=1", "pdrop": ":layers=(1,)"}.get(name, "")
    method = drawable(f"{name}@{retention}{more}")
    look = watch(engine, str(video), QUESTION, method)
    seen = engine.see(engine.read(str(video)))
    (record,) = engine.answer(seen, QUESTION, {"max_new_tokens": 1}, method).records
    frames, grid = frames_and_grid(engine, seen)
    assert look.kept.shape == (frames, *grid)
    assert tuple(look.kept.sum(axis=(1, 2))) == record.frames_after
    assert 0 < look.kept.sum() < look.kept.size
    assert look.features.shape[:2] == (frames, grid[0] * grid[1])
    assert look.frames.shape[0] == frames
    assert look.frames.shape[3] == 3
    if method.stage == "before LLM":
        assert np.flatnonzero(look.kept).tolist() == method.select(look.features, grid).index.tolist()


@dataclass(frozen=True)
class LastColumn(Compressor):
    """Keeps the last token of each row."""

    uses_grid = True

    def _select_grid(self, x, rows, columns):
        last = (1 + torch.arange(len(x) * rows)) * columns - 1
        return Kept(last, torch.full((len(x),), rows))


@over_engines
def test_a_method_that_looks_at_places_gets_the_grid(engine, video):
    look = watch(engine, str(video), QUESTION, LastColumn(0.5))
    assert look.kept[..., -1].all()
    assert not look.kept[..., :-1].any()


@over_engines
def test_features_are_the_same_before_and_inside_the_language_model(engine, video):
    before = watch(engine, str(video), QUESTION, VidCom2(0.5))
    inside = watch(engine, str(video), QUESTION, drawable("fastv@0.75:k=1"))
    assert torch.equal(before.features, inside.features)
    assert np.array_equal(before.frames, inside.frames)


@pytest.mark.parametrize("engine", ["onevision", "qwen2_vl"], indirect=True)
def test_nothing_stays_on_the_model(engine, video):
    for spec in ("vidcom2@0.5", "fastv@0.75:k=1"):
        watch(engine, str(video), QUESTION, drawable(spec))
        with pytest.raises(StopIteration):
            layer_hooks(engine.model)
        engine.check(VidCom2(0.5))


@pytest.mark.parametrize("engine", ["onevision"], indirect=True)
def test_inside_the_language_model_the_question_counts(engine, video):
    looks = [watch(engine, str(video), question, drawable("fastv@0.6:k=1")).kept for question in (QUESTION, "So?")]
    assert not np.array_equal(*looks)


@over_engines
def test_frames_are_the_video(engine, video):
    """Of noise whose frames all differ, the frames are the right ones; a pair stands under its first."""
    look = watch(engine, str(video), QUESTION, VidCom2(0.5))
    seen = engine.see(engine.read(str(video)))
    if not hasattr(seen, "inputs"):
        # The tower's processor makes of them what the model got.
        again = engine.model.get_vision_tower().image_processor.preprocess(look.frames, return_tensors="pt")
        assert torch.equal(again["pixel_values"], seen.read.pixels)
    else:
        original = seen.read.frames.permute(0, 2, 3, 1).numpy()
        assert len(look.frames) == len(original) // 2
        for t, frame in enumerate(look.frames):
            distances = [np.abs(frame - other).mean() for other in original]
            assert np.argmin(distances) == 2 * t
            assert min(distances) <= 0.5 < sorted(distances)[1]


def lit(axes) -> np.ndarray:
    return np.asarray(axes.images[0].get_array()).max(axis=-1)


@over_engines
def test_kept_patches_are_lit(engine, video, drawn, tmp_path):
    """In white frames, exactly the middles of kept tokens' patches are white; every other pixel is dark."""
    look = watch(engine, str(video), QUESTION, VidCom2(0.3))
    index = VidCom2(0.3).select(look.features).index.tolist()
    png, pdf = draw_kept(np.full_like(look.frames, 255), look.kept, tmp_path / "kept", "t", look.covered)
    assert png.stat().st_size > 1000
    assert pdf.stat().st_size > 1000
    images = [lit(axes) for axes in drawn[0].axes if axes.images]
    outlines = [axes.collections[0].get_paths() for axes in drawn[0].axes if axes.images]
    assert [len(paths) for paths in outlines] == look.kept.sum(axis=(1, 2)).tolist()
    for image, paths in zip(images, outlines, strict=True):
        for path in paths:
            x, y = path.vertices[:4].mean(axis=0)
            assert image[int(y), int(x)] == 255
    frames, rows, columns = look.kept.shape
    assert len(images) == frames
    found = []
    for t, image in enumerate(images):
        height, width = (size * look.covered for size in image.shape)
        for r in range(rows):
            for c in range(columns):
                value = image[int((r + 0.5) * height / rows), int((c + 0.5) * width / columns)]
                assert value in (255, 51)
                if value == 255:
                    found.append((t * rows + r) * columns + c)
    assert found == index
    bright = sum((image == 255).mean() for image in images) / frames
    assert bright == pytest.approx(len(index) / look.kept.size * look.covered**2, rel=0.1)


@over_engines
def test_covered_is_what_pooling_reads(engine, video):
    """A change in a patch moves a token's feature only where the grid is said to lie over it."""
    look = watch(engine, str(video), QUESTION, VidCom2(0.5))
    if not hasattr(engine.model, "get_2dPool"):
        assert look.covered == 1
        return
    side = engine.model.get_vision_tower().num_patches_per_side
    patches = torch.eye(side * side).reshape(1, side * side, side * side)
    used = engine.model.get_2dPool(patches)[0].abs().sum(dim=0).view(side, side) > 0
    assert look.covered == pytest.approx(used.any(dim=0).sum().item() / side)
    assert used.sum() == (look.covered * side) ** 2


def test_darkened_by_hand():
    frames = np.full((1, 6, 9, 3), 100, dtype=np.uint8)
    kept = np.array([[[True, False], [False, True]]])
    found = darkened(frames, kept, covered=2 / 3)[0, :, :, 0]
    expected = np.full((6, 9), 20)
    expected[0:2, 0:3] = expected[2:4, 3:6] = 100
    assert np.array_equal(found, expected)


def test_central_square_is_what_clip_sees():
    from transformers import CLIPImageProcessor

    frames = np.random.default_rng(0).integers(0, 256, (1, 30, 20, 3), dtype=np.uint8)
    processor = CLIPImageProcessor(size={"shortest_edge": 20}, crop_size={"height": 20, "width": 20})
    seen = processor.preprocess(list(frames), do_normalize=False, do_rescale=False, return_tensors="np")["pixel_values"]
    assert np.array_equal(central_square(frames)[0], seen[0].transpose(1, 2, 0))


@pytest.mark.parametrize("spec", ["vidcom2.released@0.3", "random@0.3"])
@pytest.mark.parametrize("engine", ["onevision"], indirect=True)
def test_command(spec, engine, onevision, video, drawn, tmp_path, capsys):
    out = tmp_path / "out"
    assert call(video, "--model", onevision, "--compressor", spec, "--frames", FRAMES, "--output", out) == 0
    files = [out / f"{name}.{ending}" for name in ("uniqueness", "kept") for ending in ("png", "pdf")]
    assert capsys.readouterr().out.split() == [str(file) for file in files]
    assert all(file.stat().st_size > 1000 for file in files)

    look = watch(engine, str(video), QUESTION, drawable(spec))
    method = VidCom2.released(0.3) if spec.startswith("vidcom2") else VidCom2(0.3)
    upper, middle, film = drawn[0].axes
    tops = [bar.get_y() + bar.get_height() for bar in upper.patches]
    assert tops == pytest.approx(method.explain(look.features).frame_uniqueness.tolist(), abs=1e-6)
    assert min(bar.get_height() for bar in upper.patches) > 0
    assert [bar.get_height() for bar in middle.patches] == pytest.approx(100 * look.kept.mean(axis=(1, 2)))
    assert [np.array_equal(a.get_array(), b) for a, b in zip(film.images, look.frames, strict=True)] == [True] * FRAMES
    drawn[0].canvas.draw()
    places = [axes.get_window_extent() for axes in (upper, middle, film)]
    assert [(p.x0, p.x1) for p in places] == [pytest.approx((places[0].x0, places[0].x1))] * 3, "bars over their frames"


def test_one_frame_and_equal_frames_can_be_drawn(tmp_path):
    frames = np.zeros((1, 8, 8, 3), dtype=np.uint8)
    draw_uniqueness(frames, np.array([-0.5]), np.array([1.0]), tmp_path / "a", "t")
    draw_kept(frames, np.ones((1, 2, 2), dtype=bool), tmp_path / "b", "t")
    assert len(list(tmp_path.iterdir())) == 4


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--compressor", "none"), "none drops no token; draw one of"),
        (("--compressor", "holitom.released@0.25"), "gives its tokens positions that are not their own"),
        (("--compressor", "aot.released@0.25"), "this one as aot without .released"),
        (("--compressor", "magic"), "'magic' is unknown"),
        (("--frames", 0), "max_frames must be at least 1"),
    ],
)
def test_bad_settings(flags, message, onevision, video, tmp_path):
    with pytest.raises(ValueError, match=message):
        call(video, "--model", onevision, *flags, "--output", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_bad_videos(onevision, tmp_path):
    (tmp_path / "text.mp4").write_text("no video")
    for name, cause in (("gone.mp4", "no such file"), ("text.mp4", "cannot be read")):
        with pytest.raises(ValueError, match=f"{name}: {cause}"):
            call(tmp_path / name, "--model", onevision, "--output", tmp_path / "out")


def test_what_only_the_model_can_tell_is_one_error(onevision, video, tmp_path, capsys, monkeypatch):
    output = tmp_path / "out"
    with pytest.raises(Unsuitable, match=r"^on --model .*, fastv cannot reach retention=0.1"):
        call(video, "--model", onevision, "--compressor", "fastv@0.1:k=1", "--output", output)
    broken = shutil.copytree(onevision, tmp_path / "llava-broken")
    next(broken.glob("*.safetensors")).write_bytes(b"no weights")
    with pytest.raises(Unsuitable, match=f"^--model {broken} cannot be loaded: "):
        call(video, "--model", broken, "--output", output)

    def unreadable(*args):
        raise VideoError("v.mp4", "ends too early")

    monkeypatch.setattr("eval.models.llava.sample_video", unreadable)
    assert call(video, "--model", onevision, "--output", output) == 1
    assert "error: v.mp4: ends too early" in capsys.readouterr().err
    assert not list(output.iterdir())
