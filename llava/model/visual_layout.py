"""Where patches and newlines stand in the LLM's input: pure functions from features to the rows of one visual input.

A video's layout is an int64 vector with one entry for each row of the uncompressed input: the number of the row's patch
in the flattened T·M, or NEWLINE. Compression picks rows of it, so it also tells the original position of every row that
is kept.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from torch import Tensor
from torch.nn.functional import interpolate, max_pool2d, pad

from llava.mm_utils import get_anyres_image_grid_shape
from vidcom2 import Kept
from vidcom2.models.spliced import SEPARATOR

NEWLINE = -1
"""In a layout: the row is no patch."""


@dataclass(frozen=True)
class VisualRows:
    """The LLM's rows for one visual input.

    Attributes:
        rows: [L', D].
        offset: int64 [L'], where each row stands among the `length` rows of the uncompressed input.
        frame: int64 [L'], frame of each row; SEPARATOR for newlines. An image is one frame.
        length: L, the rows without compression.
        frames: For each frame, its patches before and after compression.
        separators: Newlines before and after compression.
        by_hand: See `vidcom2.Record`.
    """

    rows: Tensor
    offset: Tensor
    frame: Tensor
    length: int
    frames: tuple[tuple[int, int], ...]
    separators: tuple[int, int]
    by_hand: tuple[int | None, ...] = ()


# ---- videos


def video_newlines(config: Any) -> str:
    """Return which newlines a video gets: "grid" (after each row), "frame", "one_token" (at the end) or "none".

    Args:
        config: The model's config, with upstream's `mm_patch_merge_type` and `mm_newline_position`.

    Raises:
        ValueError: If one of these is unknown, or asks for newlines where the model has no `image_newline`.
    """
    merge = getattr(config, "mm_patch_merge_type", "flat")
    position = getattr(config, "mm_newline_position", "one_token")
    if merge == "flat":
        return "none"
    if not merge.startswith("spatial"):
        raise ValueError(f"mm_patch_merge_type={merge!r} is unknown; use flat, spatial or spatial_unpad (and kin)")
    if position not in ("grid", "frame", "one_token", "no_token"):
        raise ValueError(f"mm_newline_position={position!r} is unknown; use grid, frame, one_token or no_token")
    if getattr(config, "add_faster_video", False):
        raise ValueError("add_faster_video is not supported: set it to false with overwrite_config")
    if "unpad" in merge:
        return "none" if position == "no_token" else position
    if position in ("grid", "frame"):
        raise ValueError(
            f"mm_newline_position={position!r} needs newlines, but mm_patch_merge_type={merge!r} gives the model none; "
            "use spatial_unpad"
        )
    return "none"


def video_layout(frames: int, height: int, width: int, newlines: str) -> Tensor:
    """Return the layout of T frames of height x width patches: int64 [L], frame by frame, then row by row."""
    patches = torch.arange(frames * height * width)
    match newlines:
        case "grid":
            return pad(patches.view(-1, width), (0, 1), value=NEWLINE).flatten()
        case "frame":
            return pad(patches.view(frames, -1), (0, 1), value=NEWLINE).flatten()
        case "one_token":
            return pad(patches, (0, 1), value=NEWLINE)
        case _:
            return patches


def kept_rows(layout: Tensor, kept: Tensor, width: int, newlines: str, style: str, per_frame: int) -> Tensor:
    """Return which rows of a layout stay, in the order of the output, where only some patches are kept.

    Newlines stay, except that "grid" newlines follow `style`. Where every patch stays, nothing moves.

    Args:
        layout: int64 [L].
        kept: int64, numbers of the kept patches.
        width: Patches in a row of the grid.
        newlines: As returned by `video_newlines`.
        style: "released" moves each frame's newlines behind its kept tokens. "rows" drops the newline of a row that
            lost all its patches.
        per_frame: Patches per frame.

    Returns:
        int64 [L'], indices into `layout`.
    """
    is_kept = torch.zeros(int(layout.max()) + 1, dtype=torch.bool)
    is_kept[kept] = True
    newline = layout == NEWLINE
    stays = newline | is_kept[layout]
    if newlines != "grid" or bool(stays.all()):
        return stays.nonzero().flatten()
    if style == "rows":
        row = torch.arange(len(layout)) // (width + 1)
        alive = torch.zeros(int(row.max()) + 1, dtype=torch.bool)
        alive[kept // width] = True
        return (stays & alive[row]).nonzero().flatten()
    rows = stays.nonzero().flatten()
    frame = rows // (per_frame + per_frame // width)
    return rows[(2 * frame + newline[rows]).argsort(stable=True)]


def arrange_video(features: Tensor, newline: Tensor | None, newlines: str, kept: Kept | None, style: str) -> VisualRows:
    """Return the rows of one video.

    Args:
        features: [T, M, D], M a square number.
        newline: [D], needed unless `newlines` is "none".
        newlines: As returned by `video_newlines`.
        kept: What compression left; None for everything.
        style: The compressor's setting `newlines`; see `kept_rows`.

    Raises:
        ValueError: If M is no square number.
    """
    frames, m = features.shape[:2]
    side = math.isqrt(m)
    if side * side != m:
        raise ValueError(f"{m} tokens per frame are no square grid; video features must be [T, h*h, D]")
    layout = video_layout(frames, side, side, newlines)
    patches, after = features.flatten(0, 1), (m,) * frames
    if kept is None:
        rows = torch.arange(len(layout))
        source = which = layout
    else:
        after, index = tuple(kept.budgets.tolist()), kept.index.cpu()
        rows = kept_rows(layout, index, side, newlines, style, m)
        source = which = layout[rows]
        if kept.features is not None:
            patches, which = kept.features.to(patches), torch.searchsorted(index, source)
    # A newline takes some patch's place first: with newlines behind them, the patches would all be copied.
    embeds = patches.index_select(0, which.clamp(min=0).to(patches.device))
    newlines_at = (source == NEWLINE).nonzero()[:, 0]
    if newline is not None:
        embeds[newlines_at.to(embeds.device)] = newline.to(embeds)
    return VisualRows(
        rows=embeds,
        offset=rows,
        frame=torch.where(source == NEWLINE, SEPARATOR, source // m),
        length=len(layout),
        frames=tuple(zip((m,) * frames, after, strict=True)),
        separators=(int((layout == NEWLINE).sum()), len(newlines_at)),
        by_hand=() if kept is None else kept.by_hand,
    )


# ---- images


def arrange_image(
    views: Tensor, newline: Any, config: Any, image_size: tuple[int, int] | None, tile_size: int
) -> VisualRows:
    """Return the rows of one image: its views flattened, tiled into one map, unpadded, with newlines.

    Args:
        views: [V, N, D]. With V > 1, view 0 is the whole image and the others are its tiles.
        newline: [D], or None if the model has none.
        config: The model's config, with upstream's `mm_patch_merge_type` and `image_aspect_ratio`.
        image_size: (width, height) of the original, needed for tiles.
        tile_size: Pixels per side of a tile.

    Raises:
        ValueError: If the merge type is unknown, or if the tiles come without a size or do not fit it.
    """
    merge = getattr(config, "mm_patch_merge_type", "flat")
    newline = newline if newline is None else newline.to(views)
    newlines: Tensor | None = None
    if merge == "flat":
        rows = views.flatten(0, 1)
    elif not merge.startswith("spatial"):
        raise ValueError(f"mm_patch_merge_type={merge!r} is unknown; use flat, spatial or spatial_unpad (and kin)")
    elif len(views) == 1:
        rows = views[0]
        if "unpad" in merge:
            newlines = pad(torch.zeros(len(rows), dtype=torch.bool), (0, 1), value=True)
            rows = torch.cat([rows, newline[None]])
    elif image_size is None:
        raise ValueError(f"an image of {len(views)} views needs its size: pass image_sizes=[(width, height), ...]")
    else:
        tiles = tile_map(views[1:], _tile_grid(config, image_size, len(views) - 1, tile_size))
        if "maxpool2x2" in merge:
            rows = max_pool2d(tiles, 2).flatten(1).mT
        elif "unpad" in merge:
            tiles = unpad_image(tiles, image_size)
            aspect = getattr(config, "image_aspect_ratio", "square")
            if "anyres_max" in aspect:
                tiles = limit_map(tiles, int(aspect.rsplit("_", 1)[1]) * views.shape[1])
            newlines = pad(torch.zeros(tiles.shape[1:], dtype=torch.bool), (0, 1), value=True).flatten()
            rows = torch.cat([tiles, newline[:, None, None].expand(-1, tiles.shape[1], 1)], dim=2).flatten(1).mT
        else:
            rows = tiles.flatten(1).mT
        if "nobase" not in merge:
            rows = torch.cat([views[0], rows])
            newlines = newlines if newlines is None else pad(newlines, (len(views[0]), 0))
    return plain_rows(rows, newlines)


def plain_rows(rows: Tensor, newlines: Tensor | None = None) -> VisualRows:
    """Return rows [L, D] that nothing compresses. newlines: bool [L], which of them are newlines; None for none."""
    newlines = torch.zeros(len(rows), dtype=torch.bool) if newlines is None else newlines
    separators = int(newlines.sum())
    patches = len(rows) - separators
    return VisualRows(
        rows=rows,
        offset=torch.arange(len(rows)),
        frame=torch.where(newlines, SEPARATOR, 0),
        length=len(rows),
        frames=((patches, patches),),
        separators=(separators, separators),
    )


def _tile_grid(config: Any, image_size: tuple[int, int], tiles: int, tile_size: int) -> tuple[int, int]:
    """Tiles per row and per column."""
    if "anyres" not in getattr(config, "image_aspect_ratio", "square"):
        grid = (2, 2)
    else:
        grid = get_anyres_image_grid_shape(image_size, config.image_grid_pinpoints, tile_size)
    if grid[0] * grid[1] != tiles:
        raise ValueError(f"an image of size {image_size} should have {grid[0]}x{grid[1]} tiles, but {tiles} came")
    return grid


def tile_map(tiles: Tensor, grid: tuple[int, int]) -> Tensor:
    """Put tiles [n, side·side, D] together to a map [D, rows·side, columns·side].

    Args:
        tiles: The tiles, in raster order.
        grid: (columns, rows) of tiles.
    """
    columns, _ = grid
    side = math.isqrt(tiles.shape[1])
    return rearrange(tiles, "(row column) (y x) d -> d (row y) (column x)", column=columns, x=side)


def unpad_image(tensor: Tensor, original_size: tuple[int, int]) -> Tensor:
    """Cut the letterbox padding off a map [D, H, W] of an image of original_size (width, height)."""
    width, height = original_size
    rows, columns = tensor.shape[1:]
    if width / height > columns / rows:
        padding = (rows - int(height * (columns / width))) // 2
        return tensor[:, padding : rows - padding]
    padding = (columns - int(width * (rows / height))) // 2
    return tensor[:, :, padding : columns - padding]


def limit_map(tensor: Tensor, max_tokens: int) -> Tensor:
    """Shrink a map [D, H, W] of more than 1.21 times `max_tokens` cells to about `max_tokens` (anyres_max_K)."""
    rows, columns = tensor.shape[1:]
    times = math.sqrt(rows * columns / max_tokens)
    if times <= 1.1:
        return tensor
    return interpolate(tensor[None], (int(rows // times), int(columns // times)), mode="bilinear")[0]
