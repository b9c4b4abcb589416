"""How a model family is evaluated: frames, prompt and config, as lmms-eval's own wrappers do for it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from transformers import PreTrainedConfig

from llava.constants import DEFAULT_IMAGE_TOKEN
from llava.conversation import SeparatorStyle, conv_templates
from llava.mm_utils import get_model_name_from_path
from llava.video import FrameSampling, Video


@dataclass(frozen=True)
class Protocol:
    """harness_name: the lmms-eval wrapper that this equals; task prompts are chosen by it.
    overwrite_config: what that wrapper sets in the model's config. time_instruction: tell the model the frames'
    times, before the question.
    """

    harness_name: str
    sampling: FrameSampling
    overwrite_config: dict[str, Any] = field(default_factory=dict)
    conv_template: str = "qwen_1_5"
    time_instruction: bool = False

    def prompt(self, question: str, video: Video) -> str:
        """The whole text the model gets, with one image slot for the video."""
        if self.time_instruction:
            times = ",".join(f"{second:.2f}s" for second in video.times)
            question = (
                f"The video lasts for {video.duration:.2f} seconds, and {len(video.frames)} frames are uniformly "
                f"sampled from it. These frames are located at {times}.Please answer the following questions related "
                f"to this video.\n{question}"
            )
        conversation = conv_templates[self.conv_template].copy()
        conversation.append_message(conversation.roles[0], f"{DEFAULT_IMAGE_TOKEN}\n{question}")
        conversation.append_message(conversation.roles[1], None)
        return conversation.get_prompt()

    @property
    def stop_text(self) -> str:
        """What ends an answer."""
        template = conv_templates[self.conv_template]
        return (template.sep2 if template.sep_style == SeparatorStyle.TWO else template.sep) or ""


PROTOCOLS: dict[str, Protocol] = {
    "llava_onevision": Protocol(
        "llava_onevision",
        FrameSampling("uniform", 32),
        {"mm_spatial_pool_stride": 2, "mm_spatial_pool_mode": "bilinear"},
    ),
    "llava_vid": Protocol(
        "llava_vid",
        FrameSampling("fps", 64, fps=1.0),
        {
            "mm_spatial_pool_stride": 2,
            "mm_spatial_pool_mode": "average",
            "mm_pooling_position": "before",
            "mm_newline_position": "grid",
            "delay_load": False,
        },
    ),
}


def protocol_for(model: str) -> Protocol:
    """The protocol of a checkpoint: LLaVA-Video's where its config says grid newlines or its name says so."""
    config = PreTrainedConfig.get_config_dict(model)[0]
    name = get_model_name_from_path(model).lower()
    video = config.get("mm_newline_position") == "grid" or "llava-video" in name
    return PROTOCOLS["llava_vid" if video else "llava_onevision"]
