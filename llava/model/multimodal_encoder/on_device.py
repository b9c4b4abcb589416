"""Preprocessing of video frames on the tower's device, bit for bit as PIL and numpy do it on the CPU.

PIL resizes in integers, one axis after the other. It rounds weights to 22 fractional bits, and the sums after each axis
to 8-bit colours. Integer sums are the same on every device, so the same weights give the same pixels.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
import PIL
import torch
from PIL import Image
from torch import Tensor

from llava.model.multimodal_encoder.siglip_processor import SigLipImageProcessor

WEIGHT_BITS = 22
"""Fractional bits of a weight (PIL's PRECISION_BITS)."""
FRAMES_PER_STEP = 8
"""Frames that are resized at once; bounds the memory of the sums."""


def resized(processor: Any, frames: np.ndarray) -> np.ndarray:
    """Do the part of a tower's `image_processor.preprocess` that makes frames small.

    Args:
        processor: The image processor of a SigLIP or CLIP tower.
        frames: uint8 RGB [T, H, W, 3].

    Returns:
        uint8 RGB [T, S, S, 3]. `processor.preprocess` makes the same pixels of them as of the frames.
    """
    if isinstance(processor, SigLipImageProcessor):
        return processor.resized(frames)
    made = processor.preprocess(list(frames), do_rescale=False, do_normalize=False, return_tensors="np")
    return made["pixel_values"].astype(np.uint8).transpose(0, 2, 3, 1)


def preprocess_on_device(processor: Any, frames: Tensor) -> Tensor:
    """Do what a tower's `image_processor.preprocess` does, on the frames' device.

    Args:
        processor: The image processor of a SigLIP or CLIP tower.
        frames: uint8 RGB [T, H, W, 3].

    Returns:
        float32 [T, 3, S, S] on the same device.

    Raises:
        ValueError: If the frames have another dtype or shape, or the processor does not resize with PIL's bicubic
            filter.
        RuntimeError: If the installed Pillow resizes in an unknown way.
    """
    if frames.dtype != torch.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or not frames.numel():
        raise ValueError(f"frames must be uint8 [T, H, W, 3], got {frames.dtype} {list(frames.shape)}")
    if processor.resample != Image.Resampling.BICUBIC:
        raise ValueError(f"only bicubic resizing is done on the device, not {processor.resample!r}")
    if isinstance(processor, SigLipImageProcessor):
        size = crop = processor.size
    else:  # CLIP resizes the shorter side to this length, then crops the centre
        edge = processor.size["shortest_edge"]
        height, width = frames.shape[1:3]
        size = (edge, edge * width // height) if height <= width else (edge * height // width, edge)
        crop = processor.crop_size["height"], processor.crop_size["width"]
    top, left = ((whole - part) // 2 for whole, part in zip(size, crop, strict=True))
    table = _levels(processor, crop).to(frames.device)
    pixels = torch.empty((len(frames), 3, *crop), device=frames.device)
    for some, out in zip(frames.split(FRAMES_PER_STEP), pixels.split(FRAMES_PER_STEP), strict=True):
        resized = resize(some.permute(0, 3, 1, 2), size)[:, :, top : top + crop[0], left : left + crop[1]]
        for channel in range(3):
            out[:, channel] = table[channel][resized[:, channel].int()]
    return pixels


def _levels(processor: Any, size: tuple[int, int]) -> Tensor:
    """Return float32 [3, 256]: the processor's value for every level of every channel."""
    count = math.ceil(256 / math.prod(size))
    ramp = np.resize(np.arange(256, dtype=np.uint8), (count, *size))  # images of the final size, which are not resized
    images = list(np.stack([ramp] * 3, axis=-1))
    values = processor.preprocess(images, return_tensors="pt")["pixel_values"]
    return values.transpose(0, 1).flatten(1)[:, :256].contiguous()


def resize(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize images with PIL's bicubic filter, to the bit.

    Args:
        images: uint8 [n, C, H, W].
        size: (height, width) of the result in pixels.

    Returns:
        uint8 [n, C, height, width].

    Raises:
        RuntimeError: If the installed Pillow resizes in an unknown way.
    """
    before = images.shape[2], images.shape[3]
    return _in_order(images, size, _height_first(before, size))


def _in_order(images: Tensor, size: tuple[int, int], height_first: bool) -> Tensor:
    if height_first:
        return _resize_width(_resize_height(images, size[0]), size[1])
    return _resize_height(_resize_width(images, size[1]), size[0])


def _resize_width(images: Tensor, length: int) -> Tensor:
    # Reading whole rows is many times faster than reading single values.
    return _resize_height(images.mT.contiguous(), length).mT.contiguous()


def _resize_height(images: Tensor, length: int) -> Tensor:
    n, channels, height, width = images.shape
    if height == length:
        return images
    rows, weights = (torch.from_numpy(array).to(images.device) for array in _taps(height, length))
    half = 1 << (WEIGHT_BITS - 1)
    total = torch.full((n, channels, length, width), half, dtype=torch.int32, device=images.device)
    for row, weight in zip(rows, weights, strict=True):
        total.addcmul_(images.index_select(2, row).int(), weight[:, None])
    return (total >> WEIGHT_BITS).clamp_(0, 255).to(torch.uint8)


@lru_cache(maxsize=64)
def _taps(before: int, after: int) -> tuple[np.ndarray, np.ndarray]:
    """Return int32 [taps, after] twice: for each value of a resized axis its sources, and weights · 2**WEIGHT_BITS."""
    scale = before / after
    stretch = max(scale, 1.0)  # when shrinking, the filter grows with the scale
    centre = (np.arange(after) + 0.5) * scale
    first = np.maximum((centre - 2 * stretch + 0.5).astype(int), 0)
    end = np.minimum((centre + 2 * stretch + 0.5).astype(int), before)
    at = first + np.arange((end - first).max())[:, None]
    x = np.abs((at - centre + 0.5) * (1 / stretch))
    # Keys' cubic with a = -1/2.
    weights = np.where(x < 1, (1.5 * x - 2.5) * x * x + 1, np.where(x < 2, (((x - 5) * x + 8) * x - 4) * -0.5, 0.0))
    weights[at >= end] = 0
    total = np.zeros(after)
    for row in weights:  # summed in PIL's order, because the last bit matters
        total += row
    weights /= total
    fixed = np.trunc(weights * (1 << WEIGHT_BITS) + np.copysign(0.5, weights))
    return np.minimum(at, before - 1).astype(np.int32), fixed.astype(np.int32)


@lru_cache(maxsize=1024)
def _height_first(before: tuple[int, int], after: tuple[int, int]) -> bool:
    """Tell whether the installed Pillow resizes the height before the width.

    Releases differ, and the latest decides by the sizes. So one noisy image is resized in both orders and compared with
    Pillow's result. Raises RuntimeError if neither matches.
    """
    picture = np.random.default_rng(0).integers(0, 2, before, dtype=np.uint8) * np.uint8(255)
    expected = torch.from_numpy(np.array(Image.fromarray(picture).resize(after[::-1], Image.Resampling.BICUBIC)))
    source = torch.from_numpy(picture)[None, None]
    for height_first in (False, True):
        if torch.equal(_in_order(source, after, height_first)[0, 0], expected):
            return height_first
    raise RuntimeError(f"Pillow {PIL.__version__} resizes {before} to {after} in an unknown way: use preprocess=exact")
