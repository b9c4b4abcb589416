"""InternVL's prompts, which have one placeholder for images and for the frames of videos."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor


def numbered_frames(outer: Any, called: dict[str, Any], ids: Tensor, columns: Tensor) -> Iterator[Tensor]:
    """Yield the columns of the one video in a row of the batch, if there is one; see `Layout.split`.

    A video is two or more runs of one tile each that the prompt numbers as the processor numbers frames. A longer run,
    or a run by itself, is an image.

    Args:
        outer: The outer part of the model.
        called: Arguments of its call, unused.
        ids: int64 [N], input ids of the row.
        columns: int64 [n], columns of all placeholders in the row.

    Raises:
        ValueError: If several runs of one tile are not numbered: they are images, several videos, or both.
    """
    frames, others = _tiles(outer, columns)
    if len(frames) < 2:
        return
    before = ids[: int(frames[0][0])].tolist()
    between = [ids[a[-1] + 1 : b[0]].tolist() for a, b in pairwise(frames)]
    if others or not _numbered(before, between):
        raise ValueError(
            f"InternVL's inputs do not tell images and the frames of videos apart, and a prompt here has {len(frames)} "
            "of them that the processor did not number as the frames of one video (Frame1: ...). Ask about one video "
            "at a time, and about images outside of the with-block. Where all of a prompt's images are frames of one "
            "video, say so: LAYOUTS['internvl'] = INTERNVL_ONE_VIDEO, both of vidcom2.models.transformers"
        )
    yield torch.cat(frames)


def one_video(outer: Any, called: dict[str, Any], ids: Tensor, columns: Tensor) -> Iterator[Tensor]:
    """Yield the columns of all images in a row of the batch, taken for the frames of one video; see `Layout.split`.

    Raises:
        ValueError: If an image has several tiles.
    """
    frames, others = _tiles(outer, columns)
    if others:
        raise ValueError("a prompt has an image of several tiles, which is no frame of a video")
    yield torch.cat(frames)


def _tiles(outer: Any, columns: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """The columns of runs of one tile, and those of other runs."""
    vision = outer.config.vision_config
    side = int(vision.image_size[0] // vision.patch_size[0] * outer.config.downsample_ratio)
    runs = columns.tensor_split((columns.diff() > 1).nonzero()[:, 0].cpu() + 1)
    return [run for run in runs if len(run) == side**2], [run for run in runs if len(run) != side**2]


def _numbered(before: Sequence[int], between: Sequence[Sequence[int]]) -> bool:
    """Whether the token ids before the first frame, and those between two frames, number the frames from 1 on.

    The text before a frame ends in a word, the frame's number, and a part that is the same for all ("Frame", "2",
    ": <img>"). Between two frames only the end of the image and a line break come before that. A model knows token ids
    only. So the digits are known by 1 to 9 following each other in the vocabulary, as they do in Qwen's and OpenAI's.
    """
    same, shortest = 0, min(map(len, [before, *between]))  # how many tokens at the end are the same for all
    while same < shortest and all(tokens[-1 - same] == before[-1 - same] for tokens in between):
        same += 1
    if same < 2 or same == len(before):
        return False
    one = before[-1 - same]
    for number, tokens in enumerate(between, start=2):
        digits = [one - 1 + int(digit) for digit in str(number)]
        written = list(tokens[3 : len(tokens) - same])
        if list(tokens[:3]) != list(between[0][:3]) or (written != digits and (number < 10 or len(written) != 1)):
            return False
    return True
