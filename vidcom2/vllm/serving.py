"""The compressor of an engine: where it is asked for, and what a server can do with it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import Tensor

from vidcom2.compressor import Compressor, Kept
from vidcom2.inside import InsideLLM
from vidcom2.methods.vidcom2 import VidCom2
from vidcom2.specs import compressor, compressor_from_env

Numbering = Literal["repack", "original"]
VARIABLES = ("COMPRESSOR", "R_RATIO")
"""The environment variables that choose a compressor; see `compressor_from_env`."""
FIELD = "vidcom2"
"""The field of a model's config that chooses one: --hf-overrides '{"vidcom2": "vidcom2@0.25"}'."""


@dataclass(frozen=True)
class Serving:
    """A compressor whose totals are known beforehand: vLLM counts a video's tokens before it encodes the video.

    Args:
        asked: What was asked for.
        compressor: What serves. It is what was asked for, with exact totals if that is VidCom².
    """

    asked: Compressor
    compressor: Compressor

    def total(self, frames: int, m: int) -> int:
        """Return how many tokens stay of a video of T=frames with M=m.

        Raises:
            ValueError: The method cannot serve videos of this shape.
        """
        total = self.compressor.total(frames, m)
        assert total is not None, f"{self.compressor.spec} has a fixed total, see `fixed`"
        return total

    def select(self, x: Tensor, grid: tuple[int, int] | None = None) -> Kept:
        """Return which tokens of one video x [T, M, D] stay; `grid` as for `Compressor.select`.

        Raises:
            ValueError: x holds NaN or Inf.
            RuntimeError: The method keeps another number than it says.
        """
        kept = self.compressor.select(x, grid)
        if len(kept.index) != (total := self.total(*x.shape[:2])):
            raise RuntimeError(
                f"{self.compressor.spec} kept {len(kept.index)} tokens of a video of shape {tuple(x.shape)}, and its "
                f"`total` says {total}: that is a fault of the method"
            )
        return kept

    def keep(self, x: Tensor) -> Tensor:
        """Return the kept tokens [N, D] of one video x [T, M, D]; raises as `select`."""
        return self.select(x).apply(x)

    def __str__(self) -> str:
        """What is compressed and how, for the log."""
        if not self.compressor.drops:
            return "vidcom2 compresses nothing: neither COMPRESSOR nor --hf-overrides asks for it"
        exact = "" if self.asked == self.compressor else f" (asked for: {self.asked.spec}; a server needs exact totals)"
        return f"vidcom2 compresses videos with {self.compressor.spec}{exact}; images and text stay as they are"


def asked_of(config: Any, env: Mapping[str, str] = os.environ) -> Compressor:
    """Return the compressor that a model's config or the environment asks for, as it was asked for.

    Args:
        config: The model's config. Its field FIELD, if there is one, holds a spec.
        env: The environment.

    Raises:
        ValueError: A spec is wrong, or config and environment ask for different ones.
    """
    asked = compressor_from_env({name: env.get(name, "") for name in VARIABLES})
    if spec := getattr(config, FIELD, None):
        named = compressor(spec)
        if any(env.get(name) for name in VARIABLES) and named != asked:
            raise ValueError(
                f"--hf-overrides asks for {named.spec}, and COMPRESSOR and R_RATIO in the environment for "
                f"{asked.spec}: leave one of them out"
            )
        asked = named
    return asked


def serving_of(config: Any, numbering: Numbering, env: Mapping[str, str] = os.environ) -> Serving:
    """Return what a model's config or the environment asks for, in the form that a server can run.

    Args:
        config: See `asked_of`.
        numbering: How the model numbers the kept tokens.
        env: The environment.

    Raises:
        ValueError: As `asked_of` and `serving`.
    """
    return serving(asked_of(config, env), numbering)


def serving(asked: Compressor, numbering: Numbering) -> Serving:
    """Return a compressor in the form that a server can run.

    Args:
        asked: The compressor.
        numbering: How the model numbers the kept tokens.

    Raises:
        ValueError: The method works inside the LLM, has no fixed total (see `fixed`), asks for another numbering, or
            has budgets of the caller.
    """
    if isinstance(asked, InsideLLM):
        raise ValueError(
            f"{asked.spec} drops tokens between the layers of the LLM, and vLLM's cache has the same tokens in every "
            "layer: choose a method before the LLM"
        )
    if asked.positions not in (None, numbering):
        raise ValueError(
            f"{asked.spec}: this model numbers kept tokens as positions={numbering} in vLLM: leave positions out"
        )
    if said := getattr(asked, "said", ""):
        raise ValueError(
            f"{asked.spec}: {said} can be impossible for one of the videos that a server gets, which is known only "
            f"inside vLLM: leave {said} out, or use the model's own code"
        )
    exact = replace(asked, rounding="exact") if isinstance(asked, VidCom2) else asked
    if not fixed(exact):
        raise ValueError(
            f"{asked.spec}: how many tokens it keeps, or whether it can serve a video, depends on the video, and "
            f"vLLM must know before it encodes the video: {advice(asked)}"
        )
    return Serving(asked, exact)


def fixed(asked: Compressor) -> bool:
    """Return whether a compressor keeps a known number of tokens of every video that a server can get."""
    try:
        return asked.total(1, 1) is not None
    except ValueError:  # dycoke.released that solves for R: not of so few frames
        return False


def advice(asked: Compressor) -> str:
    """Say what serves instead of a compressor whose totals depend on the video."""
    if asked.takes_fca() and getattr(asked, "fca", None) is not None:
        return "leave fca.rounding out"
    if getattr(asked, "form", None) == "released":
        return f"choose {asked.name} without .released"
    return "choose another method"
