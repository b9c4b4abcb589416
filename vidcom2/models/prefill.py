"""The prefill of a language model whose later layers have fewer rows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vidcom2.features import full_precision
from vidcom2.inside import InsideLLM, Stage
from vidcom2.models.attention import AttentionRows, Rotary, rotary_of
from vidcom2.models.caches import Segment
from vidcom2.models.cutting import NEW, Cut, Rows, choose, enter, merge, reorder
from vidcom2.models.masks import last_position
from vidcom2.models.passes import Pass
from vidcom2.models.prompts import Prompt
from vidcom2.models.visual import Visual, visual_of


class Prefill(Pass):
    """A prefill with videos. At each stage it ranks their tokens, and later it drops some of them.

    Args:
        method: The method.
        lm: The language model.
        cache: Its key-value cache; None for none.
        embeds: [B, N, D], the rows that it gets.
        prompt: What is known of the rows.

    Attributes:
        visuals: The videos.
        segments: The layers that have fewer rows.
        live: bool [B, n], present rows that are no padding.
        origin: int64 [B, n], the column of each present row in the prompt; NEW for merged rows.
        home: The device of the prompt. Masks and positions of the cache stay there.
        done: How many stages are done.
    """

    def __init__(self, method: InsideLLM, lm: Any, cache: Any, embeds: Tensor, prompt: Prompt):
        super().__init__(lm, cache)
        self.method, self.prompt = method, prompt
        self.live, self.home = prompt.valid, prompt.valid.device
        self.origin = torch.arange(embeds.shape[1], device=embeds.device).expand(embeds.shape[:2])
        self.pads_right = bool((~prompt.valid[:, -1]).any())
        layers, linear = len(lm.layers), self.linear
        self.visuals = [visual_of(method, layers, linear, v, prompt, embeds[v.row]) for v in prompt.videos]
        self.stages = max((visual.stages for visual in self.visuals), key=len, default=())
        self.done = 0
        self.segments: list[Segment] = []

    @property
    def stage(self) -> Stage | None:
        """The next stage."""
        return self.stages[self.done] if self.done < len(self.stages) else None

    def before_layer(self, index: int, layer: Any, hidden: Tensor, kwargs: dict[str, Any]) -> Tensor:
        """Rank the tokens if this layer ranks, and drop some if this layer is the first without them."""
        hidden = self.follow(layer, hidden)
        if index == 0:
            hidden = self.enter(hidden)
        if (stage := self.stage) is not None and stage.rank < index == stage.cut:  # an earlier layer ranked
            hidden = self.drop(index, hidden)
        self.override(index, hidden, kwargs)
        if (stage := self.stage) is not None and stage.rank == index:
            if not self.method.eager:
                self.rank(layer, hidden, kwargs["position_embeddings"])
            if stage.cut == index:
                hidden = self.drop(index, hidden)
                self.override(index, hidden, kwargs)
        for visual in self.visuals:
            visual.counts.append(len(visual.rows))
        return hidden

    def follow(self, layer: Any, hidden: Tensor) -> Tensor:
        """Move `hidden`, and all that is known of its rows, to the device of `layer`, which may be another GPU."""
        device = next(layer.parameters()).device
        if device.type == "meta":  # its weights are elsewhere until it runs
            return hidden
        if self.live.device != device:
            self.live, self.origin = self.live.to(device), self.origin.to(device)
            self.positions = None if self.positions is None else self.positions.to(device)
            for visual in self.visuals:
                visual.move_to(device)
        return hidden.to(device)

    def override(self, index: int, hidden: Tensor, kwargs: dict[str, Any]) -> None:
        """Put mask and rotary embedding of the present rows into a layer's arguments."""
        if not self.segments:
            return
        segment = self.segments[-1]
        kind = (segment.first, index in self.linear)
        if kind not in self.overrides:
            self.overrides[kind] = {
                "attention_mask": self.mask(index, hidden, segment.valid),
                "position_embeddings": self.lm.rotary_emb(hidden, self.positions),
                "position_ids": None,  # flash attention would take them to tell packed sequences apart
            }
        kwargs |= self.overrides[kind]

    # ---- ranking

    def rank(self, layer: Any, hidden: Tensor, embeddings: tuple[Tensor, Tensor]) -> None:
        """Score the tokens of all videos by the attention that `layer` would pay to them, if it got `hidden`."""
        for b in sorted({visual.place.row for visual in self.visuals}):
            rotary = rotary_of(layer.self_attn, embeddings, b, hidden.device)
            attention = AttentionRows(layer, hidden[b : b + 1], rotary)
            for visual in self.visuals:
                if visual.place.row == b:
                    weights = attention.of(visual.raters, self.live[b])
                    self.score(visual, weights[..., visual.rows], rotary, attention.x.dtype)

    def rank_by(self, attention: Any, weights: Tensor | None) -> None:
        """Score the tokens of all videos by the weights [B, heads, n, n] that eager attention returned.

        Raises:
            ValueError: If the attention module returned no weights.
        """
        if weights is None:
            raise ValueError("attention='eager' needs a model that was loaded with attn_implementation='eager'")
        embeddings: Any = None
        if self.method.wants_rotary:
            embeddings = self.lm.rotary_emb(weights.new_ones(len(weights), weights.shape[-1], 1), self.positions)
        for visual in self.visuals:
            b = visual.place.row
            rotary = None if embeddings is None else rotary_of(attention, embeddings, b, weights.device)
            self.score(visual, weights[b, :, visual.raters][..., visual.rows].float(), rotary, weights.dtype)

    def score(self, visual: Visual, weights: Tensor, rotary: Rotary | None, dtype: torch.dtype) -> None:
        """Score a video's tokens. weights: float32 [heads, Q, v]; dtype: of the layer's states."""
        product = None
        with full_precision(weights.device):
            if rotary is not None and self.method.wants_rotary:
                product = rotary.product(visual.raters, visual.rows, dtype)
            visual.scores = self.method.scores(weights, product)

    # ---- dropping

    def enter(self, hidden: Tensor) -> Tensor:
        """Return the rows that enter the first layer, with merged tokens in place of those they are merged from."""
        visuals = [visual for visual in self.visuals if visual.entering is not None]
        if not visuals:
            return hidden
        hidden, cuts = hidden.clone(), [enter(visual) for visual in visuals]
        for cut in cuts:
            assert cut.visual.entering is not None
            if (features := cut.visual.entering.features) is not None:
                hidden[cut.visual.place.row, cut.visual.rows[cut.kept]] = features.to(hidden)
            cut.visual.entering = None  # its features would stay in memory until the end of the prefill
        return self.cut(0, hidden, cuts)

    def drop(self, index: int, hidden: Tensor) -> Tensor:
        """Return the rows that stay after the next stage, for layer `index` and those after it."""
        cuts = [choose(self.method, visual, self.done, hidden) for visual in self.visuals]
        self.done += 1
        return self.cut(index, hidden, cuts)

    def cut(self, index: int, hidden: Tensor, cuts: list[Cut]) -> Tensor:
        """Return the rows that stay, for layer `index` and those after it."""
        assert self.positions is not None
        batch, length = hidden.shape[:2]
        positions = self.positions.expand(*self.positions.shape[:-2], batch, length)
        if not self.segments:
            self.last = last_position(positions, self.prompt.valid.to(positions.device))
        key = torch.arange(length, device=hidden.device).expand(batch, length)

        rows, cuts = merge(Rows(hidden, positions, self.origin, key, self.live), cuts)
        rows, now = reorder(rows, self.pads_right)
        for cut in cuts:
            cut.record(now[cut.visual.place.row])

        self.live, self.origin, self.positions = rows.live, rows.origin, rows.positions
        behind = self.repack() if self.method.numbers == "repack" else None
        valid = None if bool(rows.live.all()) else rows.live.to(self.home)
        self.segments.append(Segment(index, valid, behind))
        return rows.hidden

    def repack(self) -> Tensor:
        """Number the present rows of prompts with a video anew, and return how far they are behind, int64 [B]."""
        assert self.positions is not None
        anew = (self.live.cumsum(dim=1) - 1).clamp(min=0)
        shorter = torch.zeros(len(anew), 1, dtype=torch.bool, device=anew.device)
        shorter[[visual.place.row for visual in self.visuals]] = True
        self.positions = torch.where(shorter, anew, self.positions)
        return (self.last.to(anew.device) - last_position(self.positions, self.live)).to(self.home)

    def deepstack(self, visual: Tensor, embeds: Tensor) -> tuple[Tensor, Tensor]:
        """Return the visual rows that are present, as a mask bool [B, n], and their deepstack features.

        Args:
            visual: bool [B, N], visual rows of the prompt.
            embeds: [V, D], the features of these rows.
        """
        visual = visual.to(self.origin.device)
        number = (visual.flatten().cumsum(0) - 1).view_as(visual)
        origin = self.origin.clamp(min=0)
        mask = visual.gather(1, origin) & self.live & (self.origin != NEW)
        return mask, embeds[number.gather(1, origin)[mask].to(embeds.device)]
