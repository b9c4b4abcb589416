"""Which calls of a model are running, and what must not happen meanwhile."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from threading import get_ident
from typing import Any

from vidcom2.models.wrap import wrap


class Uncopied:
    """Base of what is put on a model: a copy of the model would keep it for ever, so it refuses to be copied."""

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError(
            "a compressed model cannot be copied or pickled, as the copy would stay compressed for ever: copy it "
            "outside the with-block, or detach the compressor first"
        )


class Calls(Uncopied):
    """The generate() calls of a model, if it has that method. used: whether there was one. failed: called after one
    that raised."""

    def __init__(self, model: Any, failed: Callable[[], None]):
        self.used, self.failed = False, failed
        self.attached = True
        self.running: Counter[int] = Counter()  # by thread
        self.undo = wrap(model, "generate", self.generate) if hasattr(model, "generate") else lambda: None

    def remove(self) -> None:
        self.attached = False
        self.undo()

    def busy(self) -> bool:
        """Whether another thread is in generate()."""
        return any(count for thread, count in list(self.running.items()) if thread != get_ident())

    def generate(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self.used = True
        self.running[get_ident()] += 1
        try:
            out = original(*args, **kwargs)
        except BaseException:
            self.failed()
            raise
        finally:
            self.running[get_ident()] -= 1
        if not self.attached:
            raise RuntimeError(
                "the compressor was taken off the model while this generate() ran, so its answer is not compressed as "
                "asked: leave the with-block afterwards"
            )
        return out
