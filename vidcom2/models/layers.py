"""Dropping rows between the layers of a language model, by hooks: for the methods of vidcom2/inside.py.

Wanted: `layers`, each with `input_layernorm` and `self_attn` (`q_proj`, `k_proj`, `head_dim`, `scaling`, and `q_norm`,
`k_norm` over the head dimension if any), called with `position_embeddings`, `attention_mask` and the key-value cache;
and `rotary_emb`. No forward is copied. In the prefill, hooks before the layers rank the rows by attention rows that
they compute from the one layer's queries and keys, in float32, so SDPA and flash attention stay on; take rows out of
the hidden states; and give this and later layers the masks and rotary embeddings of what is left. The key-value cache
then has different lengths per layer. Layer 0 always has all rows, so for generate() the cache is as long as it should
be. When decoding, the hooks give each layer the mask and the rotary embedding for its own rows.
"""

from __future__ import annotations

import sys
import weakref
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache as memoised
from threading import get_ident
from typing import Any

import torch
from torch import Tensor, nn

from vidcom2.features import all_finite, full_precision, require_finite
from vidcom2.inside import NOMINAL, InsideLLM, Stage, choose, choose_per_frame
from vidcom2.models import names
from vidcom2.models.calls import Uncopied
from vidcom2.models.names import cache_name, cache_of, causal_mask, give_cache, new_cache, together, uses_cache
from vidcom2.models.transformers import RowsFollow, _extend, _valid
from vidcom2.models.wrap import wrap

# ---- what a family tells


@dataclass(frozen=True)
class Place:
    """Where a video is: row of the batch; columns int64 [T·M] of its patch tokens in the padded sequence, frame by
    frame; T; how many separators it has besides."""

    row: int
    columns: Tensor
    frames: int
    separators: int = 0


@dataclass(frozen=True)
class Prompt:
    """A prefill with videos. valid, text: bool [B, N], which rows are no padding, and which are words. length: rows of
    the prompt; those after it, if any, are its answer so far."""

    videos: list[Place]
    valid: Tensor
    text: Tensor
    length: int


# ---- caches


@dataclass
class Segment:
    """Layers from `first` on have the same rows.

    valid: bool [B, n], which of the first n rows in their caches are no padding, all later ones being none; None where
    none is padding. behind: int64 [B], what their rotary positions lack to those of the model; None for nothing.
    """

    first: int
    valid: Tensor | None
    behind: Tensor | None


class _Layered(RowsFollow):
    """What a cache with different lengths per layer adds to its class. holder: the hooks that keep it right."""

    segments: list[Segment]
    holder: Any

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        holder = self.holder()
        if holder is None or not holder.attached:
            raise RuntimeError(
                "this key-value cache was filled under a compressor that is off now, whose hooks alone keep masks and "
                "positions of its shortened layers right: go on inside the with-block"
            )
        return super().get_mask_sizes(query_length, layer_idx)  # type: ignore[misc]

    def crop(self, tokens_to_remove: int) -> None:
        if tokens_to_remove > 0:  # transformers below 5.18: a final length, of the layers that have all rows
            tokens_to_remove = -max(0, super().get_seq_length() - tokens_to_remove)  # type: ignore[misc]
        if tokens_to_remove:
            super().crop(tokens_to_remove)  # type: ignore[misc]

    def _rows(self, change: Callable[[Tensor], Tensor]) -> None:
        for segment in self.segments:
            segment.valid = None if segment.valid is None else change(segment.valid)
            segment.behind = None if segment.behind is None else change(segment.behind)


@memoised
def _layered_class(cls: Any) -> type:
    return type(f"Layered{cls.__name__}", (_Layered, cls), {})


# ---- passes


