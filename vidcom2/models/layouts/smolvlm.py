"""SmolVLM's prompts, which have one placeholder for images and for the frames of videos."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from vidcom2.models.layouts.layout import Layout, split_runs
from vidcom2.models.layouts.qwen import runs

STAMP = 8
"""Tokens of a time stamp before a frame: two digits, a colon, two digits, a colon, and the two tokens that open an
image. A token is a digit."""


def stamped_frames(outer: Any, called: dict[str, Any], ids: Tensor, columns: Tensor) -> Iterator[Tensor]:
    """Yield the columns of each video in a row of the batch; see `Layout.split`.

    The processor writes "Frame from 00:12:" before each frame, and an introduction before each video. An image has
    neither. So frames of one video are stamped runs of placeholders with the same short text before their stamps.

    Warns:
        RuntimeWarning: The prompt has several images and no video.
    """
    tokens = ids.tolist()
    images = split_runs(columns)
    videos: list[list[Tensor]] = []
    end, in_video, text = 0, False, None
    for image in images:
        first, last = int(image[0]), int(image[-1])
        before, end = tokens[end:first], last + 1
        stamp = _stamp(before, tokens[end : end + 1])
        if not stamp:
            in_video = False
            continue
        between = before[1:-stamp]
        # An introduction tells the video's duration, so it has a colon.
        if in_video and before[-3] not in between and text in (None, between):
            videos[-1].append(image)
            text = between
        else:
            videos.append([image])
            text = None
        in_video = True
    whole = [image for image in images if ids[image[0] - 1] == ids[images[-1][0] - 1]]  # tiles have another token
    if not videos and len(whole) > 1:
        warnings.warn(
            f"{len(whole)} images and no video came in a prompt, and images stay as they are. Where they are the "
            'frames of a video, hand them over as one: {"type": "video"} in the chat',
            RuntimeWarning,
            stacklevel=2,
        )
    yield from map(torch.cat, videos)


def _stamp(before: Sequence[int], after: Sequence[int]) -> int:
    """Count the tokens of the time stamp that ends the tokens before an image; 0 if there is none.

    A model knows token ids only. So digits are known by neighbouring ids, and the token round images by its return
    after the image.
    """
    if len(before) < STAMP or list(after) != [before[-2]] or before[-3] != before[-6]:
        return 0
    digits = (before[-4], before[-5], before[-7], before[-8])
    if before[-3] in digits or max(digits) - min(digits) > 9:
        return 0
    hundreds = len(before) > STAMP and all(abs(before[-1 - STAMP] - digit) <= 9 for digit in digits)
    return STAMP + hundreds


SMOLVLM = Layout("image_token_id", runs, split=stamped_frames, inputs=("pixel_values", "image"))
