"""The kinds of models that have a file here: one `Kind` each. tests/vidcom2/hf_tiny.py has the older ones."""

from __future__ import annotations

from tests.vidcom2.kinds import qwen3_5, qwen3_vl_moe
from tests.vidcom2.rows import Kind

NEW: dict[str, Kind] = {kind.name: kind for kind in (qwen3_vl_moe.KIND, *qwen3_5.KINDS)}
"""By `config.model_type`."""
