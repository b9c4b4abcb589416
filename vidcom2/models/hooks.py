"""The hooks on a model of transformers, for methods that drop video tokens before the LLM.

How a compressed generate() runs is told in `vidcom2.models.transformers`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from threading import get_ident
from typing import Any

import torch
from torch import Tensor, nn

from vidcom2.compressor import Compressor
from vidcom2.models import names
from vidcom2.models.caches import Pruned, positions_of, pruned, valid_rows
from vidcom2.models.calls import Calls, Uncopied
from vidcom2.models.images import warn_of_images
from vidcom2.models.layouts.layout import Layout, framed_videos, with_patches
from vidcom2.models.masks import extend, pad_left
from vidcom2.models.moved import Moved
from vidcom2.models.names import (
    cache_name,
    cache_of,
    give_cache,
    new_cache,
    one_sequence,
    together,
    uses_cache,
    valid_before,
)
from vidcom2.models.pruning import (
    choose,
    original_positions,
    records_of,
    repacked_positions,
    shorten_others,
)
from vidcom2.models.wrap import wrap
from vidcom2.records import Record


class Hooks(Uncopied):
    """A compressor on one model of transformers; see `vidcom2.families.Hold`. Several threads may call the model.

    Args:
        compressor: The compressor.
        model: The model, with or without its head.
        outer: The part of it that encodes videos and calls the language model. It may be the model itself.
        lm: The language model.
        layout: How its family lays out videos.

    Raises:
        RuntimeError: If the model is compressed already.
        TypeError: If the forward of its language model has no key-value cache by a known name.
    """

    def __init__(self, compressor: Compressor, model: Any, outer: Any, lm: Any, layout: Layout):
        if any(isinstance(getattr(hook, "__self__", None), Hooks) for hook in outer._forward_pre_hooks.values()):
            raise RuntimeError(f"{type(model).__name__} is compressed already; leave its with-block or detach it first")
        cache_name(lm)
        self.compressor, self.model, self.outer, self.layout = compressor, model, outer, layout
        self.positions = compressor.positions or layout.positions
        self.signature = inspect.signature(outer.forward)
        self.calls: dict[int, dict[str, Any]] = {}  # by thread: the outer part's arguments, while it runs on a video
        self.masks: dict[int, Any] = {}  # by thread: the mask that the outer part got, if it builds others of it
        self.records: list[Record] = []
        self.attached, self.forwarded, self.warned = True, False, False
        self.generating = Calls(model, self.forget)
        self.undo: list[Callable[[], None]] = []
        self.handles = [
            outer.register_forward_pre_hook(self.note_call, with_kwargs=True),
            outer.register_forward_hook(self.forget_call, always_call=True),
            lm.register_forward_pre_hook(self.before_language_model, with_kwargs=True),
        ]
        if hasattr(model, "generate"):
            self.handles.append(model.register_forward_pre_hook(self.refuse_labels, with_kwargs=True))
            # generate() hands arguments from step to step by methods, which hooks do not reach.
            for name, wrapper in ((names.PREFILL, self.prefill), (names.UPDATE, self.update)):
                self.undo.append(wrap(model, name, wrapper))

    def remove(self) -> None:
        """Take everything off the model."""
        for handle in self.handles:
            handle.remove()
        for undo in reversed(self.undo):
            undo()
        self.generating.remove()
        self.attached = False

    @property
    def used(self) -> bool:
        """Whether the model was called."""
        return self.forwarded or self.generating.used

    def forget(self) -> None:
        """Drop the records of a call that failed."""
        self.records = []

    def busy(self) -> bool:
        """Whether another thread is in a call of the model."""
        return self.generating.busy() or any(thread != get_ident() for thread in list(self.calls))

    # ---- around the outer part

    def refuse_labels(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Before the whole model: raise ValueError for labels, which are as long as the full sequence."""
        if kwargs.get("labels") is not None:
            raise ValueError(
                "labels= cannot be used under a compressor: the logits are shorter than the labels. Compute the loss "
                "from the logits, or detach the compressor for training"
            )

    def prefill(self, original: Callable[..., Any], input_ids: Tensor, generation_config: Any, *args: Any, **kw: Any):
        """Around generate()'s first step: raise ValueError for a prefill in chunks."""
        if generation_config.prefill_chunk_size is not None:
            raise ValueError(
                f"prefill_chunk_size={generation_config.prefill_chunk_size} cannot be used under a compressor, which "
                "needs a video whole: leave it unset"
            )
        return original(input_ids, generation_config, *args, **kw)

    def update(self, original: Callable[..., Any], outputs: Any, model_kwargs: dict[str, Any], *args: Any, **kw: Any):
        """Between generate()'s steps: shorten the mask for a cache of fixed size.

        For such a cache generate() builds the 4-D mask outside of the compiled model, so it needs the short 2-D one.
        """
        cache = cache_of(outputs)
        if isinstance(cache, Pruned) and cache.shift and cache.is_compileable:  # type: ignore[attr-defined]
            mask, rows = model_kwargs.get("attention_mask"), int(cache.get_query_offset())
            if mask is not None and mask.shape[-1] == rows + cache.shift:
                valid = cache.valid if cache.valid is not None else mask.new_ones(len(mask), 0, dtype=torch.bool)
                model_kwargs["attention_mask"] = extend(valid, rows).to(mask.dtype)
        return original(outputs, model_kwargs, *args, **kw)

    def note_call(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Before the outer part: keep its arguments if they have a video."""
        self.forget_call(module, args, None)  # after a KeyboardInterrupt torch does not call it
        self.forwarded = True
        pixels, modality = self.layout.inputs
        if args:
            kwargs = self.signature.bind_partial(*args, **kwargs).arguments
        if self.layout.finish is not None and not torch.compiler.is_compiling():
            self.masks[get_ident()] = kwargs.get("attention_mask")
        encoded = kwargs.get(names.ENCODED) or {}
        if kwargs.get(pixels) is not None or encoded.get(modality) is not None:
            if self.layout.check is not None:
                self.layout.check(self.outer, kwargs)
            self.calls[get_ident()], self.records = kwargs, []
        elif not self.warned and not torch.compiler.is_compiling():
            self.warned = warn_of_images(kwargs, self.compressor.spec)

    def forget_call(self, module: nn.Module, args: Any, output: Any) -> None:
        """After the outer part."""
        if self.calls:
            self.calls.pop(get_ident(), None)
        if self.masks and not torch.compiler.is_compiling():
            self.masks.pop(get_ident(), None)

    @property
    def called(self) -> dict[str, Any] | None:
        """The outer part's arguments, if this thread is in it and they have a video."""
        return self.calls.get(get_ident()) if self.calls else None

    # ---- before the language model

    def before_language_model(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Drop video tokens from a prefill's arguments, or mend those of a step on a pruned cache."""
        called = self.called
        if called is not None:
            shorter = self.prune(module, called, kwargs | self.masked(kwargs))
            return None if shorter is None else ((), shorter)
        if torch.compiler.is_compiling():
            return None
        cache = cache_of(kwargs)
        if isinstance(cache, Pruned):
            return (), self.keep_in_step(cache, kwargs | self.masked(kwargs))
        return None

    def masked(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Return the mask that the outer part got, where it has built others of it for the language model.

        Those count the rows of the full sequence, and need not tell which rows are padding.
        """
        known = isinstance(kwargs.get("attention_mask"), dict) and get_ident() in self.masks
        return {"attention_mask": self.masks[get_ident()]} if known else {}

    @torch.compiler.disable
    def prune(self, lm: Any, called: dict[str, Any], kwargs: dict[str, Any]) -> dict[str, Any] | None:
        """Return a prefill's arguments without the video tokens that the compressor drops; None if it drops none."""
        embeds = together(kwargs)
        length = embeds.shape[1]
        cache = cache_of(kwargs)
        if cache is None and uses_cache(lm, kwargs):
            give_cache(lm, kwargs, cache := new_cache(lm))
        positions = positions_of(kwargs, embeds, cache)
        videos = framed_videos(self.layout, self.outer, called, positions)
        if self.compressor.uses_grid:  # generate() encodes videos first, and does not hand on their sizes
            told = {name: value for name, value in called.items() if value is not None}
            videos = with_patches(self.layout, videos, self.generating.asked.get(get_ident(), {}) | told)
        choice = choose(self.compressor, embeds, videos)
        if not choice.merges and not isinstance(cache, Pruned) and bool(choice.stay.all()):
            here = torch.arange(length, device=embeds.device).expand(embeds.shape[:2])
            self.records = records_of(choice.videos, Moved(here, choice.stay), self.compressor.spec, self.positions)
            return None

        valid = valid_rows(kwargs, length, cache)
        moved = Moved(*pad_left(choice.stay if valid is None else choice.stay & valid))
        # The list is replaced at once, since another thread may be in a call of its own.
        self.records = records_of(choice.videos, moved, self.compressor.spec, self.positions)
        rows = 0
        if cache is not None:
            fresh = not isinstance(cache, Pruned)
            cache = pruned(cache, self, valid_before(kwargs, length, int(cache.get_seq_length())) if fresh else None)
            rows = int(cache.get_query_offset())
        kwargs["inputs_embeds"] = moved.pick_rows(choice.embeds)
        kwargs["position_ids"] = self.number(positions, moved, cache, rows)
        shorten_others(kwargs, moved)
        if cache is None:
            # A mask even if nothing is padding: without mask and cache, gaps in the positions would mean packing.
            kwargs["attention_mask"] = moved.live
        else:
            cache.shift += length - moved.live.shape[1]
            cache.expect(moved.live)
            kwargs["attention_mask"] = cache.mask(moved.live)
        if self.layout.finish is not None:
            self.layout.finish(self.outer, called, kwargs, moved, rows)
        return kwargs | one_sequence(lm, kwargs["position_ids"], rows)

    def number(self, positions: Tensor, moved: Moved, cache: Any, rows: int) -> Tensor:
        """Return the positions of the rows that stay, and note how far a repacked cache is behind."""
        if self.positions == "original":
            return original_positions(positions, moved, rows)
        valid = None if cache is None or cache.valid is None else extend(cache.valid, rows)
        new, behind = repacked_positions(positions, moved, valid, rows)
        if cache is not None:
            cache.behind = behind
        return new

    def keep_in_step(self, cache: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Return the arguments for further tokens on a pruned cache: the mask of its rows, and the positions."""
        embeds = together(kwargs)
        batch, length = embeds.shape[:2]
        rows = int(cache.get_query_offset())
        live = valid_rows(kwargs, length, cache)
        if live is None:
            live = torch.ones(batch, length, dtype=torch.bool, device=embeds.device)
        if kwargs.get("position_ids") is None:
            start = rows + cache.shift
            kwargs["position_ids"] = torch.arange(start, start + length, device=embeds.device).expand(batch, length)
        if cache.behind is not None:
            kwargs["position_ids"] = kwargs["position_ids"] - cache.behind[:, None]
        cache.expect(live)
        kwargs["attention_mask"] = cache.mask(live)
        return kwargs
