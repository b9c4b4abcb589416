"""transformers' own VideoLLMs: Qwen2-VL and newer, LLaVA-OneVision, LLaVA-NeXT-Video, InternVL.

No forward is copied or replaced. These models all have an outer part (`model.model`) that puts the visual features
among the text's embeddings, and inside it `language_model`. A hook before the outer part notes what it was called
with; a hook before the language model takes the video tokens that go out of its inputs (embeddings, positions, masks,
deepstack features), and from then on keeps the attention mask in step with the shorter key-value cache.

That cache is told its *logical* length, pruned tokens included, so everything else in `generate` (positions, chat turns
on the same cache, prompt lookup) counts as it would without compression.

A family's way of laying out its videos is one `Layout`; add one to `LAYOUTS` for a model of your own.
"""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache as memoised
from functools import partial
from threading import get_ident
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from vidcom2.models import names
from vidcom2.models.calls import Calls, Uncopied
from vidcom2.models.images import warn_of_images
from vidcom2.models.internvl import numbered_frames, one_video
from vidcom2.models.names import (
    cache_name,
    cache_of,
    give_cache,
    new_cache,
    one_sequence,
    together,
    uses_cache,
    valid_before,
    valid_new,
)
from vidcom2.models.wrap import wrap
from vidcom2.records import Record
from vidcom2.unwrap import has

if TYPE_CHECKING:
    from vidcom2.compressor import Compressor

# ---- layouts


@dataclass(frozen=True)
class Video:
    """One video among the rows of the language model.

    row: of the batch. columns: int64 [n], ascending places of its tokens in the (padded) sequence.
    positions: rotary positions of these tokens, [n] or mRoPE's [3, n] (time, height, width).
    """

    row: int
    columns: Tensor
    positions: Tensor


@dataclass(frozen=True)
class Layout:
    """How a family of models lays out its videos.

    token: name of the config field with the id of the video's placeholder token.
    frames: how many frames T the video's patch tokens are; called with the outer model and the video without its
        separators. All frames have M = n/T tokens, in the order of the video's columns.
    separators: that many tokens at the end of every video are no patches and stay (LLaVA-OneVision's newline).
    split: finds the videos in one row of the batch, given (outer model, what it was called with, the row's input ids,
        the columns of all placeholders in that row); yields each video's columns. None: see `by_length`.
    inputs: the outer model's argument with the pixels, and the name under which encoded ones arrive in
        `mm_encoder_outputs`.
    """

    token: str
    frames: Callable[[Any, Video], int]
    separators: int = 0
    split: Callable[[Any, dict[str, Any], Tensor, Tensor], Iterator[Tensor]] | None = None
    inputs: tuple[str, str] = ("pixel_values_videos", "video")


def require_mrope(outer: Any, video: Video) -> None:
    """ValueError where a video has the positions of text, which generate() falls back to without a word."""
    positions = video.positions if video.positions.ndim == 2 else video.positions[None]
    if len(video.columns) > 1 and bool((positions == positions[:1, :1] + video.columns - video.columns[0]).all()):
        raise ValueError(
            f"{type(outer).__name__} got text positions for a video: pass mm_token_type_ids, which the processor "
            "returns with input_ids"
        )


def qwen2_frames(outer: Any, video: Video) -> int:
    """Qwen2-VL, Qwen2.5-VL: a frame begins where height and width are those of the video's first token.

    Not where time changes: in Qwen2.5-VL several frames can share a time.
    """
    require_mrope(outer, video)
    place = video.positions[-2:]
    return int((place == place[:, :1]).all(dim=0).sum())


def qwen3_frames(outer: Any, video: Video) -> int:
    """Qwen3-VL: every frame is a run of tokens after its time stamp."""
    frames = runs(outer, video)
    if frames < len(video.columns):  # frames of one token have text's positions
        require_mrope(outer, video)
    return frames


def runs(outer: Any, video: Video) -> int:
    """InternVL: every frame is a run of tokens after its number."""
    return 1 + int((video.columns.diff() > 1).sum())


