"""What to know before a run: faults of the installed libraries, and where a checkpoint contradicts its protocol."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import transformers

from llava.mm_utils import get_model_name_from_path
from llava.model.checkpoint import checkpoint_config
from vidcom2.models.names import minor_release, untested


@dataclass(frozen=True)
class Fault:
    """A fault of some releases of transformers that changes answers without an error.

    Attributes:
        families: The model_types that have it.
        first: The first release with it.
        mended: The first release without it; None if there is none yet.
        what: What goes wrong.
    """

    families: tuple[str, ...]
    first: str
    mended: str | None
    what: str

    @property
    def installed(self) -> bool:
        """Whether the installed release has it."""
        installed = minor_release(transformers.__version__)
        return minor_release(self.first) <= installed and (
            self.mended is None or installed < minor_release(self.mended)
        )

    def __str__(self) -> str:
        cure = "No later release is known to mend it" if self.mended is None else f"Install {self.mended} or later"
        families = " and ".join(self.families)
        return f"transformers {transformers.__version__} has a fault with videos of {families}: {self.what}. {cure}"


ORDER = Fault(("qwen2_5_vl",), "5.3", "5.6", "all tokens of a video get one time position, which is not the video's")
WHOLE = Fault(("qwen2_5_vl",), "5.3", "5.18", "the seconds of a step are cut to a whole number, 0 above 2 frames/s")
BEHIND = Fault(
    ("qwen2_vl", "qwen2_5_vl"),
    "5.3",
    None,
    "the question's positions begin max(height, width) after the video's first, not behind its last as up to 5.2, so "
    "that the question stands in the middle of a long video",
)
FAULTS = (ORDER, WHOLE, BEHIND)
"""Faults that we know of. A test pins the positions that each of them gives."""


def of_libraries(family: str | None = None) -> list[str]:
    """Return a line for each known fault of the installed transformers, and one if it is untested.

    Args:
        family: A checkpoint's model_type, for what concerns this family only. None for all.
    """
    lines = [str(fault) for fault in FAULTS if fault.installed and (family is None or family in fault.families)]
    return lines + ([line] if (line := untested()) else [])


def of_checkpoint(model: str, protocol: str, overwritten: Mapping[str, Any]) -> list[str]:
    """Return a line for each way in which a checkpoint's name or config.json contradicts how it is evaluated.

    Args:
        model: Checkpoint directory or hub name.
        protocol: The protocol's name.
        overwritten: What the protocol sets in the model's config.
    """
    config, name = checkpoint_config(model), get_model_name_from_path(model).lower()
    lines = [
        f"{model} says {key}={config[key]!r} in its config.json; it is evaluated with {value!r}, as in lmms-eval's "
        f"{protocol}"
        for key, value in overwritten.items()
        if config.get(key) not in (None, value)
    ]
    if protocol == "llava_vid" and "onevision" in name:
        lines.append(
            f"{model} is called OneVision, but its config.json is LLaVA-Video's: it is evaluated as {protocol}, and "
            "its scores are not those of LLaVA-OneVision"
        )
    return lines


def of_run(settings: Mapping[str, Any]) -> list[str]:
    """Return all that a person should know before a run; see `of_libraries` and `of_checkpoint`.

    Args:
        settings: The content of its settings.json.
    """
    model = settings["model"]
    family = checkpoint_config(model).get("model_type")
    return of_libraries(family) + of_checkpoint(model, settings["protocol"], settings.get("model_config", {}))
