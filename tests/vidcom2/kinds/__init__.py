"""The kinds of models that have a file here: one `Kind` each. tests/vidcom2/hf_tiny.py has the older ones."""

from __future__ import annotations

from tests.vidcom2.kinds import gemma4, glm4v, qwen3_vl_moe
from tests.vidcom2.rows import Kind

NEW: dict[str, Kind] = {kind.name: kind for kind in (qwen3_vl_moe.KIND, *glm4v.KINDS, *gemma4.KINDS)}
"""By name, which is `config.model_type` where a type has one kind only."""
