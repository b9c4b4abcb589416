"""What the engine tests ask the tiny models: one video, two, text between, video and image, image and video, text."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

QWEN = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe", "qwen3_5", "qwen3_5_moe")
KINDS = ("llava_onevision", "llava_next_video", *QWEN, "internvl", "internvl_chat", "llava_ov", "llava_video")
"""Kinds of checkpoints. The last two are the demo models, in the llava tree's layout."""
TOKENS = 10
"""Tokens of an answer."""
FPS = 4.0


@dataclass(frozen=True)
class Asked:
    """A prompt of the tests.

    Attributes:
        text: The prompt, with a V for each video and an I for each image.
        frames: Number of frames of each video.
    """

    text: str
    frames: tuple[int, ...] = ()

    @property
    def images(self) -> int:
        return self.text.count("I")


ASKED = (
    Asked("look at V what?", (8,)),
    Asked("text only."),
    Asked("a V and b V ?", (8, 4)),
    Asked("a V then I ?", (4,)),
    Asked("a I then V ?", (4,)),
)
SAME = Asked(ASKED[2].text, (8, 8))


def asked_of(kind: str) -> tuple[Asked, ...]:
    """The prompts that a kind and its hooks can have."""
    if kind == "llava_next_video":  # vLLM's takes videos only
        return (*ASKED[:2], SAME)
    if kind in ("llava_onevision", "internvl"):  # transformers' processors take videos of one length
        return (*ASKED[:2], SAME, *ASKED[3:])
    return ASKED


def size_of(kind: str) -> tuple[int, int]:
    """Height and width of the frames."""
    if kind.startswith("qwen3_"):
        return 160, 224
    if kind in QWEN:
        return 112, 168
    return (72, 72) if kind in ("llava_ov", "llava_video") else (48, 48)


def media(kind: str, asked: Asked) -> tuple[list[np.ndarray], list[Any]]:
    """The videos, uint8 [T, H, W, 3], and images of a prompt."""
    noise = np.random.default_rng(len(asked.text) + sum(asked.frames))
    height, width = size_of(kind)
    videos = [noise.integers(0, 255, (t, height, width, 3), dtype=np.uint8) for t in asked.frames]
    images = [Image.fromarray(noise.integers(0, 255, (height, width, 3), dtype=np.uint8)) for _ in range(asked.images)]
    return videos, images


def metadata(video: np.ndarray) -> dict[str, Any]:
    """What Qwen's processors are told of a video."""
    return {
        "fps": FPS,
        "duration": len(video) / FPS,
        "total_num_frames": len(video),
        "frames_indices": list(range(len(video))),
        "video_backend": "made",
    }


def prompt(kind: str, asked: Asked) -> str:
    """The prompt in the words of a kind."""
    slots = {"V": "<video>", "I": "<image>"}
    if kind in QWEN:
        slots = {name: f"<|vision_start|><|{pad}_pad|><|vision_end|>" for name, pad in (("V", "video"), ("I", "image"))}
    if kind == "internvl":
        slots["I"] = "<IMG_CONTEXT>"
    return re.sub("[VI]", lambda found: slots[found[0]], asked.text)
