"""A compressor on a model: `Attachment` is the handle of the user, `Block` is the `with` statement around it."""

from __future__ import annotations

import threading
import warnings
from dataclasses import dataclass
from typing import Any

from torch import nn

from vidcom2.families import Hold
from vidcom2.records import Record


@dataclass(repr=False)
class Attachment:
    """A compressor on a model, as `Compressor.attach` and `with compressor(model) as run:` return it.

    Attributes:
        compressor: The `Compressor`.
        model: The model that it compresses.
    """

    compressor: Any
    model: Any
    _hold: Hold
    _attached: bool = True

    @property
    def records(self) -> list[Record]:
        """One `Record` per visual input of the model's latest call with a video.

        A model of our `llava` package also records a call without a video. The list is empty before the first call
        and after a call that failed. If several threads call the model, all records come from one of these calls.
        """
        return list(self._hold.records)

    @property
    def used(self) -> bool:
        """Whether the model was called since the compressor was attached."""
        return self._hold.used

    def detach(self) -> None:
        """Take the compressor off the model. A second `detach` does nothing.

        Raises:
            RuntimeError: Another thread is in a call of the model. The compressor is off nevertheless.
        """
        busy = self._attached and self._hold.busy()
        self.remove()
        if busy:
            raise RuntimeError(
                f"{self.compressor.spec} was taken off while a call of the model ran in another thread, so that call "
                "is not compressed as asked: wait for it inside the with-block (read a streamed answer there)"
            )

    def remove(self) -> None:
        """Take the compressor off the model, even if another thread is in a call of it."""
        if self._attached:  # a second time, it would take off what was attached since
            self._attached = False
            self._hold.remove()

    def __repr__(self) -> str:
        state = "" if self._attached else " (detached)"
        records = self.records
        if not self.used:
            seen = "not called yet"
        elif records:
            before = sum(record.tokens_before for record in records)
            after = sum(record.tokens_after for record in records)
            seen = f"{before} -> {after:.10g} visual tokens in the last call"
        else:
            seen = "no visual tokens recorded"
        return f"<{self.compressor.spec} on {type(self.model).__name__}{state}: {seen}>"


class Block:
    """The object that `compressor(model)` returns: a context manager that yields an `Attachment`.

    The model is compressed inside the block only, for calls from any thread.

    Entering raises what `Compressor.attach` raises. Leaving raises what `Attachment.detach` raises, unless another
    exception is on its way. If nothing called the model inside the block, leaving warns; it raises RuntimeError if a
    thread that began inside (and is not a daemon) still runs, because that thread may be about to call the model. A
    block that is never entered warns when it is deleted.
    """

    def __init__(self, compressor: Any, model: nn.Module):
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
            f"the model was not called while {self.compressor.spec} was on it. A later call, by a thread or a "
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
        """How to write it right, for messages."""
        name = type(self.compressor).__name__
        return f"write `with {name}(...)(model) as run:` and call the model inside, or {name}(...).attach(model)"
