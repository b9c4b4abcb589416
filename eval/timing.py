"""Wall-clock seconds per stage of one answer."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

STAGES = ("decode", "preprocess", "vision", "compress", "prefill", "generate")
"""decode the video file; resize and normalise frames; tower and projector; pool, compress, arrange and splice; the
LLM's first pass, with its head (gives the first token); all later tokens."""


class StageTimer:
    """Sums seconds per stage; exactly one stage runs at a time. Waits for the GPU at every switch, so that a stage's
    kernels count where they were launched.

    spent: seconds that some stages took already.
    """

    def __init__(self, device: torch.device, spent: Mapping[str, float] | None = None):
        self.device = device
        self.seconds = dict.fromkeys(STAGES, 0.0) | dict(spent or {})
        self._stage: str | None = None
        self._since = 0.0

    def switch(self, stage: str | None) -> None:
        """End the running stage and begin another; None only ends."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        now = time.perf_counter()
        if self._stage is not None:
            self.seconds[self._stage] += now - self._since
        self._stage, self._since = stage, now

    @contextmanager
    def watching(self, model: nn.Module, language: nn.Module, tower: nn.Module | None = None) -> Iterator[None]:
        """Switch stages as `model`'s generate passes through its tower, if it does, its language model and its head."""

        def before(*_: Any) -> None:
            if self._stage == "compress":
                self.switch("prefill")

        def after(*_: Any) -> None:
            if self._stage == "prefill":
                self.switch("generate")

        hooks = [language.register_forward_pre_hook(before), model.register_forward_hook(after)]
        if tower is not None:
            hooks.append(tower.register_forward_pre_hook(lambda *_: self.switch("vision")))
            hooks.append(tower.register_forward_hook(lambda *_: self.switch("compress")))
        try:
            self.switch("compress")
            yield
        finally:
            self.switch(None)
            for hook in hooks:
                hook.remove()
