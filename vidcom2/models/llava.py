"""The LLaVA tree (`llava/`): its models hold their compressor themselves and call it between pooling and splicing.

Any model with the same two attributes is served: `compressor` (None, or what compresses its videos) and
`visual_records` (the `Record`s of the latest call).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vidcom2.models.unwrap import has
from vidcom2.models.wrap import wrap

if TYPE_CHECKING:
    from vidcom2.compressor import Compressor, Record

NEEDS = "a LLaVA model of this project's llava package (attributes `compressor` and `visual_records`)"


def supports(model: Any) -> bool:
    return has(model, "compressor", "visual_records")


def attach(compressor: Compressor, model: Any) -> tuple[Callable[[], None], Callable[[], list[Record]]]:
    if model.compressor is not None:
        raise RuntimeError(
            f"{type(model).__name__} is compressed already, by {model.compressor.spec}; leave its with-block or "
            "detach it first"
        )
    hooks = InsideHooks(compressor, model) if compressor.stage == "inside LLM" else None
    model.compressor = compressor

    def undo() -> None:
        model.compressor = None
        if hooks is not None:
            hooks.remove()

    return undo, lambda: list(model.visual_records)


class InsideHooks:
    """A method that drops tokens between the layers. Here the videos are found, as the model puts rows together; the
    rest is done by `LayerHooks`."""

    def __init__(self, method: Any, model: Any):
        from vidcom2.models.layers import LayerHooks

        self.method, self.model = method, model
        self.rows: Any = None  # of the call that is on its way to the language model
        self.layers = LayerHooks(method, model.get_model(), self.find, self.report)
        self.undo = wrap(model, "_multimodal_rows", self.note_rows)

    def remove(self) -> None:
        self.layers.remove()
        self.undo()

    def note_rows(
        self, original: Callable[..., Any], input_ids: Any, attention_mask: Any, labels: Any, *args: Any
    ) -> Any:
        self.rows = None
        rows = original(input_ids, attention_mask, labels, *args)
        videos = [record for record in self.model.visual_records if record.method != "none"]
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
            self.rows = rows
        return rows

    def find(self, kwargs: dict[str, Any]) -> Any:
        from vidcom2.models.layers import Place, Prompt

        rows, self.rows = self.rows, None
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
        self.records = self.model.visual_records
        for record in self.records:
            of = slice(record.sample * copies, (record.sample + 1) * copies)
            text[of, record.start : record.start + record.tokens_before] = False
            if record.method != "none":
                columns = patch_columns(record).to(embeds.device)
                frames, separators = len(record.frames_before), record.separators_before
                videos += [Place(row, columns, frames, separators) for row in range(of.start, of.stop)]
        return Prompt(videos, valid, text, embeds.shape[1])

    def report(self, visuals: Sequence[Any]) -> None:
        """Complete the records; of several copies of a video, by the first."""
        first = {(int(visual.place.columns[0]), visual.place.row): visual for visual in reversed(visuals)}
        copies = len(visuals) // max(1, sum(record.method != "none" for record in self.records))
        self.model.visual_records = [
            record
            if record.method == "none"
            else dataclasses.replace(
                record,
                positions=self.method.numbers,
                frames_after=(visual := first[record.start, record.sample * copies]).frames_after,
                layers=visual.layers,
            )
            for record in self.records
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
