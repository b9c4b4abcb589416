"""The layouts of transformers' models: one line for each family, and one for a model of your own."""

from __future__ import annotations

from dataclasses import replace

from vidcom2.models.layouts.gemma4 import GEMMA4
from vidcom2.models.layouts.glm4v import GLM4V
from vidcom2.models.layouts.internvl import numbered_frames, one_video
from vidcom2.models.layouts.layout import FramedVideo, Layout, Video, framed_videos, with_patches
from vidcom2.models.layouts.minicpmv import MINICPMV
from vidcom2.models.layouts.omni import check_omni, omni_frames
from vidcom2.models.layouts.pooled import next_video_frames, onevision_frames
from vidcom2.models.layouts.qwen import qwen2_frames, qwen3_frames, runs
from vidcom2.models.layouts.smolvlm import SMOLVLM
from vidcom2.models.layouts.stacked import PERCEPTION_LM, VIDEO_LLAVA
from vidcom2.models.layouts.video_llama_3 import VIDEO_LLAMA_3

LAYOUTS: dict[str, Layout] = {
    "qwen2_vl": Layout("video_token_id", qwen2_frames),
    "qwen2_5_vl": Layout("video_token_id", qwen2_frames),
    "qwen3_vl": Layout("video_token_id", qwen3_frames),
    "qwen3_vl_moe": Layout("video_token_id", qwen3_frames),
    "qwen2_5_omni_thinker": Layout("video_token_id", omni_frames, check=check_omni),
    "qwen3_omni_moe_thinker": Layout("video_token_id", omni_frames, check=check_omni),
    "glm4v": GLM4V,
    "glm4v_moe": GLM4V,
    "glm46v": GLM4V,
    "gemma4": GEMMA4,
    "qwen3_5": Layout("video_token_id", qwen3_frames),
    "qwen3_5_moe": Layout("video_token_id", qwen3_frames),
    "qwen4_exp": Layout("video_token_id", qwen3_frames),
    "llava_onevision": Layout("video_token_id", onevision_frames, separators=1),
    "llava_next_video": Layout("video_token_id", next_video_frames),
    "video_llava": VIDEO_LLAVA,
    "video_llama_3": VIDEO_LLAMA_3,
    "smolvlm": SMOLVLM,
    "minicpmv4_6": MINICPMV,
    "minicpmv4_7": MINICPMV,
    "perception_lm": PERCEPTION_LM,
    "internvl": Layout("image_token_id", runs, split=numbered_frames, inputs=("pixel_values", "image")),
}
"""Layouts by `config.model_type`. Add a line for a model of your own."""

REFUSED: dict[str, str] = {
    "ernie4_5_vl_moe": "its experts are chosen by `moe_mm_token_type_ids`, which the hooks do not shorten",
    "gemma4_unified": "the tokens of a frame may attend to each other, by a mask that the hooks do not shorten",
    "molmo2": "all tokens of frames attend to each other, by a mask that the hooks do not shorten",
    "nemotron_h_omni": "it can drop video tokens itself (`video_pruning_rate`), so `input_ids` may not fit its rows",
}
"""Why models of transformers with videos have no layout here, by `config.model_type`. A line in `LAYOUTS` overrules."""

INTERNVL_ONE_VIDEO = replace(LAYOUTS["internvl"], split=one_video)
"""Another layout for LAYOUTS["internvl"]: all images of a prompt are the frames of one video, whatever text stands
between them."""

__all__ = [
    "INTERNVL_ONE_VIDEO",
    "LAYOUTS",
    "REFUSED",
    "FramedVideo",
    "Layout",
    "Video",
    "framed_videos",
    "with_patches",
]
