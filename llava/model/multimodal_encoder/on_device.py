"""Video frames to the tower's pixels on the tower's device, bit for bit what PIL and numpy make of them.

PIL resizes in integers, one axis after the other: weights are rounded to 22 bits behind the point, sums to 8-bit
colours, in between as well. Integers add up alike on every device, so that the same weights give the same pixels.
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

BITS = 22  # of a weight behind the point
AT_ONCE = 8  # frames; bounds the memory that sums take


def preprocess_on_device(processor: Any, frames: Tensor) -> Tensor:
    """A tower's `image_processor.preprocess`, for uint8 frames [T, H, W, 3], on their device: float32 [T, 3, S, S].

    ValueError for other frames and for a processor that does not resize with PIL's bicubic filter; RuntimeError where
    this Pillow resizes in a way that is not known here.
    """
    if frames.dtype != torch.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or not frames.numel():
        raise ValueError(f"frames must be uint8 [T, H, W, 3], got {frames.dtype} {list(frames.shape)}")
    if processor.resample != Image.Resampling.BICUBIC:
        raise ValueError(f"only bicubic resizing is done on the device, not {processor.resample!r}")
    if isinstance(processor, SigLipImageProcessor):
        size = crop = processor.size
    else:  # CLIP's: the shorter side to this length, then the middle
        edge = processor.size["shortest_edge"]
        height, width = frames.shape[1:3]
        size = (edge, edge * width // height) if height <= width else (edge * height // width, edge)
        crop = processor.crop_size["height"], processor.crop_size["width"]
    top, left = ((whole - part) // 2 for whole, part in zip(size, crop, strict=True))
    table = _levels(processor, crop).to(frames.device)
    pixels = torch.empty((len(frames), 3, *crop), device=frames.device)
    for some, out in zip(frames.split(AT_ONCE), pixels.split(AT_ONCE), strict=True):
        resized = resize(some.permute(0, 3, 1, 2), size)[:, :, top : top + crop[0], left : left + crop[1]]
        for channel in range(3):
            out[:, channel] = table[channel][resized[:, channel].int()]
    return pixels


def _levels(processor: Any, size: tuple[int, int]) -> Tensor:
    """float32 [3, 256]: what the processor makes of every level of every channel."""
    count = math.ceil(256 / math.prod(size))
    ramp = np.resize(np.arange(256, dtype=np.uint8), (count, *size))  # images that need no resizing
    images = list(np.stack([ramp] * 3, axis=-1))
    values = processor.preprocess(images, return_tensors="pt")["pixel_values"]
    return values.transpose(0, 1).flatten(1)[:, :256].contiguous()


def resize(images: Tensor, size: tuple[int, int]) -> Tensor:
    """uint8 [n, C, H, W] -> uint8 [n, C, *size] as PIL's resize with BICUBIC has it, to the bit."""
    before = images.shape[2], images.shape[3]
    return _in_order(images, size, _height_first(before, size))


def _in_order(images: Tensor, size: tuple[int, int], height_first: bool) -> Tensor:
    if height_first:
        return _resize_width(_resize_height(images, size[0]), size[1])
    return _resize_height(_resize_width(images, size[1]), size[0])


def _resize_width(images: Tensor, length: int) -> Tensor:
    # Whole rows are fetched many times faster than single colours.
    return _resize_height(images.mT.contiguous(), length).mT.contiguous()


def _resize_height(images: Tensor, length: int) -> Tensor:
    n, channels, height, width = images.shape
    if height == length:
        return images
    rows, weights = (torch.from_numpy(array).to(images.device) for array in _taps(height, length))
    half = 1 << (BITS - 1)
    total = torch.full((n, channels, length, width), half, dtype=torch.int32, device=images.device)
    for row, weight in zip(rows, weights, strict=True):
        total.addcmul_(images.index_select(2, row).int(), weight[:, None])
    return (total >> BITS).clamp_(0, 255).to(torch.uint8)


@lru_cache(maxsize=64)
def _taps(before: int, after: int) -> tuple[np.ndarray, np.ndarray]:
    """int32 [taps, after]: where a resized axis takes its values from, and their weights times 2**BITS."""
    scale = before / after
    stretch = max(scale, 1.0)  # a smaller picture takes a wider look
    centre = (np.arange(after) + 0.5) * scale
    first = np.maximum((centre - 2 * stretch + 0.5).astype(int), 0)
    end = np.minimum((centre + 2 * stretch + 0.5).astype(int), before)
    at = first + np.arange((end - first).max())[:, None]
    x = np.abs((at - centre + 0.5) * (1 / stretch))
    # Keys' cubic with a = -1/2.
    weights = np.where(x < 1, (1.5 * x - 2.5) * x * x + 1, np.where(x < 2, (((x - 5) * x + 8) * x - 4) * -0.5, 0.0))
    weights[at >= end] = 0
    total = np.zeros(after)
    for row in weights:  # in PIL's order: the sum's last bit matters
        total += row
    weights /= total
    fixed = np.trunc(weights * (1 << BITS) + np.copysign(0.5, weights))
    return np.minimum(at, before - 1).astype(np.int32), fixed.astype(np.int32)


@lru_cache(maxsize=1024)
def _height_first(before: tuple[int, int], after: tuple[int, int]) -> bool:
    """Whether this Pillow resizes the height before the width; RuntimeError where it does neither as known here.

    Releases differ in that, and the latest decides by the sizes; so it is asked, with a picture in which all shows.
    """
    picture = np.random.default_rng(0).integers(0, 2, before, dtype=np.uint8) * np.uint8(255)
    expected = torch.from_numpy(np.array(Image.fromarray(picture).resize(after[::-1], Image.Resampling.BICUBIC)))
    source = torch.from_numpy(picture)[None, None]
    for height_first in (False, True):
        if torch.equal(_in_order(source, after, height_first)[0, 0], expected):
            return height_first
    raise RuntimeError(f"Pillow {PIL.__version__} resizes {before} to {after} in an unknown way: use preprocess=exact")
