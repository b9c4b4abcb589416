"""Seconds per stage of one answer."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TypeAlias

import torch
from torch import nn

from ..results.sample import STAGES

Moment: TypeAlias = "float | torch.cuda.Event"


def moment(device: torch.device) -> Moment:
    """Now; of a GPU, when it has done all that it was given so far. The host does not wait for that."""
    if device.type != "cuda":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record(torch.cuda.current_stream(device))
    return event


def seconds_between(begin: Moment, end: Moment) -> float:
    """Waits until the GPU has got to the end. Both are of one device."""
    if isinstance(begin, float) or isinstance(end, float):
        return end - begin  # type: ignore[operator]
    end.synchronize()
    return begin.elapsed_time(end) / 1000


class StageTimer:
    """Seconds per stage; one stage runs at a time, or none. On a GPU, a stage ends when what was launched in it is
    done, and the host goes on launching.

    spent: seconds that some stages took already.
    """

    def __init__(self, device: torch.device, spent: Mapping[str, float] | None = None):
        self.device = device
        self._spent = dict.fromkeys(STAGES, 0.0) | dict(spent or {})
        self._ended: list[tuple[str, Moment, Moment]] = []
        self._running: tuple[str, Moment] | None = None

    @property
    def seconds(self) -> dict[str, float]:
        """Of the stages that ended so far. Waits for the GPU to end them, so ask for it late."""
        seconds = dict(self._spent)
        for stage, begin, end in self._ended:
            seconds[stage] += seconds_between(begin, end)
        return seconds

    def switch(self, stage: str | None) -> None:
        """End the running stage and begin another; None only ends."""
        now = moment(self.device)
        if self._running is not None:
            self._ended.append((*self._running, now))
        self._running = None if stage is None else (stage, now)

    @contextmanager
    def during(self, stage: str) -> Iterator[None]:
        self.switch(stage)
        try:
            yield
        finally:
            self.switch(None)

    @contextmanager
    def watching(self, model: nn.Module, language: nn.Module, tower: nn.Module | None = None) -> Iterator[None]:
        """Switch stages as `model`'s generate passes through its tower, if it does, its language model and its head."""

        def before(*_: object) -> None:
            if self._in("compress"):
                self.switch("prefill")

        def after(*_: object) -> None:
            if self._in("prefill"):
                self.switch("generate")

        hooks = [language.register_forward_pre_hook(before), model.register_forward_hook(after)]
        if tower is not None:
            hooks.append(tower.register_forward_pre_hook(lambda *_: self.switch("vision")))
            hooks.append(tower.register_forward_hook(lambda *_: self.switch("compress")))
        try:
            with self.during("compress"):
                yield
        finally:
            for hook in hooks:
                hook.remove()

    def _in(self, stage: str) -> bool:
        return self._running is not None and self._running[0] == stage
