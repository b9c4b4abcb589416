"""Frames that torch resizes and normalises equal those of PIL and numpy, to the bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from llava.model.multimodal_encoder.on_device import preprocess_on_device, resize, resized
from llava.model.multimodal_encoder.siglip_processor import SigLipImageProcessor

# height, width of frames: smaller and larger than the tower's, wide, tall, odd, a single pixel wide, nothing to do.
SIZES = [(36, 64), (64, 36), (47, 63), (9, 200), (200, 9), (128, 128), (31, 30), (77, 1), (2, 3), (30, 50), (360, 640)]


def frames(height: int, width: int, count: int = 2) -> np.ndarray:
    """Return frames with random colours in the first half, and black and white, which overshoot most, in the second."""
    rng = np.random.default_rng(height * 1000 + width)
    mixed = rng.integers(0, 256, (count, height, width, 3), dtype=np.uint8)
    mixed[count // 2 :] = (mixed[count // 2 :] > 127) * np.uint8(255)
    return mixed


@pytest.mark.parametrize("target", [(30, 30), (16, 50), (67, 21)])
@pytest.mark.parametrize("size", SIZES)
def test_resizing_is_pils(size: tuple[int, int], target: tuple[int, int]) -> None:
    source = frames(*size)
    ours = resize(torch.from_numpy(source).permute(0, 3, 1, 2), target)
    assert ours.dtype == torch.uint8
    for picture, made in zip(source, ours.permute(0, 2, 3, 1).numpy(), strict=True):
        expected = np.asarray(Image.fromarray(picture).resize(target[::-1], Image.Resampling.BICUBIC))
        np.testing.assert_array_equal(made, expected)


PROCESSORS = {
    "siglip": SigLipImageProcessor(size=(30, 30)),
    "siglip oblong": SigLipImageProcessor(image_mean=(0.1, 0.2, 0.3), image_std=(1.0, 0.3, 0.7), size=(10, 24)),
    "clip": CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}),
}


@pytest.mark.parametrize("processor", PROCESSORS.values(), ids=PROCESSORS)
@pytest.mark.parametrize("size", [(36, 64), (64, 36), (47, 63), (40, 133), (28, 28), (30, 30), (11, 17)])
def test_pixels_are_the_processors(size: tuple[int, int], processor) -> None:
    source = frames(*size, count=19)  # more than are done at once, and not a multiple
    expected = processor.preprocess(list(source), return_tensors="pt")["pixel_values"]
    ours = preprocess_on_device(processor, torch.from_numpy(source))
    assert ours.dtype == expected.dtype == torch.float32
    assert torch.equal(ours, expected)
    assert ours.is_contiguous()


@pytest.mark.parametrize("processor", PROCESSORS.values(), ids=PROCESSORS)
@pytest.mark.parametrize("size", [(36, 64), (64, 36), (47, 63), (40, 133), (28, 28), (30, 30), (11, 17)])
def test_small_frames_give_the_same_pixels(size: tuple[int, int], processor) -> None:
    source = frames(*size)
    small = resized(processor, source)
    expected = processor.preprocess(list(source), return_tensors="pt")["pixel_values"]
    assert small.dtype == np.uint8
    assert small.shape == (2, *expected.shape[2:], 3)
    assert torch.equal(processor.preprocess(list(small), return_tensors="pt")["pixel_values"], expected)


def test_a_full_sized_frame() -> None:
    processor, source = SigLipImageProcessor(), frames(270, 481)
    expected = processor.preprocess(source, return_tensors="pt")["pixel_values"]
    assert torch.equal(preprocess_on_device(processor, torch.from_numpy(source)), expected)


@pytest.mark.parametrize(
    "bad",
    [
        torch.zeros(2, 8, 8, 3),
        torch.zeros(2, 3, 8, 8, dtype=torch.uint8),
        torch.zeros(8, 8, 3, dtype=torch.uint8),
        torch.zeros(0, 8, 8, 3, dtype=torch.uint8),
    ],
)
def test_what_are_no_frames(bad: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"frames must be uint8 \[T, H, W, 3\], got torch\..* \["):
        preprocess_on_device(SigLipImageProcessor(), bad)


def test_other_filters() -> None:
    processor = SigLipImageProcessor(resample=Image.Resampling.BILINEAR)
    with pytest.raises(ValueError, match=r"only bicubic .* not .*BILINEAR"):
        preprocess_on_device(processor, torch.from_numpy(frames(8, 8)))


def test_a_pillow_that_resizes_otherwise_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Image.Image.resize
    monkeypatch.setattr(Image.Image, "resize", lambda self, size, _: original(self, size, Image.Resampling.LANCZOS))
    with pytest.raises(RuntimeError, match=r"resizes \(5, 9\) to \(11, 7\) in an unknown way: use preprocess=exact"):
        resize(torch.from_numpy(frames(5, 9)).permute(0, 3, 1, 2), (11, 7))