def onevision_frames(outer: Any, video: Video) -> int:
    """LLaVA-OneVision: bilinear pooling halves the side of the patch grid, rounding up."""
    vision = outer.config.vision_config
    side = -(-(vision.image_size // vision.patch_size) // 2)
    return len(video.columns) // side**2


def next_video_frames(outer: Any, video: Video) -> int:
    """LLaVA-NeXT-Video: pooling with a stride, rounding down."""
    vision = outer.config.vision_config
    side = vision.image_size // vision.patch_size // outer.config.spatial_pool_stride
    return len(video.columns) // side**2


LAYOUTS: dict[str, Layout] = {
    "qwen2_vl": Layout("video_token_id", qwen2_frames),
    "qwen2_5_vl": Layout("video_token_id", qwen2_frames),
    "qwen3_vl": Layout("video_token_id", qwen3_frames),
    "llava_onevision": Layout("video_token_id", onevision_frames, separators=1),
    "llava_next_video": Layout("video_token_id", next_video_frames),
    "internvl": Layout("image_token_id", runs, split=numbered_frames, inputs=("pixel_values", "image")),
}
"""By `config.model_type`."""

INTERNVL_ONE_VIDEO = replace(LAYOUTS["internvl"], split=one_video)
"""For LAYOUTS["internvl"], where all images of a prompt are the frames of one video, whatever stands between them."""

NEEDS = (
    "a transformers model with `model.language_model` whose config.model_type is one of "
    f"{', '.join(LAYOUTS)} (describe others with a Layout in vidcom2.models.transformers.LAYOUTS)"
)


def by_length(outer: Any, called: dict[str, Any], layout: Layout) -> list[int]:
    """How many placeholder tokens each video of the call has, in the order of the batch."""
    pixels, modality = layout.inputs
    encoded = (called.get(names.ENCODED) or {}).get(modality)
    if encoded is not None:
        return [features.shape[:-1].numel() for features in encoded.pooler_output]
    grid = called.get("video_grid_thw")
    if grid is not None:
        return (grid.prod(dim=-1) // outer.visual.spatial_merge_size**2).tolist()
    videos = len(called[pixels])
    total = int((called["input_ids"] == getattr(outer.config, layout.token)).sum())
    return [total // videos] * videos  # one tensor of videos: all have as many frames


# ---- caches


def pruned(cache: Any) -> Any:
    """Make this cache one that knows about pruned tokens; its tensors stay as they are."""
    if not isinstance(cache, _Pruned):
        cache.__class__ = _pruned_class(type(cache))  # type: ignore[arg-type]
        cache.shift, cache.behind, cache.valid, cache.holder = 0, None, None, None
    return cache


class RowsFollow:
    """For a cache that notes things per row of the batch: they follow where generation repeats or reorders rows."""

    def _rows(self, change: Callable[[Tensor], Tensor]) -> None:
        """Apply `change` to every tensor [B, ...] that is noted."""
        raise NotImplementedError

    def reorder_cache(self, beam_idx: Tensor) -> None:
        super().reorder_cache(beam_idx)  # type: ignore[misc]
        self._rows(lambda x: x[beam_idx.to(x.device)])

    def batch_repeat_interleave(self, repeats: int) -> None:
        super().batch_repeat_interleave(repeats)  # type: ignore[misc]
        self._rows(lambda x: x.repeat_interleave(repeats, dim=0))

    def batch_select_indices(self, indices: Tensor) -> None:
        super().batch_select_indices(indices)  # type: ignore[misc]
        self._rows(lambda x: x[indices.to(x.device)])


class _Pruned(RowsFollow):
    """What a pruned cache adds to its class.

    shift: logical length less the rows really there. valid: bool [B, n], which of the first n rows are no padding; all
    later ones are none; None while none is padding at all. behind: int64 [B], what "repack" takes off positions
    counted without compression; None for "original". holder: of the hooks that keep masks and positions right, a weak
    reference, as caches are copied.
    """

    shift: int
    valid: Tensor | None
    behind: Tensor | None
    holder: Any

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return super().get_seq_length(layer_idx) + self.shift  # type: ignore[misc]

    def get_query_offset(self, layer_idx: int = 0) -> int:
        return super().get_seq_length(layer_idx)  # type: ignore[misc]

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        holder = self.holder()
        if (self.valid is not None or self.behind is not None) and (holder is None or not holder.attached):
            raise RuntimeError(
                "this key-value cache was filled under a compressor that is off now, and has padding or repacked "
                "positions that only its hooks keep right: go on inside the with-block"
            )
        return super().get_mask_sizes(query_length, layer_idx)  # type: ignore[misc]

    def crop(self, tokens_to_remove: int) -> None:
        # transformers below 5.18 take positive numbers for a final length, here the logical one.
        super().crop(tokens_to_remove - self.shift if tokens_to_remove > 0 else tokens_to_remove)  # type: ignore[misc]

    def _rows(self, change: Callable[[Tensor], Tensor]) -> None:
        self.valid = None if self.valid is None else change(self.valid)
        self.behind = None if self.behind is None else change(self.behind)


@memoised
def _pruned_class(cls: Any) -> type:
    return type(f"Pruned{cls.__name__}", (_Pruned, cls), {})


# ---- hooks


def supports(model: Any) -> bool:
    outer = _outer(model)
    return outer is not None and _model_type(model) in LAYOUTS and has(outer, "language_model")


def _model_type(model: Any) -> str | None:
    return getattr(model.config, "model_type", None) if has(model, "config") else None


def _outer(model: Any) -> Any:
    if has(model, "language_model") and not has(model, "lm_head"):
        return model
    return model.model if has(model, "model") else None


def attach(compressor: Compressor, model: Any) -> Hooks:
    names.warn_untested()
    return (InsideHooks if compressor.stage == "inside LLM" else Hooks)(compressor, model)


class Hooks(Uncopied):
    """A compressor on one transformers model; see `vidcom2.families.Hold`. Several threads may call the model."""

    def __init__(self, compressor: Compressor, model: Any):
        outer = _outer(model)
        if any(isinstance(getattr(hook, "__self__", None), Hooks) for hook in outer._forward_pre_hooks.values()):
            raise RuntimeError(f"{type(model).__name__} is compressed already; leave its with-block or detach it first")
        self.compressor, self.model, self.outer = compressor, model, outer
        self.layout = LAYOUTS[_model_type(model)]  # type: ignore[index]
        self.positions = compressor.positions or "original"
        self.signature = inspect.signature(outer.forward)
        self.undo: list[Callable[[], None]] = []
        self.calls: dict[int, dict[str, Any]] = {}  # the outer part's arguments, by thread, while it runs on a video
        self.records: list[Record] = []
        self.attached, self.forwarded, self.warned = True, False, False
        lm: nn.Module = outer.language_model
        cache_name(lm)  # TypeError where the hooks would not find it
        self.generating = Calls(model, self.forget)
        self.handles = [
            outer.register_forward_pre_hook(self.note_call, with_kwargs=True),
            outer.register_forward_hook(self.forget_call, always_call=True),
            lm.register_forward_pre_hook(self.before_language_model, with_kwargs=True),
        ]
        if model is not outer:
            self.handles.append(model.register_forward_pre_hook(self.refuse_labels, with_kwargs=True))
            # What generate's steps hand on is made by methods, not modules, so these two are wrapped on the instance.
            for name, wrapper in ((names.PREFILL, self.prefill), (names.UPDATE, self.update)):
                self.undo.append(wrap(model, name, wrapper))

    def remove(self) -> None:
        for handle in self.handles:
            handle.remove()
        for undo in reversed(self.undo):
            undo()
        self.generating.remove()
        self.attached = False

    @property
    def used(self) -> bool:
        return self.forwarded or self.generating.used

    def forget(self) -> None:
        self.records = []

    def busy(self) -> bool:
        return self.generating.busy() or any(thread != get_ident() for thread in list(self.calls))

    def refuse_labels(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if kwargs.get("labels") is not None:
            raise ValueError(
                "labels= cannot be used under a compressor: the logits are shorter than the labels. Compute the loss "
                "from the logits, or detach the compressor for training"
            )

    def prefill(self, original: Callable[..., Any], input_ids: Tensor, generation_config: Any, *args: Any, **kw: Any):
        if generation_config.prefill_chunk_size is not None:
            raise ValueError(
                f"prefill_chunk_size={generation_config.prefill_chunk_size} cannot be used under a compressor, which "
                "needs a video whole: leave it unset"
            )
        return original(input_ids, generation_config, *args, **kw)

    def update(self, original: Callable[..., Any], outputs: Any, model_kwargs: dict[str, Any], *args: Any, **kw: Any):
        """A cache of fixed size has its mask built outside the (compiled) model, so that must be the short one."""
        cache = cache_of(outputs)
        if isinstance(cache, _Pruned) and cache.shift and cache.is_compileable:  # type: ignore[attr-defined]
            mask, rows = model_kwargs.get("attention_mask"), int(cache.get_query_offset())
            if mask is not None and mask.shape[-1] == rows + cache.shift:
                valid = cache.valid if cache.valid is not None else mask.new_ones(len(mask), 0, dtype=torch.bool)
                model_kwargs["attention_mask"] = _extend(valid, rows).to(mask.dtype)
        return original(outputs, model_kwargs, *args, **kw)

    def note_call(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.forget_call(module, args, None)  # after a KeyboardInterrupt torch does not
        self.forwarded = True
        pixels, modality = self.layout.inputs
        if args:
            kwargs = self.signature.bind_partial(*args, **kwargs).arguments
        encoded = kwargs.get(names.ENCODED) or {}
        if kwargs.get(pixels) is not None or encoded.get(modality) is not None:
            self.calls[get_ident()], self.records = kwargs, []
        elif not self.warned and not torch.compiler.is_compiling():
            self.warned = warn_of_images(kwargs, self.compressor.spec)

    def forget_call(self, module: nn.Module, args: Any, output: Any) -> None:
        if self.calls:
            self.calls.pop(get_ident(), None)

    @property
    def called(self) -> dict[str, Any] | None:
        return self.calls.get(get_ident()) if self.calls else None

    def before_language_model(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if self.called is not None:
            return (), self.prune(module, kwargs)
        if torch.compiler.is_compiling():
            return None
        cache = cache_of(kwargs)
        if isinstance(cache, _Pruned):
            return (), self.keep_in_step(cache, kwargs)
        return None

    # ---- the work

    @torch.compiler.disable
    def prune(self, lm: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        """The language model's arguments without the video tokens that go."""
        embeds = together(kwargs)
        batch, length = embeds.shape[:2]
        cache = cache_of(kwargs)
        if cache is None and uses_cache(lm, kwargs):
            give_cache(lm, kwargs, cache := new_cache(lm))
        past = cache.get_seq_length() if cache is not None else 0
        positions = kwargs.get("position_ids")
        if positions is None:
            positions = torch.arange(int(past), int(past) + length, device=embeds.device)[None]
        positions = positions.expand(*positions.shape[:-2], batch, length)

        keep = torch.ones(batch, length, dtype=torch.bool, device=embeds.device)
        merged, kept_videos = embeds, []
        for video, body, frames in self.measured(positions):
            features = embeds[video.row, body.columns].unflatten(0, (frames, -1))
            kept = self.compressor.select(features)
            keep[video.row, body.columns] = False
            keep[video.row, body.columns[kept.index]] = True
            if kept.features is not None:
                merged = merged.clone() if merged is embeds else merged
                merged[video.row, body.columns[kept.index]] = kept.features.to(merged.dtype)
            kept_videos.append((video, features.shape[:2], kept))

        dropped_any = bool((~keep).any())
        if not dropped_any and merged is embeds and not isinstance(cache, _Pruned):
            order, live = torch.arange(length, device=embeds.device).expand(batch, length), keep
            self.write_records(kept_videos, order, live)
            return kwargs

        valid = keep.new_ones(batch, length) if (given := _valid(kwargs, length, cache)) is None else given
        order, live = _left_pad(keep & valid)
        self.write_records(kept_videos, order, live)
        pick = partial(torch.gather, index=order)
        kwargs["inputs_embeds"] = merged.gather(1, order[..., None].expand(-1, -1, merged.shape[-1]))
        rows = 0
        if cache is not None:
            before = None if isinstance(cache, _Pruned) else valid_before(kwargs, length, int(cache.get_seq_length()))
            cache = pruned(cache)
            if before is not None and not bool(before.all()):
                cache.valid = before
            cache.holder, rows = weakref.ref(self), int(cache.get_query_offset())

        new = pick(positions, dim=-1) if positions.ndim == 2 else torch.stack([pick(p, dim=-1) for p in positions])
        if self.positions == "repack":
            # Consecutive in all rows of mRoPE too, as for text. The next token follows the last one of this sequence.
            start = torch.full((batch,), rows, device=embeds.device)
            if cache is not None and cache.valid is not None:
                start -= (~cache.valid).sum(dim=1)
            new = (start[:, None] + live.cumsum(dim=1) - 1).clamp(min=0).expand_as(new)
            if cache is not None:
                last = positions[-3:, :, -1].amax(dim=0) if positions.ndim == 3 else positions[:, -1]
                cache.behind = last - (start + live.sum(dim=1) - 1)
        elif positions.ndim == 3 and len(positions) == 4:
            # Row 0 only tells packed sequences apart: a gap would be taken for the start of another one.
            new[0] = (rows + live.cumsum(dim=1) - 1).clamp(min=0)
        kwargs["position_ids"] = new

        if kwargs.get("visual_pos_masks") is not None:
            visual = kwargs["visual_pos_masks"]
            chosen = torch.zeros_like(keep).scatter(1, order, live)[visual]
            kwargs["visual_pos_masks"] = pick(visual, dim=1) & live
            kwargs["deepstack_visual_embeds"] = [each[chosen] for each in kwargs["deepstack_visual_embeds"]]

        if cache is not None:
            cache.shift += length - order.shape[1]
            if cache.valid is not None or not bool(live.all()):
                before = live.new_ones(batch, 0) if cache.valid is None else cache.valid
                cache.valid = torch.cat([_extend(before, rows), live], dim=1)
        kwargs["attention_mask"] = self.mask(cache, live, rows)
        return kwargs | one_sequence(lm, new, rows)

    def keep_in_step(self, cache: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        """The arguments for further tokens on a pruned cache: mask of the rows really there, positions as asked."""
        embeds = together(kwargs)
        batch, length = embeds.shape[:2]
        rows = int(cache.get_query_offset())
        live = _valid(kwargs, length, cache)
        if live is not None and not bool(live.all()):
            before = live.new_ones(batch, 0) if cache.valid is None else cache.valid
            cache.valid = torch.cat([_extend(before, rows), live], dim=1)
        if kwargs.get("position_ids") is None:
            start = rows + cache.shift
            kwargs["position_ids"] = torch.arange(start, start + length, device=embeds.device).expand(batch, length)
        if cache.behind is not None:
            kwargs["position_ids"] = kwargs["position_ids"] - cache.behind[:, None]
        kwargs["attention_mask"] = self.mask(cache, embeds.new_ones(batch, length, dtype=torch.bool), rows)
        return kwargs

    def mask(self, cache: Any, live: Tensor, rows: int) -> Tensor | None:
        """The 2-D mask [B, rows + new], or None where nothing needs one, so that the fast attention paths stay on."""
        if cache is None:
            return live  # also without padding: with neither cache nor mask, gaps in positions would mean packing
        if cache.valid is not None:
            return _extend(cache.valid, rows + live.shape[1])
        return live.new_ones(len(live), rows + live.shape[1]) if cache.is_compileable else None

    def measured(self, positions: Tensor) -> Iterator[tuple[Video, Video, int]]:
        """Each video, the same without its separators, and its number of frames."""
        for video in self.videos(positions):
            patches = len(video.columns) - self.layout.separators
            body = Video(video.row, video.columns[:patches], video.positions[..., :patches])
            frames = self.layout.frames(self.outer, body)
            if frames < 1 or patches % frames:
                raise ValueError(
                    f"{patches} video tokens in row {video.row} are not {frames} equal frames: the prompt or its "
                    f"positions do not fit {_model_type(self.model)}'s layout"
                )
            yield video, body, frames

    def videos(self, positions: Tensor) -> Iterator[Video]:
        """The call's videos, in the order of the batch."""
        assert self.called is not None
        ids = self.called.get("input_ids")
        if ids is None:
            raise ValueError("a compressor finds a video's tokens by input_ids: pass them instead of inputs_embeds")
        ids = ids.to(positions.device)
        there = ids == getattr(self.outer.config, self.layout.token)
        if self.layout.split is not None:
            found = [
                (row, columns)
                for row in range(len(ids))
                if len(places := there[row].nonzero()[:, 0])
                for columns in self.layout.split(self.outer, self.called, ids[row], places)
            ]
        else:
            lengths = by_length(self.outer, self.called, self.layout)
            row_of, column_of = there.nonzero(as_tuple=True)
            if sum(lengths) != len(row_of):
                raise ValueError(f"{len(row_of)} placeholders in input_ids, but the videos are {lengths} tokens long")
            found = []
            for rows, columns in zip(row_of.split(lengths), column_of.split(lengths), strict=True):
                if rows[0] != rows[-1]:
                    raise ValueError(f"a video of {len(rows)} tokens reaches over rows {rows[0]} to {rows[-1]}")
                found.append((int(rows[0]), columns))
        for row, columns in found:
            place = positions[..., row, columns]
            yield Video(row, columns, place[-3:] if place.ndim == 2 else place)

    def write_records(self, videos: list[Any], order: Tensor, live: Tensor) -> None:
        records = []
        for video, (frames, m), kept in videos:
            ours = (order[video.row] >= video.columns[0]) & (order[video.row] <= video.columns[-1]) & live[video.row]
            records.append(
                Record(
                    sample=video.row,
                    modality="video",
                    method=self.compressor.spec,
                    positions=self.positions,
                    start=int(ours.int().argmax()),
                    frames_before=(m,) * frames,
                    frames_after=tuple(kept.budgets.tolist()),
                    separators_before=self.layout.separators,
                    separators_after=self.layout.separators,
                )
            )
        self.records = records  # all at once, as another thread may be in a call of its own


class InsideHooks(Hooks):
    """A method that drops tokens between the layers: these hooks only find the videos, and `LayerHooks` does the rest.

    An answer that is generated without a cache goes through the model whole for each token. The wrapped generate() says
    how long the prompt is, so that the choice is the same every time.
    """

    def __init__(self, compressor: Any, model: Any):
        from vidcom2.models.layers import LayerHooks

        super().__init__(compressor, model)
        self.positions = compressor.numbers
        self.prompts: dict[int, int] = {}  # their lengths, by thread
        try:
            self.layers = LayerHooks(compressor, self.outer.language_model, self.find, self.report)
        except BaseException:
            super().remove()
            raise
        if model is not self.outer:
            self.undo.append(wrap(model, "generate", self.generate))

    def remove(self) -> None:
        super().remove()
        self.layers.remove()

    def generate(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        ids = kwargs.get("input_ids", kwargs.get("inputs", args[0] if args else None))
        if ids is not None:
            self.prompts[get_ident()] = ids.shape[1]
        try:
            return original(*args, **kwargs)
        finally:
            self.prompts.pop(get_ident(), None)

    def before_language_model(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Nothing goes out of the language model's inputs."""

    def find(self, kwargs: dict[str, Any]) -> Any:
        from vidcom2.models.layers import Place, Prompt

        if self.called is None:
            return None
        embeds = together(kwargs)
        batch, length = embeds.shape[:2]
        positions = kwargs.get("position_ids")
        if positions is None:
            positions = torch.arange(length, device=embeds.device)[None]
        positions = positions.expand(*positions.shape[:-2], batch, length)
        videos = [
            Place(video.row, body.columns, frames, self.layout.separators)
            for video, body, frames in self.measured(positions)
        ]
        valid = _valid(kwargs, length, cache_of(kwargs))
        if valid is None:
            valid = torch.ones(batch, length, dtype=torch.bool, device=embeds.device)
        text = valid.clone()
        for name in ("video_token_id", "image_token_id"):
            text &= self.called["input_ids"].to(text.device) != getattr(self.outer.config, name, None)
        return Prompt(videos, valid, text, self.prompts.get(get_ident(), length))

    def report(self, visuals: Any) -> None:
        records = []
        for visual in visuals:
            frames, separators = visual.place.frames, visual.place.separators
            first = visual.place.columns[0]
            records.append(
                Record(
                    sample=visual.place.row,
                    modality="video",
                    method=self.compressor.spec,
                    positions=self.positions,
                    start=int(first),
                    frames_before=(len(visual.place.columns) // frames,) * frames,
                    frames_after=visual.frames_after,
                    separators_before=separators,
                    separators_after=separators,
                    layers=visual.layers,
                )
            )
        self.records = records


def _valid(kwargs: dict[str, Any], length: int, cache: Any) -> Tensor | None:
    """Which of the new tokens are no padding: bool [B, length]; None where the call has no mask, or one built for the
    unpruned sequence, whose further tokens are no padding."""
    past = int(cache.get_seq_length()) if cache is not None else 0
    return valid_new(kwargs, length, None if isinstance(cache, _Pruned) else past)


def _left_pad(live: Tensor) -> tuple[Tensor, Tensor]:
    """live: bool [B, L] -> (columns int64 [B, L'] of what stays, padded on the left to the longest row, live there)."""
    longest = int(live.sum(dim=1).max())
    order = live.int().argsort(dim=1, stable=True)[:, live.shape[1] - longest :]
    return order, live.gather(1, order)


def _extend(valid: Tensor, length: int) -> Tensor:
    """valid bool [B, n] -> [B, length]: later rows are no padding."""
    if valid.shape[1] >= length:
        return valid[:, :length]
    return torch.cat([valid, valid.new_ones(len(valid), length - valid.shape[1])], dim=1)
