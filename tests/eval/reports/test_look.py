"""What is watched is what the models got and the methods kept, and a look says whose it is."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from eval.models import load_engine, protocol_for
from eval.models.packaged import DEMO_MODEL, DEMO_MODELS, PATCHES
from eval.models.qwen_protocol import QWEN_PROTOCOLS
from eval.reports.flags import QUESTION
from eval.reports.look import Eyes, called, central_square, layer_hooks, look_at, watch
from eval.reports.see import drawable
from llava.video import FrameSampling
from tests.eval.qwen_tiny import make_qwen
from vidcom2 import METHODS, Compressor, Keep, Kept, VidCom2

FRAMES = 6


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
def test_every_method_on_every_kind_of_model(name, engine, noise):
    # Inside the LLM, less cannot be reached on two layers.
    retention = 0.25 if METHODS[name].stage == "before LLM" else 0.75
    more = {"fastv": ":k=1", "pdrop": ":layers=(1,)"}.get(name, "")
    method = drawable(f"{name}@{retention}{more}")
    look = watch(engine, str(noise), QUESTION, method)
    seen = engine.see(engine.read(str(noise)))
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
def test_a_method_that_looks_at_places_gets_the_grid(engine, noise):
    look = watch(engine, str(noise), QUESTION, LastColumn(0.5))
    assert look.kept[..., -1].all()
    assert not look.kept[..., :-1].any()


@over_engines
def test_features_are_the_same_before_and_inside_the_language_model(engine, noise):
    before = watch(engine, str(noise), QUESTION, VidCom2(0.5))
    inside = watch(engine, str(noise), QUESTION, drawable("fastv@0.75:k=1"))
    assert torch.equal(before.features, inside.features)
    assert np.array_equal(before.frames, inside.frames)


@pytest.mark.parametrize("engine", ["onevision", "qwen2_vl"], indirect=True)
def test_nothing_stays_on_the_model(engine, noise):
    for spec in ("vidcom2@0.5", "fastv@0.75:k=1"):
        watch(engine, str(noise), QUESTION, drawable(spec))
        with pytest.raises(StopIteration):
            layer_hooks(engine.model)
        engine.check(VidCom2(0.5))


@pytest.mark.parametrize("engine", ["onevision"], indirect=True)
def test_inside_the_language_model_the_question_counts(engine, noise):
    looks = [watch(engine, str(noise), question, drawable("fastv@0.6:k=1")).kept for question in (QUESTION, "So?")]
    assert not np.array_equal(*looks)


@over_engines
def test_frames_are_the_video(engine, noise):
    """Of noise whose frames all differ, the frames are the right ones; a pair stands under its first."""
    look = watch(engine, str(noise), QUESTION, VidCom2(0.5))
    seen = engine.see(engine.read(str(noise)))
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


@over_engines
def test_covered_is_what_pooling_reads(engine, noise):
    """A change in a patch moves a token's feature only where the grid is said to lie over it."""
    look = watch(engine, str(noise), QUESTION, VidCom2(0.5))
    if not hasattr(engine.model, "get_2dPool"):
        assert look.covered == 1
        return
    side = engine.model.get_vision_tower().num_patches_per_side
    patches = torch.eye(side * side).reshape(1, side * side, side * side)
    used = engine.model.get_2dPool(patches)[0].abs().sum(dim=0).view(side, side) > 0
    assert look.covered == pytest.approx(used.any(dim=0).sum().item() / side)
    assert used.sum() == (look.covered * side) ** 2


def test_central_square_is_what_clip_sees():
    from transformers import CLIPImageProcessor

    frames = np.random.default_rng(0).integers(0, 256, (1, 30, 20, 3), dtype=np.uint8)
    processor = CLIPImageProcessor(size={"shortest_edge": 20}, crop_size={"height": 20, "width": 20})
    seen = processor.preprocess(list(frames), do_normalize=False, do_rescale=False, return_tensors="np")["pixel_values"]
    assert np.array_equal(central_square(frames)[0], seen[0].transpose(1, 2, 0))


@over_engines
def test_a_look_says_whose_eyes_it_shows_and_when(engine, noise):
    look = watch(engine, str(noise), QUESTION, VidCom2(0.5))
    frames, rows, columns = look.kept.shape
    assert look.eyes == Eyes(Path(engine.checkpoint).name)
    assert look.eyes.warning is None, "its weights are random: nobody said that they were trained"
    assert look.facts[:3] == (
        "noise.mp4",
        f"seen by {look.eyes.model}",
        f"{frames} frames of {rows} × {columns} tokens",
    )
    assert f"vidcom2@0.5 keeps {look.kept.sum()} of {look.kept.size} " in look.facts[3]
    times, together = engine.shown_at(engine.see(engine.read(str(noise))))
    assert look.seconds.tolist() == times[::together]
    why = VidCom2(0.5).explain(look.features)
    assert look.uniqueness == pytest.approx(why.frame_uniqueness.numpy())
    assert look.token_uniqueness.reshape(frames, -1) == pytest.approx(why.video.numpy())


@pytest.mark.parametrize("engine", ["onevision"], indirect=True)
def test_two_methods_share_what_the_model_has_seen(engine, noise):
    seen = engine.see(engine.read(str(noise)))
    for spec in ("vidcom2@0.5", "random@0.25"):
        shared = look_at(engine, seen, str(noise), QUESTION, drawable(spec))
        alone = watch(engine, str(noise), QUESTION, drawable(spec))
        assert np.array_equal(shared.kept, alone.kept)
        assert np.array_equal(shared.frames, alone.frames)
        assert shared.facts == alone.facts


def test_whose_tower_saw_drawn_shapes_only(onevision, tmp_path):
    """The demo models, and copies of them under any name; no other checkpoint, and no name on the hub."""
    copy = tmp_path / "my-model"
    shutil.copytree(DEMO_MODEL, copy)
    for model, expected in (
        *((str(path), True) for path in DEMO_MODELS.values()),
        (str(copy), True),
        (str(onevision), False),
        ("lmms-lab/llava-onevision-qwen2-7b-ov", False),
    ):
        eyes = Eyes.of(model)
        assert eyes.drawn_shapes_only is expected
        assert bool(eyes.warning) is expected
    assert Eyes.of(str(copy)).model == "my-model"
    for text in ("drawn shapes only", "never saw such pictures", "--model"):
        assert text in Eyes.of(str(DEMO_MODEL)).warning
    weights = load_file(copy / "model.safetensors")
    save_file(weights | {PATCHES: weights[PATCHES] + 1}, copy / "model.safetensors")  # another training
    assert not Eyes.of(str(copy)).drawn_shapes_only


def test_kept_by_hand_is_said():
    assert called(VidCom2(0.25), Keep.parse("2s-3s:50%")) == "vidcom2@0.25 --keep 2s-3s:50%"
    assert called(drawable("fastv@0.75:k=1"), None) == "fastv@0.75:k=1, last layer"
