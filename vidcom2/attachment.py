"""A compressor on a model: from `with compressor(model)` or `attach` until the end of the block or `detach`."""

from __future__ import annotations

import threading
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from torch import nn

if TYPE_CHECKING:
    from vidcom2.compressor import Compressor, Record


class Hold(Protocol):
    """What a family puts on a model.

    records: of the model's latest call with a video. used: whether the model was called at all. remove: takes
    everything off the model. busy: whether another thread is in a call of the model.
    """

    records: list[Record]
    used: bool

    def remove(self) -> None: ...

    def busy(self) -> bool: ...


@dataclass
class Attachment:
    """A compressor on a model. `records` tells what the model's latest call with a video did (of our llava tree: its
    latest prompt, if only text), and is empty before the first and after one that failed. Of calls in several threads
    it is one call's, never a mixture. `detach` undoes the attachment."""

    compressor: Compressor
    model: Any
    _hold: Hold
    _attached: bool = True

    @property
    def records(self) -> list[Record]:
        return list(self._hold.records)

    @property
    def used(self) -> bool:
        """Whether the model was called since."""
        return self._hold.used

    def detach(self) -> None:
        """Raises RuntimeError, once the compressor is off, where another thread is in a call of the model."""
        busy = self._attached and self._hold.busy()
        self.remove()
        if busy:
            raise RuntimeError(
                f"{self.compressor.spec} was taken off while a call of the model ran in another thread, which is not "
                "compressed as asked: wait for it first, inside the with-block (a streamed answer: read it there)"
            )

    def remove(self) -> None:
        """`detach`, whoever is in a call."""
        if self._attached:  # a second time, it must not take off what came after
            self._attached = False
            self._hold.remove()


class Block:
    """`with compressor(model) as run:`. The model is compressed inside the block only, for every thread; `run` is its
    `Attachment`.

    Entering raises what `Compressor.attach` raises, leaving without an exception what `Attachment.detach` raises. Warns
    where the block is never entered, or left without a call of the model: then nothing was compressed. Raises
    RuntimeError instead where a thread that began inside, and is no daemon, has still to end: it may be about to call.
    """

    def __init__(self, compressor: Compressor, model: nn.Module):
        self.compressor, self.model, self.entered = compressor, model, False

    def __enter__(self) -> Attachment:
        self.entered, self.threads = True, set(threading.enumerate())
        self.attachment = self.compressor.attach(self.model)
        return self.attachment

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if kind is not None:
            self.attachment.remove()
            return
        self.attachment.detach()
        if self.attachment.used:
            return
        text = (
            f"the model was not called while {self.compressor.spec} was on it. What calls it later, a thread or a "
            "generator that began inside the with-block, is not compressed: finish it inside"
        )
        begun = [thread for thread in threading.enumerate() if thread not in self.threads and not thread.daemon]
        if begun:
            raise RuntimeError(f"{text}, as for thread {begun[0].name}")
        warnings.warn(text, RuntimeWarning, stacklevel=2)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"{self!r} is no model and has no {name!r}: {self.usage}")

    def __del__(self) -> None:
        if not vars(self).get("entered", True):
            text = f"{self!r} was never entered, so nothing is compressed: {self.usage}"
            warnings.warn(text, RuntimeWarning, stacklevel=2)

    def __repr__(self) -> str:
        return f"{type(self.compressor).__name__}(...)({type(self.model).__name__})"

    @property
    def usage(self) -> str:
        name = type(self.compressor).__name__
        return f"write `with {name}(...)(model) as run:` and call the model inside, or {name}(...).attach(model)"
