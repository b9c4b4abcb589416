"""InternVL's prompts, which have one placeholder for images and for the frames of videos."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vidcom2.models.layouts.layout import split_runs


@dataclass(frozen=True)
class Numbering:
    """How a prompt numbers the frames of its videos: "</img>\\nFrame", "2", ": <img>".

    A model knows token ids only. So the digits are known by 1 to 9 following each other in the vocabulary, as they do
    in Qwen's and OpenAI's.

    Attributes:
        head: Token ids between a frame and the number of the next: the end of the image, a line break, and a word.
        one: Token id of the digit 1.
        tail: Token ids between a frame's number and its tokens.
    """

    head: list[int]
    one: int
    tail: list[int]

    @classmethod
    def of(cls, first: list[int], second: list[int]) -> Numbering | None:
        """Return the numbering that makes two images the frames 1 and 2 of a video; None if there is none.

        Args:
            first: The token ids before the first image. Its word may be another token, as after a space.
            second: The token ids between the first image and the second.
        """
        head, two, tail = second[:3], second[3:4], second[4:]
        if len(tail) < 2 or len(first) < len(tail) + 2 or first[-1 - len(tail) :] != [two[0] - 1, *tail]:
            return None
        return cls(head, two[0] - 1, tail)

    def continues(self, between: list[int], number: int) -> bool:
        """Return whether the token ids between two images make the second one the frame of this number, over 1."""
        written = between[3 : len(between) - len(self.tail)]
        if between != [*self.head, *written, *self.tail]:
            return False
        if number >= 10 and len(written) == 1:  # a vocabulary may have a token for each number, and this is no digit
            return not 0 <= written[0] - self.one + 1 <= 9
        return written == [self.one - 1 + int(digit) for digit in str(number)]

    def names(self, before: list[int]) -> bool:
        """Return whether the token ids before an image end in this word, a number, and what comes after a number."""
        label = before[: -len(self.tail)]
        return before[-len(self.tail) :] == self.tail and self.head[-1] in label[-4:-1]


def numbered_frames(outer: Any, called: dict[str, Any], ids: Tensor, columns: Tensor) -> Iterator[Tensor]:
    """Yield the columns of each video in a row of the batch; see `Layout.split`.

    A video is two or more runs of one tile each that the prompt numbers from 1 on, as the processor numbers frames.
    Other runs beside a video are images, and so is a run by itself.

    Args:
        outer: The outer part of the model.
        called: Arguments of its call, unused.
        ids: int64 [N], input ids of the row.
        columns: int64 [n], columns of all placeholders in the row.

    Raises:
        ValueError: If several runs of one tile are not numbered as the frames of videos, and may be frames or images.
    """
    tokens, tile = ids.tolist(), _tile(outer)
    groups: list[tuple[list[int], list[Tensor]]] = []  # the token ids before the first run, and the runs
    numbering, unclear, end, after_tile = None, False, 0, False
    for run in split_runs(columns):
        text, end = tokens[end : int(run[0])], int(run[-1]) + 1
        if len(run) != tile:
            after_tile = False
            continue
        first, group = groups[-1] if after_tile else ([], [])
        after_tile = True
        if len(group) == 1 and (found := Numbering.of(first, text)) is not None:
            unclear |= numbering not in (None, found)
            numbering = found
            group.append(run)
        elif len(group) > 1 and numbering is not None and numbering.continues(text, len(group) + 1):
            group.append(run)
        else:
            groups.append((text, [run]))
    if numbering is None:
        unclear = len(groups) > 1
    else:
        unclear |= any(numbering.names(first) for first, group in groups if len(group) == 1)
    if unclear:
        tiles = sum(len(group) for _, group in groups)
        raise ValueError(
            f"InternVL's inputs do not tell images and the frames of videos apart, and a prompt here has {tiles} of "
            "them that the processor did not number as the frames of a video each (Frame1: ...). Ask about images "
            "outside of the with-block. Where all of a prompt's images are frames of one video, say so: "
            "LAYOUTS['internvl'] = INTERNVL_ONE_VIDEO, both of vidcom2.models.transformers"
        )
    yield from (torch.cat(group) for _, group in groups if len(group) > 1)


def one_video(outer: Any, called: dict[str, Any], ids: Tensor, columns: Tensor) -> Iterator[Tensor]:
    """Yield the columns of all images in a row of the batch, taken for the frames of one video; see `Layout.split`.

    Raises:
        ValueError: If an image has several tiles.
    """
    if any(len(run) != _tile(outer) for run in split_runs(columns)):
        raise ValueError("a prompt has an image of several tiles, which is no frame of a video")
    yield columns


def _tile(outer: Any) -> int:
    """The number of tokens of one tile."""
    vision = outer.config.vision_config
    return int(vision.image_size[0] // vision.patch_size[0] * outer.config.downsample_ratio) ** 2