@dataclass
class Visual:
    """A video on its way through the layers.

    rows: int64 [v], where its tokens are among the present rows. ids: int64 [v], their number among the T·M patch
    tokens; merged ones follow, numbered as they come. frame: int64 [v]. history: ids after each stage; counts: tokens
    in each layer.
    """

    place: Place
    stages: tuple[Stage, ...]
    budgets: list[Tensor | None]
    raters: Tensor
    """int64 [Q], the rows whose attention ranks"""
    rows: Tensor
    ids: Tensor
    frame: Tensor
    known: int
    scores: Tensor | None = None
    history: list[Tensor] = field(default_factory=list)
    ranked: list[Tensor] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)

    @property
    def frames_after(self) -> tuple[int, ...]:
        m = len(self.place.columns) // self.place.frames
        left = self.ids[self.ids < len(self.place.columns)]
        return tuple(torch.bincount(left // m, minlength=self.place.frames).tolist())

    @property
    def layers(self) -> tuple[int, ...]:
        """Visual rows, separators included, in each layer."""
        return tuple(count + self.place.separators for count in self.counts)


class Pass:
    """One forward of the language model whose later layers have fewer rows."""

    def __init__(self, lm: Any, cache: Any):
        self.lm, self.cache = lm, cache
        self.positions: Tensor | None = None  # as rotary_emb got them: [B or 1, n], or mRoPE's [3, B or 1, n]
        self.overrides: dict[int, dict[str, Any]] = {}

    def before_layer(self, index: int, layer: Any, hidden: Tensor, kwargs: dict[str, Any]) -> Tensor:
        raise NotImplementedError

    def mask(self, index: int, hidden: Tensor, valid: Tensor | None) -> Any:
        return causal_mask(self.lm, hidden, valid, self.cache, index)


class Prefill(Pass):
    def __init__(self, method: InsideLLM, lm: Any, cache: Any, embeds: Tensor, prompt: Prompt):
        super().__init__(lm, cache)
        self.method, self.prompt = method, prompt
        self.live, self.home = prompt.valid, prompt.valid.device
        self.origin = torch.arange(embeds.shape[1], device=embeds.device).expand(embeds.shape[:2])
        self.on_the_right = bool((~prompt.valid[:, -1]).any())  # where padding is, and where it is put
        with full_precision(embeds.device):
            self.visuals = [self.visual(place, embeds[place.row]) for place in prompt.videos]
        self.stages = max((visual.stages for visual in self.visuals), key=len, default=())
        self.done = 0
        self.segments: list[Segment] = []

    def visual(self, place: Place, embeds: Tensor) -> Visual:
        tokens, device = len(place.columns), embeds.device
        features = embeds[place.columns]
        require_finite(bool(all_finite(features)), features)
        stages = self.method.schedule(len(self.lm.layers), tokens)
        budgets: list[Tensor | None] = [None] * len(stages)
        if self.method.fca is not None:
            x = features.unflatten(0, (place.frames, -1))
            budgets = [self.method.fca.budgets(x, stage.keep / tokens) for stage in stages]

        column = torch.arange(len(embeds), device=device)
        asked = self.prompt.text[place.row] & (column > place.columns[-1]) & (column < self.prompt.length)
        question = asked.nonzero()[:, 0]
        chosen = self.method.raters(features, embeds[question])
        there = self.prompt.valid[place.row] & (column < self.prompt.length)
        raters = there.nonzero()[-1] if chosen is None else question[chosen]
        frame = torch.arange(tokens, device=device) // (tokens // place.frames)
        ids = torch.arange(tokens, device=device)
        return Visual(place, stages, budgets, raters, place.columns.to(device), ids, frame, tokens)

    def before_layer(self, index: int, layer: Any, hidden: Tensor, kwargs: dict[str, Any]) -> Tensor:
        stages = self.stages
        hidden = self.follow(layer, hidden)
        if self.done < len(stages) and stages[self.done].cut == index > stages[self.done].rank:
            hidden = self.cut(index, hidden)
        self.override(index, hidden, kwargs)
        if self.done < len(stages) and stages[self.done].rank == index:
            if not self.method.eager:
                self.rank(layer, hidden, kwargs["position_embeddings"])
            if stages[self.done].cut == index:
                hidden = self.cut(index, hidden)
                self.override(index, hidden, kwargs)
        for visual in self.visuals:
            visual.counts.append(len(visual.rows))
        return hidden

    def follow(self, layer: Any, hidden: Tensor) -> Tensor:
        """`hidden` and what is known of its rows, on the device of `layer`, which may be another GPU than so far."""
        device = next(layer.parameters()).device
        if device.type == "meta":  # its weights are elsewhere until it runs
            return hidden
        if self.live.device != device:
            self.live, self.origin = self.live.to(device), self.origin.to(device)
            self.positions = None if self.positions is None else self.positions.to(device)
            for visual in self.visuals:
                for name in ("raters", "rows", "ids", "frame", "scores"):
                    known = getattr(visual, name)
                    setattr(visual, name, None if known is None else known.to(device))
                visual.budgets = [None if budgets is None else budgets.to(device) for budgets in visual.budgets]
        return hidden.to(device)

    def override(self, index: int, hidden: Tensor, kwargs: dict[str, Any]) -> None:
        if not self.segments:
            return
        segment = self.segments[-1]
        if segment.first not in self.overrides:
            self.overrides[segment.first] = {
                "attention_mask": self.mask(index, hidden, segment.valid),
                "position_embeddings": self.lm.rotary_emb(hidden, self.positions),
                "position_ids": None,  # which tell packed sequences apart, in flash attention
            }
        kwargs |= self.overrides[segment.first]

    # ---- ranking

    def rank(self, layer: Any, hidden: Tensor, rotary: tuple[Tensor, Tensor]) -> None:
        """Score the rows of all videos by the attention that `layer` would pay, were it to see `hidden`."""
        attention = layer.self_attn
        apply = sys.modules[type(attention).__module__].apply_rotary_pos_emb
        turns = [part.to(hidden.device) for part in rotary]
        for b in sorted({visual.place.row for visual in self.visuals}):
            x = layer.input_layernorm(hidden[b : b + 1])
            cos, sin = (part[b : b + 1] if len(part) > 1 else part for part in turns)
            key = _heads(attention, x, "k")
            key = apply(key, key, cos, sin)[1][0].float()  # [kv heads, n, d]
            ones = torch.ones_like(x[..., : attention.head_dim])[:, None]
            for visual in self.of_row(b):
                raters = visual.raters
                turn = cos[:, raters], sin[:, raters]
                query = _heads(attention, x[:, raters], "q")
                query = apply(query, query, *turn)[0][0].float()
                query = query.unflatten(0, (len(key), -1))  # [kv heads, query heads of each, Q, d]
                with full_precision(x.device):
                    logits = (query.flatten(1, 2) @ key.mT).view(*query.shape[:-1], -1) * attention.scaling
                seen = self.live[b] & (torch.arange(x.shape[1], device=x.device) <= raters[:, None])
                weights = logits.masked_fill(~seen, -torch.inf).softmax(dim=-1).flatten(0, 1)
                self.score(visual, weights[..., visual.rows], (ones, apply, (cos, sin), attention.head_dim))

    def rank_by(self, attention: Any, weights: Tensor | None) -> None:
        """The same, by the weights [B, heads, n, n] that an eager layer returned."""
        if weights is None:
            raise ValueError("attention='eager' needs a model that was loaded with attn_implementation='eager'")
        apply = sys.modules[type(attention).__module__].apply_rotary_pos_emb
        n, d = weights.shape[-1], attention.head_dim
        turn: Any = None
        if self.method.wants_rotary:
            hidden = weights.new_ones(weights.shape[0], n, 1)
            turn = [part.to(weights.device) for part in self.lm.rotary_emb(hidden, self.positions)]
        for visual in self.visuals:
            b = visual.place.row
            rotary: Any = None
            if turn is not None:
                cos, sin = (part[b : b + 1] if len(part) > 1 else part for part in turn)
                rotary = weights.new_ones(1, 1, n, d), apply, (cos, sin), d
            self.score(visual, weights[b, :, visual.raters][..., visual.rows].float(), rotary)

    def score(self, visual: Visual, weights: Tensor, rotary: Any) -> None:
        product = None
        with full_precision(weights.device):
            if self.method.wants_rotary:
                ones, apply, turn, d = rotary
                turned = apply(ones, ones, *turn)[0][0, 0].float()
                product = turned[visual.raters] @ turned[visual.rows].mT / d**0.5
            visual.scores = self.method.scores(weights, product)

    def of_row(self, b: int) -> list[Visual]:
        return [visual for visual in self.visuals if visual.place.row == b]

    # ---- dropping

    def cut(self, index: int, hidden: Tensor) -> Tensor:
        """The rows that stay, for layer `index` and those after it."""
        batch, length = hidden.shape[:2]
        assert self.positions is not None
        positions = self.positions.expand(*self.positions.shape[:-2], batch, length)
        if not self.segments:
            self.last = _last(positions, self.prompt.valid.to(positions.device))
        stay = self.live.clone()
        changes = {visual.place.row: [] for visual in self.visuals}  # type: ignore[var-annotated]
        for visual in self.visuals:
            b, old = visual.place.row, visual.rows
            assert visual.scores is not None
            keep = self.method.limit(visual.stages[self.done].keep, len(old))
            budgets = visual.budgets[self.done]
            if budgets is None:
                kept = choose(visual.scores, keep)
            else:
                kept = choose_per_frame(visual.scores, visual.frame, budgets)
            gone = torch.ones_like(old, dtype=torch.bool).index_fill_(0, kept, False).nonzero()[:, 0]
            stay[b, old[gone]] = False
            with full_precision(hidden.device):
                merged = self.method.merge(hidden[b, old[gone]], visual.scores[gone]) if len(gone) else None
            changes[b].append((visual, kept, gone, merged))
            visual.ranked.append(visual.scores)

        picked: list[Tensor] = []  # of each row of the batch: which of its rows, merged ones counted on behind them
        added: list[Tensor] = []
        origins: list[Tensor] = []
        for b in range(batch):
            index_of = stay[b].nonzero()[:, 0]
            room = length + 1  # between two rows, for more merged tokens than there can be
            rank, more, seats = index_of * room, hidden[b, :0], positions[..., b, :0]
            for visual, _, gone, merged in changes.get(b, ()):
                if merged is None:
                    continue
                count, first = len(merged.centre), length + len(more)
                index_of = torch.cat([index_of, torch.arange(first, first + count, device=hidden.device)])
                # Merged tokens stand behind the last token that the video had.
                rank = torch.cat([rank, visual.rows[-1] * room + torch.arange(1, count + 1, device=hidden.device)])
                more = torch.cat([more, merged.features])
                seats = torch.cat([seats, positions[..., b, visual.rows[gone[merged.centre]]]], dim=-1)
            picked.append(index_of[rank.argsort(stable=True)])
            added.append(more)
            origins.append(seats)

        longest = max(map(len, picked))
        extra = max(map(len, added))
        if extra:
            hidden = torch.cat([hidden, nn.utils.rnn.pad_sequence(added, batch_first=True)], dim=1)
            seat = positions.new_zeros(*positions.shape[:-1], extra)
            for b, own in enumerate(origins):
                seat[..., b, : own.shape[-1]] = own
            positions = torch.cat([positions, seat], dim=-1)
            self.origin = nn.functional.pad(self.origin, (0, extra), value=-1)
        order = torch.zeros(batch, longest, dtype=torch.int64, device=hidden.device)
        live = torch.zeros_like(order, dtype=torch.bool)
        for b, own in enumerate(picked):
            first = 0 if self.on_the_right else longest - len(own)
            order[b, first : first + len(own)] = own
            live[b, first : first + len(own)] = True
            now = order.new_full((hidden.shape[1],), -1)
            now[own] = torch.arange(first, first + len(own), device=hidden.device)
            merged_before = length
            for visual, kept, gone, merged in changes.get(b, ()):
                rows, ids, frame = visual.rows[kept], visual.ids[kept], visual.frame[kept]
                if merged is not None:
                    count = len(merged.centre)
                    rows = torch.cat([rows, torch.arange(count, device=rows.device) + merged_before])
                    ids = torch.cat([ids, torch.arange(count, device=rows.device) + visual.known])
                    frame = torch.cat([frame, visual.frame[gone[merged.centre]]])
                    merged_before, visual.known = merged_before + count, visual.known + count
                visual.rows, visual.ids, visual.frame = now[rows], ids, frame
                visual.raters = now[visual.raters]
                visual.history.append(ids)

        self.live, self.origin = live, self.origin.gather(1, order)
        positions = positions.gather(-1, order.expand(*positions.shape[:-2], *order.shape))
        behind = None
        if self.method.numbers == "repack":
            anew = (live.cumsum(dim=1) - 1).clamp(min=0)
            shorter = torch.zeros(batch, dtype=torch.bool, device=live.device)
            shorter[list(changes)] = True
            positions = torch.where(shorter[:, None], anew, positions)
            behind = (self.last.to(live.device) - _last(positions, live)).to(self.home)
        self.positions = positions
        self.segments.append(Segment(index, None if bool(live.all()) else live.to(self.home), behind))
        self.done += 1
        return hidden.gather(1, order[..., None].expand(-1, -1, hidden.shape[-1]))

    def deepstack(self, visual: Tensor, embeds: Tensor) -> tuple[Tensor, Tensor]:
        """Of the mask [B, N] of visual rows, and the features of those rows, what is left at this layer."""
        visual = visual.to(self.origin.device)
        number = (visual.flatten().cumsum(0) - 1).view_as(visual)
        origin = self.origin.clamp(min=0)
        mask = visual.gather(1, origin) & self.live & (self.origin >= 0)
        return mask, embeds[number.gather(1, origin)[mask].to(embeds.device)]


class Step(Pass):
    """Further tokens on a cache that an earlier pass filled."""

    def __init__(self, lm: Any, cache: Any, batch: int, length: int, live: Tensor | None):
        super().__init__(lm, cache)
        self.length = length
        self.firsts = [segment.first for segment in cache.segments]
        for segment in cache.segments:
            rows = cache.get_seq_length(segment.first)
            if live is not None and not bool(live.all()):
                before = live.new_ones(batch, 0) if segment.valid is None else segment.valid
                segment.valid = torch.cat([_extend(before, rows), live], dim=1)
            elif segment.valid is not None:
                segment.valid = segment.valid[:, :rows]  # what was cropped may have been padding

    def before_layer(self, index: int, layer: Any, hidden: Tensor, kwargs: dict[str, Any]) -> Tensor:
        which = bisect_right(self.firsts, index) - 1
        if which < 0:
            return hidden
        segment = self.cache.segments[which]
        if which not in self.overrides:
            valid = segment.valid
            if valid is not None:
                valid = _extend(valid, self.cache.get_seq_length(index) + self.length)
            self.overrides[which] = {"attention_mask": self.mask(index, hidden, valid), "position_ids": None}
            if segment.behind is not None:
                assert self.positions is not None
                positions = self.positions - segment.behind[:, None]
                self.overrides[which]["position_embeddings"] = self.lm.rotary_emb(hidden, positions)
        kwargs |= self.overrides[which]
        return hidden


def _heads(attention: Any, x: Tensor, which: str) -> Tensor:
    """Queries or keys of x [1, n, D], without rotary embedding: [1, heads, n, d]."""
    states = getattr(attention, f"{which}_proj")(x).unflatten(-1, (-1, attention.head_dim))
    norm = getattr(attention, f"{which}_norm", None)
    return (states if norm is None else norm(states)).transpose(1, 2)


def _last(positions: Tensor, live: Tensor) -> Tensor:
    """int64 [B], the position of the last row that is no padding; mRoPE's largest of three."""
    column = (live * torch.arange(live.shape[1], device=live.device)).amax(dim=1, keepdim=True)
    last = positions.gather(-1, column.expand(*positions.shape[:-2], *column.shape))[..., 0]
    return last.amax(dim=0) if last.ndim == 2 else last


# ---- hooks


class LayerHooks(Uncopied):
    """A method on one language model.

    find: called before each forward with the language model's arguments; says what prompt it is, or None for what is no
    prefill with a video. report: called with the videos after each prefill.
    """

    def __init__(
        self,
        method: InsideLLM,
        lm: Any,
        find: Callable[[dict[str, Any]], Prompt | None],
        report: Callable[[Sequence[Visual]], None],
    ):
        method.check(len(lm.layers))
        cache_name(lm)  # TypeError where the hooks would not find it
        self.method, self.lm, self.find, self.report = method, lm, find, report
        self.runs: dict[int, Pass] = {}  # by thread
        self.attached = True
        stages = method.schedule(len(lm.layers), NOMINAL)
        if method.eager and lm.config._attn_implementation != "eager":
            raise ValueError(
                f"{method.spec} ranks by the layers' own attention weights, but this model was loaded with "
                f"attn_implementation={lm.config._attn_implementation!r}: load it with 'eager', or use attention='rows'"
            )
        kinds = getattr(lm.config, "layer_types", None) or []
        if stages and "sliding_attention" in kinds[stages[0].cut :]:
            raise ValueError(f"{method.name} cannot shorten {type(lm).__name__}'s layers with a sliding window")
        rotary = lm.rotary_emb
        self.handles = [
            lm.register_forward_pre_hook(self.before, with_kwargs=True),
            lm.register_forward_hook(self.after),
            lm.register_forward_hook(self.forget, always_call=True),
            rotary.register_forward_pre_hook(self.note_positions, with_kwargs=True),
        ]
        for index, layer in enumerate(lm.layers):
            self.handles.append(layer.register_forward_pre_hook(self.layer_hook(index), with_kwargs=True))
        if method.eager:
            for stage in stages:
                self.handles.append(lm.layers[stage.rank].self_attn.register_forward_hook(self.note_weights))
        self.undo = wrap(lm, names.DEEPSTACK, self.deepstack) if hasattr(lm, names.DEEPSTACK) else None

    def remove(self) -> None:
        for handle in self.handles:
            handle.remove()
        if self.undo is not None:
            self.undo()
        self.attached = False

    @property
    def run(self) -> Pass | None:
        """The forward that this thread is in."""
        return self.runs.get(get_ident())

    def deepstack(self, original: Callable[..., Tensor], hidden: Tensor, visual: Tensor, embeds: Tensor) -> Tensor:
        if isinstance(self.run, Prefill) and self.run.segments:
            visual, embeds = self.run.deepstack(visual, embeds)
        return original(hidden, visual, embeds)

    def before(self, lm: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        self.forget(lm, args, None)  # after a KeyboardInterrupt torch does not
        prompt = self.find(kwargs)
        cache = cache_of(kwargs)
        if prompt is not None and prompt.videos:
            embeds = together(kwargs)
            if cache is not None and cache.is_compileable:
                raise ValueError(
                    f"{self.method.name} gives the layers caches of different lengths, which {type(cache).__name__} "
                    "cannot have: leave cache_implementation unset"
                )
            if cache is not None and cache.get_seq_length() > 0:
                raise ValueError(
                    f"{self.method.name} takes videos in the first turn of a chat only: begin a new one without "
                    f"{cache_name(lm)}"
                )
            if self.method.retention < 1 and cache is None and uses_cache(lm, kwargs):
                give_cache(lm, kwargs, cache := new_cache(lm))
            self.runs[get_ident()] = Prefill(self.method, lm, cache, embeds, prompt)
        elif isinstance(cache, _Layered) and cache.segments:
            batch, length = together(kwargs).shape[:2]
            self.runs[get_ident()] = Step(lm, cache, batch, length, _valid(kwargs, length, cache))
        return args, kwargs

    def after(self, lm: Any, args: Any, output: Any) -> None:
        run = self.run
        if not isinstance(run, Prefill):
            return
        if run.segments and run.cache is not None:
            run.cache.__class__ = _layered_class(type(run.cache))  # type: ignore[arg-type]
            run.cache.segments, run.cache.holder = run.segments, weakref.ref(self)
        for visual in run.visuals:
            self.method.verify(visual.counts, len(visual.place.columns), visual.place.frames)
        self.report(run.visuals)

    def forget(self, lm: Any, args: Any, output: Any) -> None:
        self.runs.pop(get_ident(), None)

    def note_positions(self, rotary: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        run = self.run
        if run is not None and run.positions is None:
            run.positions = kwargs["position_ids"] if "position_ids" in kwargs else args[1]

    def note_weights(self, attention: Any, args: Any, output: Any) -> None:
        if isinstance(run := self.run, Prefill):
            run.rank_by(attention, output[1])

    def layer_hook(self, index: int) -> Callable[..., Any]:
        def before_layer(layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if (run := self.run) is None:
                return None
            hidden = run.before_layer(index, layer, args[0], kwargs)
            return (hidden, *args[1:]), kwargs

        return before_layer
