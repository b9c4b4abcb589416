"""The small model that comes with the package."""

from __future__ import annotations

from pathlib import Path

DEMO_MODEL = Path(__file__).parents[1] / "demo" / "model"
"""Its checkpoint directory. docs/demo.md says what it is and how it was trained."""
DEMO_MODELS: dict[str, Path] = {"llava-onevision": DEMO_MODEL}
"""The checkpoint directories of all demo models, by family."""
