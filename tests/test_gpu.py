"""A GPU gives what the CPU gives, which the other tests compare with references.

Without a GPU, a pretended one is used. It shows that every tensor is on the right device, not what kernels compute.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import dispatch_model, infer_auto_device_map

from eval.demo.encode import write_video
from eval.models import load_engine, protocol_for
from eval.speed.memory import peak_bytes
from eval.speed.random_features import features
from eval.speed.reference_operator import slow_reference
from llava.model.multimodal_encoder.on_device import preprocess_on_device
from tests.eval.qwen_tiny import make_qwen
from tests.eval.run.test_batch_answers import QUESTIONS, generation, told
from tests.fixtures.checkpoint import make_checkpoint
from tests.llava.test_batches import batch as llava_batch
from tests.llava.test_on_device import PROCESSORS, frames
from tests.llava.test_video import noisy_frames
from tests.llava.tiny import tiny_model
from tests.pretended_gpus import pretended_gpus
from tests.vidcom2.grids import grid_of
from tests.vidcom2.hf_tiny import batch, tiny
from tests.vidcom2.test_in_llm import LAYERS
from tests.vidcom2.test_in_llm import SPECS as INSIDE
from tests.vidcom2.test_matrix import SPECS, llava_samples, made
from tests.vidcom2.test_transformers import answers, assert_close, generate, rows_of
from tests.vidcom2.test_vidcom2 import VARIANTS, video
from vidcom2 import Kept, VidCom2, compressor
from vidcom2.measures import measure

REAL, GPU = torch.cuda.is_available(), torch.device("cuda:0")
OVER_TWO = ("fastv+fca@0.5", "pdrop@0.4", "sparsevlm@0.5:positions=original", "sparsevlm@0.4:version=2:heads=3")
over_dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)


@pytest.fixture(autouse=True)
def gpu():
    with nullcontext() if REAL else pretended_gpus():
        yield


@pytest.mark.skipif(REAL, reason="there is a GPU")
def test_a_pretended_gpu_refuses_what_a_real_one_does():
    here, there = torch.ones(3), torch.ones(3, device="cuda")
    assert (there + 1).device == there[[0, 1]].device == torch.zeros_like(there).device == GPU
    assert (there * torch.tensor(2)).tolist() == [2, 2, 2]  # a number may be on the CPU
    for mixed in (
        lambda: here + there,
        lambda: torch.cat([here, there]),
        lambda: there[torch.ones(3).cuda() > 0] @ here,
    ):
        with pytest.raises(RuntimeError, match="tensors are on cpu and cuda:0"):
            mixed()
    with pytest.raises((RuntimeError, TypeError)):
        there.numpy()


@pytest.mark.parametrize("variant", VARIANTS)
@over_dtypes
def test_scores_of_vidcom2(variant, dtype):
    x = video(8, 30, 48).to(dtype)
    ours, exact = VARIANTS[variant].explain(x.to(GPU)), VARIANTS[variant].explain(x.double())
    torch.testing.assert_close(ours.video.cpu().double(), exact.video, atol=3e-6, rtol=0)
    torch.testing.assert_close(ours.frame.cpu().double(), exact.frame, atol=3e-6, rtol=0)


@pytest.mark.parametrize("spec", SPECS)
@over_dtypes
def test_selection(spec, dtype):
    """Scores that differ in their last bits may order two of these 960 tokens otherwise."""
    x = video(16, 60, 64).to(dtype)
    ours, expected = made(spec).select(x.to(GPU), grid_of(60)), made(spec).select(x, grid_of(60))
    assert ours.index.device.type == ours.budgets.device.type == "cuda"
    assert len(set(ours.index.tolist()) ^ set(expected.index.tolist())) <= (0 if dtype == torch.float32 else 4)


@pytest.mark.parametrize("spec", ["vidcom2@0.25", "fastvid@0.25"])
@over_dtypes
def test_measures_of_what_is_kept(spec, dtype):
    x = video(16, 60, 64).to(dtype)
    kept = compressor(spec).select(x)
    there = Kept(kept.index.to(GPU), kept.budgets.to(GPU), None if kept.features is None else kept.features.to(GPU))
    ours, expected = (dataclasses.asdict(one) for one in (measure(x.to(GPU), there), measure(x, kept)))
    assert ours.pop("budgets") == expected.pop("budgets")
    assert ours == pytest.approx(expected, rel=1e-3, abs=1e-5)


def test_released_keeps_what_the_slow_reference_keeps():
    x = features((24, 40, 4096), torch.float32, GPU)
    assert torch.equal(VidCom2.released(0.25).select(x).index, slow_reference(x, 0.25))


@pytest.mark.skipif(not REAL, reason="there is no GPU")
@over_dtypes
def test_little_memory_beyond_the_features(dtype):
    x = features((32, 196, 3584), dtype, GPU)
    for method in (VidCom2(0.25), VidCom2.released(0.25)):
        assert 0 < peak_bytes(method.select, x) < x.nbytes / 10, method


@pytest.mark.parametrize("processor", PROCESSORS.values(), ids=PROCESSORS)
def test_pixels(processor):
    source = torch.from_numpy(frames(47, 63, count=19))
    assert torch.equal(preprocess_on_device(processor, source.to(GPU)).cpu(), preprocess_on_device(processor, source))


@functools.cache
def models(kind: str) -> tuple[Any, Any]:
    """A tiny model on the CPU and the same one on the GPU."""
    if kind == "llava":
        model = tiny_model(Path(tempfile.mkdtemp()), seed=5, num_hidden_layers=LAYERS)
    else:
        model = tiny(kind, layers=LAYERS)
    return model, copy.deepcopy(model).to(GPU)


@functools.cache
def over_two_gpus(kind: str, share: float) -> Any:
    """The tiny model with `share` of its weights on the first GPU, and the rest on the second."""
    model, _ = models(kind)
    size = sum(weight.nbytes for weight in model.parameters())
    room = {0: int(size * share), 1: 2 * size}
    places = infer_auto_device_map(model, max_memory=room, no_split_module_classes=model._no_split_modules)
    assert set(places.values()) == {0, 1}
    return dispatch_model(copy.deepcopy(model), device_map=places)


@functools.cache
def on_cpu(kind: str, spec: str) -> Any:
    """What the model generates on the CPU."""
    model, _ = models(kind)
    with compressor(spec)(model):
        return generate(model, inputs(kind))


def inputs(kind: str) -> dict[str, Any]:
    if kind != "llava":
        return batch(rows_of(kind, "padded"))
    ids, others = llava_batch(llava_samples("padded"))
    return {"inputs": ids, **others}


def on(device: torch.device, value: Any) -> Any:
    if isinstance(value, list):
        return [on(device, part) for part in value]
    return value.to(device) if isinstance(value, torch.Tensor) else value


@pytest.mark.parametrize("kind", ["llava", "qwen2_vl", "llava_onevision"])
@pytest.mark.parametrize("spec", ["none", *(f"{spec}@0.3" for spec in SPECS), *INSIDE])
def test_answers(kind, spec):
    _, model = models(kind)
    with compressor(spec)(model):
        ours = generate(model, {name: on(GPU, value) for name, value in inputs(kind).items()})
    expected = on_cpu(kind, spec)
    assert answers(ours) == answers(expected)
    assert_close(torch.stack(ours.logits).cpu(), torch.stack(expected.logits))


@pytest.mark.skipif(REAL and torch.cuda.device_count() < 2, reason="there is one GPU")
@pytest.mark.parametrize(
    ("kind", "share"),
    [("llava", 0.45), ("qwen2_vl", 0.45), ("qwen3_vl", 0.45), ("qwen3_vl", 0.75), ("llava_onevision", 0.75)],
)
@pytest.mark.parametrize("spec", ["none", "vidcom2@0.3", "vidcom2@0.3:positions=repack", "visionzip@0.3", *OVER_TWO])
def test_answers_of_a_model_over_two_gpus(kind, spec, share):
    """`share` of the weights on the first: part of the layers, or next to none of them, on the second."""
    model = over_two_gpus(kind, share)
    with compressor(spec)(model):
        ours = generate(model, {name: on(GPU, value) for name, value in inputs(kind).items()})
    expected = on_cpu(kind, spec)
    assert answers(ours) == answers(expected)
    assert_close(torch.stack([step.cpu() for step in ours.logits]), torch.stack(expected.logits))


@pytest.mark.parametrize("spec", ["vidcom2@0.25", "fastv@0.6:k=1"])
@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("onevision", {"preprocess": "exact"}),
        ("onevision", {"preprocess": "fast"}),
        ("video", {}),
        ("qwen2_vl", {}),
        ("qwen3_vl", {"min_pixels": 16 * 28 * 28}),  # the published 256 * 28 * 28 only lengthen prompts
    ],
)
def test_from_video_files_to_answers(kind, settings, spec, tmp_path):
    if kind.startswith("qwen"):
        pytest.importorskip("qwen_vl_utils")
    clips = [tmp_path / "long.mp4", tmp_path / "short.mp4"]
    for clip, length in zip(clips, (40, 24), strict=True):
        write_video(clip, noisy_frames(56)[:length], 8)
    path = str(make_checkpoint(tmp_path, kind) if kind in ("onevision", "video") else make_qwen(tmp_path, kind))
    protocol, said = dataclasses.replace(protocol_for(path), **settings), []
    for device in ("cpu", "cuda:0"):
        engine = load_engine(path, protocol, device, "float32")
        assert engine.device == torch.device(device)
        seen = [engine.see(engine.read(str(clip))) for clip in clips]
        asked = [(seen[0], QUESTIONS[0]), (seen[1], QUESTIONS[1]), (seen[0], QUESTIONS[2])]
        said.append([told(answer) for answer in engine.answer_all(asked, generation(engine), compressor(spec))])
    assert said[0] == said[1]
