"""The LLaVA tree (`llava/`): its models hold their compressor themselves and call it between pooling and splicing.

Any model with the same two attributes is served: `compressor` (None, or what compresses its videos) and
`visual_records` (the `Record`s of the latest call, a new list each time). Methods inside the LLM also need
`_multimodal_rows`, whose result holds the `records` of its call.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from threading import get_ident
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vidcom2.models import names
from vidcom2.models.calls import Calls, Uncopied
from vidcom2.models.wrap import wrap
from vidcom2.unwrap import has

if TYPE_CHECKING:
    from vidcom2.compressor import Compressor
    from vidcom2.records import Record

NEEDS = "a LLaVA model of this project's llava package (attributes `compressor` and `visual_records`)"


def supports(model: Any) -> bool:
    return has(model, "compressor", "visual_records")


def attach(compressor: Compressor, model: Any) -> LlavaHold:
    names.warn_untested()
    return LlavaHold(compressor, model)


class LlavaHold(Uncopied):
    """A compressor on one model; see `vidcom2.families.Hold`."""

    def __init__(self, compressor: Compressor, model: Any):
        if model.compressor is not None:
            raise RuntimeError(
                f"{type(model).__name__} is compressed already, by {model.compressor.spec}; leave its with-block or "
                "detach it first"
            )
        self.model, self.own = model, "compressor" in vars(model)
        self.last: list[Record] | None = None
        self.inside = InsideHooks(compressor, model) if compressor.stage == "inside LLM" else None
        self.calls = Calls(model, self.forget)
        model.compressor, model.compressor_hold = compressor, self  # the latter refuses to be copied
        self.forwarded = False
        self.handle = model.register_forward_pre_hook(self.note_forward)
        model.visual_records = []

    @property
    def records(self) -> list[Record]:
        return self.model.visual_records if self.last is None else self.last

    @property
    def used(self) -> bool:
        return self.calls.used or self.forwarded

    def note_forward(self, *_: Any) -> None:
        self.forwarded = True

    def forget(self) -> None:
        self.model.visual_records = []

    def busy(self) -> bool:
        return self.calls.busy()

    def remove(self) -> None:
        self.last = self.model.visual_records
        if self.own:
            self.model.compressor = None
        else:
            del self.model.compressor
        del self.model.compressor_hold
        self.handle.remove()
        self.calls.remove()
        if self.inside is not None:
            self.inside.remove()


class InsideHooks(Uncopied):
    """A method that drops tokens between the layers. Here the videos are found, as the model puts rows together; the
    rest is done by `LayerHooks`."""

    def __init__(self, method: Any, model: Any):
        from vidcom2.models.layers import LayerHooks

        self.method, self.model = method, model
        self.rows: dict[int, Any] = {}  # of the calls that are on their way to the language model, by thread
        self.records: dict[int, Sequence[Record]] = {}  # of those that are in it
        self.layers = LayerHooks(method, model.get_model(), self.find, self.report)
        self.undo = wrap(model, "_multimodal_rows", self.note_rows)

    def remove(self) -> None:
        self.layers.remove()
        self.undo()

    def note_rows(
        self, original: Callable[..., Any], input_ids: Any, attention_mask: Any, labels: Any, *args: Any
    ) -> Any:
        self.rows.pop(get_ident(), None)
        rows = original(input_ids, attention_mask, labels, *args)
        videos = [record for record in rows.records if record.method != "none"]
        if videos and labels is not None:
            raise ValueError(
                "labels cannot be used under a compressor that shortens the layers: the logits are shorter than the "
                "labels. Compute the loss from the logits, or detach the compressor for training"
            )
        if any(rows.cut[record.sample] for record in videos):
            raise ValueError(
                f"{self.method.name} needs videos and questions whole, but a sequence is longer than "
                "tokenizer_model_max_length: use fewer frames"
            )
        if videos:
            self.rows[get_ident()] = rows
        return rows

    def find(self, kwargs: dict[str, Any]) -> Any:
        from vidcom2.models.layers import Place, Prompt

        rows = self.rows.pop(get_ident(), None)
        embeds = kwargs.get("inputs_embeds")
        if rows is None or embeds is None:
            return None
        if embeds.shape[1] != rows.embeds.shape[1]:
            raise ValueError(
                f"{self.method.name} needs a prompt whole, but of {rows.embeds.shape[1]} rows the language model got "
                f"{embeds.shape[1]}: leave prefill_chunk_size and the like unset"
            )
        copies = len(embeds) // len(rows.embeds)  # beams, or several answers
        valid = rows.mask.to(embeds.device).repeat_interleave(copies, dim=0)
        text, videos = valid.clone(), []
        self.records[get_ident()] = rows.records
        for record in rows.records:
            of = slice(record.sample * copies, (record.sample + 1) * copies)
            text[of, record.start : record.start + record.tokens_before] = False
            if record.method != "none":
                columns = patch_columns(record).to(embeds.device)
                frames, separators = len(record.frames_before), record.separators_before
                videos += [Place(row, columns, frames, separators) for row in range(of.start, of.stop)]
        return Prompt(videos, valid, text, embeds.shape[1])

    def report(self, visuals: Sequence[Any]) -> None:
        """Complete the records; of several copies of a video, by the first."""
        records = self.records.pop(get_ident())
        first = {(int(visual.place.columns[0]), visual.place.row): visual for visual in reversed(visuals)}
        copies = len(visuals) // max(1, sum(record.method != "none" for record in records))
        self.model.visual_records = [
            record
            if record.method == "none"
            else dataclasses.replace(
                record,
                positions=self.method.numbers,
                frames_after=(visual := first[record.start, record.sample * copies]).frames_after,
                layers=visual.layers,
            )
            for record in records
        ]


def patch_columns(record: Record) -> Tensor:
    """Where a video's patch tokens are in the sequence that has all of them: int64 [T·M].

    Separators stand after each line, after each frame, or one at the end.
    """
    frames, patches = len(record.frames_before), sum(record.frames_before)
    place = torch.arange(patches)
    if record.separators_before > 1 and record.separators_before % frames == 0:
        place = place + place // (patches // record.separators_before)
    return record.start + place
