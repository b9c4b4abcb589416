"""Videos of Qwen2.5-Omni and Qwen3-Omni, between whose tokens those of their sound may stand."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from vidcom2.models.layouts.layout import Video
from vidcom2.models.layouts.qwen import grid_frames, require_mrope


def omni_frames(outer: Any, video: Video) -> int:
    """Count the frames, which may be anywhere among the audio tokens."""
    require_mrope(outer, video, "attention_mask")
    return grid_frames(video)


def check_omni(outer: Any, called: dict[str, Any]) -> None:
    """Refuse calls of the thinker that run without an error but go wrong; see `Layout.check`.

    Raises:
        ValueError: If `use_audio_in_video` does not fit the prompts, so that transformers would give a video the
            positions of text; or if the call asks for hidden states, as the talker does.
    """
    ids, sound = called.get("input_ids"), bool(called.get("use_audio_in_video"))
    config, name = outer.config, type(outer).__name__
    if ids is not None and not sound and _begin(ids, config, config.audio_start_token_id):
        raise ValueError(
            f"a prompt of {name} has a video with its sound, but use_audio_in_video is not set, so the video would get "
            "the positions of text: pass use_audio_in_video=True to the model as well"
        )
    if ids is not None and sound and _begin(ids, config, config.video_token_id):
        raise ValueError(
            f"a prompt of {name} has a video without its sound, but use_audio_in_video=True, which transformers takes "
            "to hold for all videos of a call: ask about videos with and without sound in calls of their own"
        )
    if called.get("output_hidden_states"):
        raise ValueError(
            f"output_hidden_states=True cannot be used under a compressor on {name}: its talker needs one for each "
            "token of the prompt. For text only, call the thinker's generate(), or that of the whole model with "
            "generation_mode='text' (Qwen2.5-Omni) or return_audio=False (Qwen3-Omni)"
        )


def _begin(ids: Tensor, config: Any, token: int) -> bool:
    """Whether a vision start in ids [B, N] is followed by `token`."""
    return bool(((ids[:, :-1] == config.vision_start_token_id) & (ids[:, 1:] == token)).any())
