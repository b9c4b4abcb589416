"""The hooks on a model of transformers, for methods that drop video tokens between the layers of the LLM."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from threading import get_ident
from typing import Any

import torch
from torch import nn

from vidcom2.inside import InsideLLM
from vidcom2.models.caches import positions_of, valid_rows
from vidcom2.models.hooks import Hooks
from vidcom2.models.layers import LayerHooks
from vidcom2.models.layouts.layout import Layout, framed_videos
from vidcom2.models.names import cache_of, together
from vidcom2.models.prompts import Place, Prompt
from vidcom2.models.visual import Visual
from vidcom2.models.wrap import wrap


class InsideHooks(Hooks):
    """A method inside the LLM on one model of transformers. It finds the videos, and `LayerHooks` drops their tokens.

    generate() without a cache calls the model on the whole sequence for each token. Here it is wrapped to note how long
    the prompt is, so that every call makes the choice that the prompt alone leads to.

    Args:
        compressor: The method.
        model: The model, with or without its head.
        outer: The part of it that encodes videos and calls the language model.
        lm: The language model.
        layout: How its family lays out videos.

    Raises:
        RuntimeError: If the model is compressed already.
        ValueError: If the method does not suit the language model.
    """

    def __init__(self, compressor: InsideLLM, model: Any, outer: Any, lm: Any, layout: Layout):
        super().__init__(compressor, model, outer, lm, layout)
        self.positions = compressor.numbers
        self.prompts: dict[int, int] = {}  # by thread: length of the prompt
        try:
            self.layers = LayerHooks(compressor, lm, self.find, self.report)
        except BaseException:
            super().remove()
            raise
        if model is not outer:
            self.undo.append(wrap(model, "generate", self.generate))

    def remove(self) -> None:
        """Take everything off the model."""
        super().remove()
        self.layers.remove()

    def generate(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Around generate(): note the length of the prompt."""
        ids = kwargs.get("input_ids", kwargs.get("inputs", args[0] if args else None))
        if ids is not None:
            self.prompts[get_ident()] = ids.shape[1]
        try:
            return original(*args, **kwargs)
        finally:
            self.prompts.pop(get_ident(), None)

    def before_language_model(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Before the language model nothing is dropped."""

    def find(self, kwargs: dict[str, Any]) -> Prompt | None:
        """Return the prompt of a language model's call; None if it has no video. See `LayerHooks`."""
        called = self.called
        if called is None:
            return None
        embeds = together(kwargs)
        length = embeds.shape[1]
        positions = positions_of(kwargs, embeds, cache_of(kwargs))
        videos = [
            Place(video.row, video.columns, video.frames, len(video.separators))
            for video in framed_videos(self.layout, self.outer, called, positions)
        ]
        valid = valid_rows(kwargs, length, cache_of(kwargs))
        if valid is None:
            valid = torch.ones(embeds.shape[:2], dtype=torch.bool, device=embeds.device)
        text = valid.clone()
        for name in ("video_token_id", "image_token_id"):
            text &= called["input_ids"].to(text.device) != getattr(self.outer.config, name, None)
        return Prompt(videos, valid, text, self.prompts.get(get_ident(), length))

    def report(self, visuals: Sequence[Visual]) -> None:
        """Write the records of a prefill."""
        self.records = [visual.record(self.compressor.spec, self.positions) for visual in visuals]
