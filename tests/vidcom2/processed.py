"""What the real processors of transformers write, and whether a layout finds every frame's tokens in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from vidcom2.models.caches import positions_of
from vidcom2.models.layouts import LAYOUTS, framed_videos


def byte_tokenizer(first: Sequence[str], **named: str) -> PreTrainedTokenizerFast:
    """A tokenizer of bytes, whose vocabulary begins with special tokens. named: attributes for some of these."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([*first, *letters])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(first))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, extra_special_tokens=named, pad_token=first[0], padding_side="left"
    )


def frames_of(count: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    """uint8 [count, height, width, 3]."""
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def metadata(count: int, fps: float = 2.0) -> dict[str, Any]:
    """What a reader says of such frames, all of which it kept."""
    return {"fps": fps, "total_num_frames": count, "duration": count / fps, "frames_indices": list(range(count))}


@torch.no_grad()
def assert_finds_the_frames(model: Any, inputs: Mapping[str, Tensor], expected: Sequence[Sequence[Tensor]]) -> None:
    """The rows that the layout finds in a call hold the features of the videos' frames, in their order.

    expected: for each video its frames [M, D], as the model's encoder returns them.
    """
    outer, found = model.model, []

    def look(lm: Any, args: Any, kwargs: dict[str, Any]) -> None:
        embeds = kwargs["inputs_embeds"]
        positions = positions_of(kwargs, embeds, None)
        for video in framed_videos(LAYOUTS[model.config.model_type], outer, dict(inputs), positions):
            found.append(embeds[video.row, video.columns].unflatten(0, (video.frames, -1)))

    handle = outer.language_model.register_forward_pre_hook(look, with_kwargs=True)
    try:
        outer(**inputs)
    finally:
        handle.remove()
    assert [tuple(video.shape[:2]) for video in found] == [(len(frames), len(frames[0])) for frames in expected]
    for video, frames in zip(found, expected, strict=True):
        torch.testing.assert_close(video, torch.stack(list(frames)), atol=1e-5, rtol=1e-5)
