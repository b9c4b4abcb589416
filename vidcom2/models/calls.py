"""Watching the calls of a compressed model, and refusing copies of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from threading import get_ident
from typing import Any

from vidcom2.models.wrap import wrap


class Uncopied:
    """Base of what is put on a model. It refuses to be copied, because a copy of the model would keep it for ever."""

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError(
            "a compressed model cannot be copied or pickled, as the copy would stay compressed for ever: copy it "
            "outside the with-block, or detach the compressor first"
        )


class Calls(Uncopied):
    """Watches the generate() calls of a model, if it has that method.

    Args:
        model: The model.
        failed: Called after a call that raised.

    Attributes:
        used: Whether there was a call.
        running: How many calls each thread is in.
        asked: By thread, the keyword arguments of the call that it is in.
    """

    def __init__(self, model: Any, failed: Callable[[], None]):
        self.used, self.failed = False, failed
        self.attached = True
        self.running: Counter[int] = Counter()
        self.asked: dict[int, dict[str, Any]] = {}
        self.undo = wrap(model, "generate", self.generate) if hasattr(model, "generate") else lambda: None

    def remove(self) -> None:
        """Put the model's own generate() back."""
        self.attached = False
        self.undo()

    def busy(self) -> bool:
        """Whether another thread is in generate()."""
        return any(count for thread, count in list(self.running.items()) if thread != get_ident())

    def generate(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Around generate().

        Raises:
            RuntimeError: If the compressor was taken off the model in the meantime.
        """
        self.used = True
        self.running[get_ident()] += 1
        before = self.asked.get(get_ident())
        self.asked[get_ident()] = kwargs
        try:
            out = original(*args, **kwargs)
        except BaseException:
            self.failed()
            raise
        finally:
            self.running[get_ident()] -= 1
            if before is None:
                del self.asked[get_ident()]
            else:
                self.asked[get_ident()] = before
        if not self.attached:
            raise RuntimeError(
                "the compressor was taken off the model while this generate() ran, so its answer is not compressed as "
                "asked: leave the with-block afterwards"
            )
        return out
