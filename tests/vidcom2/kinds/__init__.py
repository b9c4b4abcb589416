"""The kinds of models that have a file here: one `Kind` each. tests/vidcom2/hf_tiny.py has the older ones."""

from __future__ import annotations

from importlib.util import find_spec

import transformers as hf

from tests.vidcom2.kinds import (
    gemma4,
    glm4v,
    minicpmv,
    perception_lm,
    qwen3_5,
    qwen3_vl_moe,
    qwen_omni,
    smolvlm,
    video_llama_3,
    video_llava,
)
from tests.vidcom2.rows import Kind

KINDS = [qwen3_vl_moe.KIND, *qwen3_5.KINDS, qwen_omni.QWEN2_5, qwen_omni.QWEN3, *glm4v.KINDS, *gemma4.KINDS]
KINDS += [smolvlm.KIND, video_llama_3.KIND, video_llava.KIND]
KINDS += [kind for kind in minicpmv.KINDS if hasattr(hf, kind.model)]  # 4.7 is newer than 5.17
if find_spec("timm") is not None:  # which has the vision tower
    KINDS.append(perception_lm.KIND)

NEW: dict[str, Kind] = {kind.name: kind for kind in KINDS}
"""By name, which is `config.model_type` where a type has one kind only."""
