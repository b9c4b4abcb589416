"""The small model that comes with the package."""

from __future__ import annotations

from pathlib import Path

DEMO_MODEL = Path(__file__).parents[1] / "demo" / "model"
"""Its checkpoint directory. docs/demo.md says what it is and how it was trained."""
DEMO_MODELS: dict[str, Path] = {"llava-onevision": DEMO_MODEL, "llava-video": DEMO_MODEL.with_name("llava_video")}
"""The checkpoint directories of all demo models, by family."""


def model_title(model: str) -> str:
    """Return what a model is called in titles.

    Args:
        model: A checkpoint directory or hub name.

    Returns:
        The family of a demo model, the name of another directory, or the hub name.
    """
    path = Path(model)
    for family, directory in DEMO_MODELS.items():
        if path.resolve() == directory.resolve():
            return f"demo model {family}"
    return path.resolve().name if path.is_dir() else model
