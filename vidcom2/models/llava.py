"""The family of the llava tree: models that splice the videos into the text themselves, and call their compressor.

Such a model is an `nn.Module` with the attributes of `SplicingModel`. In each call with videos it

1. calls `compressor.select(features)`, features [T, M, D], for each video after pooling, and splices the kept tokens
   into the text. It follows `compressor.positions` and `compressor.newlines`;
2. sets `visual_records` to a new list with one `Record` for each image or video. The list is empty from the start of
   the call until then;
3. calls each of `visual_hooks` with the `Spliced` prompts, in the thread that calls the language model next.

A method before the LLM needs 1 and 2. A method inside the LLM keeps everything in 1 and needs 3: `LlavaInsideHooks`
notes what was spliced, by thread, and `LayerHooks` asks for it when the language model begins its prefill. The language
model gets the rows as `inputs_embeds`, [B, N, D] or, for k beams or answers per prompt, [B·k, N, D].
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from threading import get_ident
from typing import Any, Protocol

from torch import nn

from vidcom2.compressor import Compressor
from vidcom2.inside import InsideLLM
from vidcom2.models import names
from vidcom2.models.calls import Calls, Uncopied
from vidcom2.models.layers import LayerHooks
from vidcom2.models.prompts import Place, Prompt
from vidcom2.models.spliced import Spliced
from vidcom2.models.visual import Visual
from vidcom2.records import Record
from vidcom2.unwrap import has

NEEDS = "a LLaVA model of this project's llava package (attributes `compressor` and `visual_records`)"
"""What a model of this family must have, for error messages."""


class SplicingModel(Protocol):
    """What a model of this family offers; see the top of this file.

    Attributes:
        compressor: The method that compresses the videos; None, also at class level, for none.
        visual_records: The records of the latest call, a new list for each call.
        visual_hooks: Functions to call with the spliced prompts. Only methods inside the LLM need it.
    """

    compressor: Compressor | None
    visual_records: list[Record]
    visual_hooks: list[Callable[[Spliced], None]]

    def get_model(self) -> nn.Module:
        """Return the language model without its head. Only methods inside the LLM need it."""
        ...


def supports(model: Any) -> bool:
    """Return whether `model` has `compressor` and `visual_records`."""
    return has(model, "compressor", "visual_records")


def attach(compressor: Compressor, model: Any) -> LlavaHold:
    """Put a compressor on a model that `supports` accepts; see `vidcom2.families.Family`."""
    names.warn_untested()
    return LlavaHold(compressor, model)


class LlavaHold(Uncopied):
    """A compressor on one model; see `vidcom2.families.Hold`.

    Raises:
        RuntimeError: If the model is compressed already.
        TypeError: If the method needs what the model does not offer.
    """

    def __init__(self, compressor: Compressor, model: Any):
        if model.compressor is not None:
            raise RuntimeError(
                f"{type(model).__name__} is compressed already, by {model.compressor.spec}; leave its with-block or "
                "detach it first"
            )
        self.model, self.own = model, "compressor" in vars(model)
        self.last: list[Record] | None = None
        self.inside = LlavaInsideHooks(compressor, model) if isinstance(compressor, InsideLLM) else None
        self.calls = Calls(model, self.forget)
        model.compressor, model.compressor_hold = compressor, self  # the latter refuses to be copied
        self.forwarded = False
        self.handle = model.register_forward_pre_hook(self.note_forward)
        model.visual_records = []

    @property
    def records(self) -> list[Record]:
        """Records of the latest call."""
        return self.model.visual_records if self.last is None else self.last

    @property
    def used(self) -> bool:
        """Whether the model was called."""
        return self.calls.used or self.forwarded

    def note_forward(self, *_: Any) -> None:
        """Before the model: note that it is called."""
        self.forwarded = True

    def forget(self) -> None:
        """Drop the records of a call that failed."""
        self.model.visual_records = []

    def busy(self) -> bool:
        """Whether another thread is in generate()."""
        return self.calls.busy()

    def remove(self) -> None:
        """Take everything off the model. The records of the latest call stay here."""
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


class LlavaInsideHooks(Uncopied):
    """A method inside the LLM on one model. `visual_hooks` tells it the videos, and `LayerHooks` drops their tokens.

    Raises:
        TypeError: If the model has no `visual_hooks` or no `get_model`.
        ValueError: If the method does not suit the language model.
    """

    def __init__(self, method: InsideLLM, model: Any):
        if not has(model, "visual_hooks", "get_model"):
            raise TypeError(
                f"{method.name} drops tokens inside the LLM, and {type(model).__name__} does not tell where they are: "
                "it needs `visual_hooks` and `get_model()`, see vidcom2.models.llava.SplicingModel"
            )
        self.method, self.model = method, model
        self.spliced: dict[int, Spliced] = {}  # by thread: prompts on their way to the language model
        self.running: dict[int, Spliced] = {}  # by thread: prompts that are in it
        self.layers = LayerHooks(method, model.get_model(), self.find, self.report)
        model.visual_hooks.append(self.note)

    def remove(self) -> None:
        """Take everything off the model."""
        self.layers.remove()
        self.model.visual_hooks.remove(self.note)

    def note(self, spliced: Spliced) -> None:
        """Keep the prompts that this thread is about to give to the language model.

        Raises:
            ValueError: If a prompt with a video is cut off, or if the call has labels.
        """
        self.spliced.pop(get_ident(), None)
        videos = [visual.record for visual in spliced.visuals if visual.record.method != "none"]
        if videos and spliced.labels:
            raise ValueError(
                "labels cannot be used under a compressor that shortens the layers: the logits are shorter than the "
                "labels. Compute the loss from the logits, or detach the compressor for training"
            )
        if any(spliced.cut[record.sample] for record in videos):
            raise ValueError(
                f"{self.method.name} needs videos and questions whole, but a sequence is longer than "
                "tokenizer_model_max_length: use fewer frames"
            )
        if videos:
            self.spliced[get_ident()] = spliced

    def find(self, kwargs: dict[str, Any]) -> Prompt | None:
        """Return the prompt of a language model's call; None if it is none that was spliced. See `LayerHooks`."""
        spliced = self.spliced.pop(get_ident(), None)
        embeds = kwargs.get("inputs_embeds")
        if spliced is None or embeds is None:
            return None
        batch, length = spliced.mask.shape
        if embeds.shape[1] != length:
            raise ValueError(
                f"{self.method.name} needs a prompt whole, but of {length} rows the language model got "
                f"{embeds.shape[1]}: leave prefill_chunk_size and the like unset"
            )
        copies = len(embeds) // batch  # beams, or several answers
        valid = spliced.mask.to(embeds.device).repeat_interleave(copies, dim=0)
        text, videos = valid.clone(), []
        for visual in spliced.visuals:
            record = visual.record
            of = range(record.sample * copies, (record.sample + 1) * copies)
            text[of.start : of.stop, visual.columns.to(embeds.device)] = False
            if record.method != "none":
                patches = visual.patches.to(embeds.device)
                separators = len(visual.columns) - len(patches)
                videos += [Place(row, patches, len(record.frames_before), separators) for row in of]
        self.running[get_ident()] = spliced
        return Prompt(videos, valid, text, length)

    def report(self, visuals: Sequence[Visual]) -> None:
        """Complete the records after a prefill. Of several copies of a video the first one counts."""
        spliced = self.running.pop(get_ident()).visuals
        copies = len(visuals) // sum(visual.record.method != "none" for visual in spliced)
        firsts = iter(visuals[::copies])  # `find` puts the copies of a video side by side
        self.model.visual_records = [
            visual.record if visual.record.method == "none" else self.completed(visual.record, next(firsts))
            for visual in spliced
        ]

    def completed(self, record: Record, visual: Visual) -> Record:
        """Return the record of a video with what the layers did."""
        return dataclasses.replace(
            record, positions=self.method.numbers, frames_after=visual.frames_after, layers=visual.layers
        )
