"""The layout of Gemma 4: an embedding for each layer, sliding windows, and frames whose tokens see each other."""

from __future__ import annotations

import sys
from typing import Any

from torch.nn.functional import pad

from vidcom2.models.layouts.layout import Layout
from vidcom2.models.layouts.qwen import runs
from vidcom2.models.moved import Moved
from vidcom2.models.names import cache_name, cache_of


def _lengths(outer: Any, called: dict[str, Any]) -> list[int]:
    """Count the tokens of each video: as many cells as the pooling of its real patches has."""
    patches = (called["video_position_ids"] != -1).all(dim=-1).sum(dim=-1)
    cells = patches // outer.config.vision_config.pooling_kernel_size**2
    frames = called.get("num_frames_per_video")
    if frames is None:  # before 5.23 videos are stacked: [videos, frames, patches, 2]
        return cells.sum(dim=-1).tolist()
    return [int(own.sum()) for own in cells.split(frames.tolist())]


def _patches(arguments: dict[str, Any]) -> list[tuple[int, int]] | None:
    """Rows and columns of each frame; see `Layout.patches`. Padding has the place (-1, -1)."""
    places = arguments.get("video_position_ids")
    if places is None:
        return None
    sides = (places.flatten(0, -3).amax(dim=-2) + 1).tolist()
    return [(rows, columns) for columns, rows in sides]


def _finish(outer: Any, called: dict[str, Any], kwargs: dict[str, Any], moved: Moved, rows: int) -> None:
    """Shorten the embeddings of the layers. Build the masks where the tokens of a frame see each other.

    The model's own functions do that, for the rows that are left: their windows count these, as those of the language
    model do in a later step.
    """
    config, embeds = outer.language_model.config, kwargs["inputs_embeds"]
    per_layer, types = kwargs.get("per_layer_inputs"), called.get("mm_token_type_ids")
    if per_layer is not None:
        kwargs["per_layer_inputs"] = moved.pick_rows(per_layer.flatten(2)).unflatten(2, per_layer.shape[2:])
    if config.use_bidirectional_attention == "vision" and types is not None:
        family = sys.modules[type(outer).__module__]
        types = moved.pick(types.to(embeds.device)) * moved.live
        frames = family.get_block_sequence_ids_for_mask(types, embeds.device)
        kwargs["attention_mask"] = family.create_masks_for_vision_model(
            config=config,
            inputs_embeds=embeds,
            attention_mask=kwargs["attention_mask"],
            position_ids=None,
            block_sequence_ids=pad(frames, (rows, 0), value=-1),
            **{cache_name(family.create_masks_for_vision_model): cache_of(kwargs)},
        )


GEMMA4 = Layout("video_token_id", runs, lengths=_lengths, finish=_finish, positions="repack", patches=_patches)
"""A frame is a run of tokens after its time stamp.

Layers with a sliding window were trained on distances up to the window. Where positions are numbered anew the rows in a
window are no further apart than that; with those of the full sequence they are.
"""
