"""The small model that comes with the package."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import safe_open

DEMO_MODEL = Path(__file__).parents[1] / "demo" / "model"
"""Its checkpoint directory. docs/demo.md says what it is and how it was trained."""
DEMO_MODELS: dict[str, Path] = {"llava-onevision": DEMO_MODEL, "llava-video": DEMO_MODEL.with_name("llava_video")}
"""The checkpoint directories of all demo models, by family. `demo_model` offers those that exist."""

PATCHES = "model.vision_tower.vision_tower.vision_model.embeddings.patch_embedding.weight"
"""Name of the tower's first weights in a LLaVA checkpoint."""


def demo_model(name: str | None = None) -> tuple[str, Path]:
    """Find a demo model.

    Args:
        name: Key of DEMO_MODELS. None for the first one.

    Returns:
        Its name and its checkpoint directory.

    Raises:
        ValueError: There is no such model in this package.
    """
    there = {family: path for family, path in DEMO_MODELS.items() if path.is_dir()}
    name = name or next(iter(DEMO_MODELS))
    if name not in there:
        raise ValueError(f"--model {name} is no demo model: with --demo, write {' or '.join(there)}")
    return name, there[name]


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


def saw_drawn_shapes_only(model: str) -> bool:
    """Return whether a checkpoint has the demo models' vision tower, which MiniBench's drawn shapes trained alone.

    A copy of a demo model has it, and so has one whose LLM was trained further.

    Args:
        model: A checkpoint directory or hub name.
    """
    ours, theirs = _patches(DEMO_MODEL), _patches(Path(model))
    return ours is not None and theirs is not None and torch.equal(ours.float(), theirs.float())


def _patches(checkpoint: Path) -> torch.Tensor | None:
    """Read the weights of a LLaVA checkpoint's tower that turn patches into vectors; None if it has none."""
    for file in sorted(checkpoint.glob("*.safetensors")):
        with safe_open(str(file), "pt") as weights:
            if PATCHES in weights.keys():  # noqa: SIM118 (it is no mapping)
                return weights.get_tensor(PATCHES)
    return None
