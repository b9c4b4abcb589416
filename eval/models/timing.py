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
    """Return the present moment. On a GPU it comes when all earlier work is done; the host does not wait for it."""
    if device.type != "cuda":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record(torch.cuda.current_stream(device))
    return event


def seconds_between(begin: Moment, end: Moment) -> float:
    """Return the seconds between two moments of one device. Waits until a GPU has reached the later one."""
    if isinstance(begin, float) or isinstance(end, float):
        return end - begin  # type: ignore[operator]
    end.synchronize()
    return begin.elapsed_time(end) / 1000


class StageTimer:
    """Measures seconds per stage. At most one stage runs at a time.

    On a GPU a stage ends when the work that was launched in it is done. The host does not wait for that.

    Args:
        device: The model's device.
        spent: Seconds that stages took before.
    """

    def __init__(self, device: torch.device, spent: Mapping[str, float] | None = None):
        self.device = device
        self._spent = dict.fromkeys(STAGES, 0.0) | dict(spent or {})
        self._ended: list[tuple[str, Moment, Moment]] = []
        self._running: tuple[str, Moment] | None = None

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds of the stages that have ended. Waits for the GPU, so read it late."""
        seconds = dict(self._spent)
        for stage, begin, end in self._ended:
            seconds[stage] += seconds_between(begin, end)
        return seconds

    def switch(self, stage: str | None) -> None:
        """End the running stage and begin another. None only ends."""
        now = moment(self.device)
        if self._running is not None:
            self._ended.append((*self._running, now))
        self._running = None if stage is None else (stage, now)

    @contextmanager
    def during(self, stage: str) -> Iterator[None]:
        """Measure the block as a stage."""
        self.switch(stage)
        try:
            yield
        finally:
            self.switch(None)

    @contextmanager
    def watching(self, model: nn.Module, language: nn.Module, tower: nn.Module | None = None) -> Iterator[None]:
        """Switch stages while a model generates: compress, prefill, generate, and vision if there is a tower.

        Args:
            model: The whole model, with its head.
            language: Its language model.
            tower: Its vision tower, if it is called inside generate().
        """

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
