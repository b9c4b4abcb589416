"""LLaVA-OneVision of transformers ends a video with a newline, which its features hold: no patch, and never ranked."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import ClassVar

import pytest
import torch
import transformers as hf
from packaging.version import Version
from torch import Tensor

from tests.vidcom2.hf_tiny import batch, prompt, text, tiny, video
from vidcom2 import Compressor, Kept, VidCom2

FRAMES, SIDE = 4, 4
encodes_first = pytest.mark.skipif(Version(hf.__version__) < Version("5.23"), reason="generate() takes pixels only")


@dataclass(frozen=True)
class Watched(Compressor):
    """VidCom² that remembers what it was asked to rank."""

    name: ClassVar[str] = "watched"
    seen: list[Tensor] = field(default_factory=list)

    def _select(self, x: Tensor) -> Kept:
        self.seen.append(x.clone())
        return VidCom2(self.retention).select(x)


@pytest.mark.parametrize("way", ["pixels", pytest.param("encoded", marks=encodes_first)])
def test_the_newline_is_never_ranked_and_always_kept(way):
    """Whatever the newline is, the features that are ranked are the frames' alone, and it follows those that stay."""
    model = tiny("llava_onevision")
    outer = model.model
    row = prompt("llava_onevision", text(3), video(FRAMES), text(5))
    inputs = batch([row])
    pixels = inputs["pixel_values_videos"]
    ranked, kept = [], []

    # Like the first token, and unlike any: the one would be dropped, the other kept.
    for newline in (outer.get_video_features(pixels).pooler_output[0, 0].detach(), torch.full((48,), 30.0)):
        with torch.no_grad():
            outer.image_newline.copy_(newline)
            encoded = outer.get_video_features(pixels, return_dict=True)
        patches = encoded.pooler_output[0].clone()
        if len(patches) == FRAMES * SIDE**2 + 1:  # transformers 5.23 and later
            assert torch.equal(patches[-1], newline)
            patches = patches[:-1]
        call = {name: value for name, value in inputs.items() if name != "pixel_values_videos"}
        call |= (
            {"mm_encoder_outputs": {"video": copy.deepcopy(encoded)}}
            if way == "encoded"
            else {"pixel_values_videos": pixels}
        )
        compressor = Watched(retention=0.25)
        with compressor(model) as run:
            hook = outer.language_model.layers[0].register_forward_pre_hook(
                lambda module, args: kept.append(args[0][0].clone()) if args[0].shape[1] > 1 else None
            )
            model.generate(**call, max_new_tokens=1, do_sample=False)
            hook.remove()
        (features,) = compressor.seen
        assert torch.equal(features, patches.unflatten(0, (FRAMES, SIDE**2)))
        ranked.append(features)
        record = run.records[0]
        assert (record.separators_before, record.separators_after) == (1, 1)
        rows = kept[-1]
        assert len(rows) == 3 + sum(record.frames_after) + 1 + 5
        assert torch.equal(rows[3 + sum(record.frames_after)], newline)
    assert torch.equal(*ranked)
    first, second = kept
    assert len(first) == len(second)
    assert (first != second).any(dim=-1).sum() == 1, "only the newline itself differs"
