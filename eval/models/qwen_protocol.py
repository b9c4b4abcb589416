"""Frames and prompts of Qwen2-VL, Qwen2.5-VL, Qwen3-VL and Qwen3.5: those of lmms-eval's wrappers of the same names.

qwen_vl_utils chooses and sizes the frames, and lmms-eval's wrappers say what the prompt holds. Two things differ. The
pictures come from our reader. A video that cannot be read is an error, not a question without its video.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar
from unittest.mock import patch

import numpy as np
import torch

from llava.video import EXACT, FrameSampling, open_video, require, stamped
from vidcom2 import Keep

from ..results.sample import Reading
from .base import Question, turns
from .reading import reading_of
from .timing import StageTimer


@dataclass(frozen=True)
class QwenProtocol:
    """How a Qwen checkpoint sees videos and is asked.

    Attributes:
        harness_name: The lmms-eval wrapper with the same frames and prompts. Tasks choose their prompts by it.
        frames: Largest number of frames per video. They are evenly spaced.
        rate: Take so many per second, within its bounds, instead of `frames`. qwen_vl_utils spreads their number evenly
            over the video, and takes an even one.
        simple: Do as lmms-eval's older wrapper qwen2_vl: read two frames per second and take some of these, do not tell
            the processor their times, and end an answer at the task's stop texts.
        patch: Side of a patch in pixels. The sides of frames are multiples of twice that.
        resized: The processor takes frames in the size that qwen_vl_utils gave them.
        min_pixels: Smallest number of pixels of a frame.
        max_pixels: Largest number of pixels of a frame; unused with `total_pixels`.
        total_pixels: Largest number of pixels of a video, shared among its frames.
        thinking: What the chat template's `enable_thinking` is. None: the template's own.
        system: The system prompt. None: the chat template's own.
        max_new_tokens: Length of an answer, if the task does not say it.
        decoder: What reads videos, see `llava.video.read_video`.
        keep: Seconds of every video of which the caller keeps more; None for none.
        default_dtype: Dtype of the model on GPUs.
    """

    harness_name: str
    frames: int = 32
    rate: FrameSampling | None = None
    simple: bool = False
    patch: int = 14
    resized: bool = False
    min_pixels: int = 256 * 28 * 28
    max_pixels: int = 2048 * 28 * 28
    total_pixels: int | None = None
    thinking: bool | None = None
    system: str | None = None
    max_new_tokens: int = 128
    decoder: str = EXACT
    keep: Keep | None = None
    default_dtype: ClassVar[str] = "bfloat16"

    @property
    def sampling(self) -> str:
        """Which frames are used, in words, for settings.json."""
        if self.rate is not None:
            return str(self.rate)
        return f"2 per second, at most {self.frames}" if self.simple else f"uniform:{self.frames}"

    def sampled(self, sampling: FrameSampling) -> QwenProtocol:
        """Return a copy with other frames.

        Raises:
            ValueError: qwen_vl_utils would change this sampling.
        """
        if sampling.max_frames % 2 or (sampling.min_frames or 2) % 2:
            raise ValueError(
                f"--sampling {sampling} is not for {self.harness_name}, which takes frames in pairs: write even "
                "numbers of frames, such as uniform:16 or fps:2,max=64,min=8"
            )
        return replace(self, frames=sampling.max_frames, rate=sampling if sampling.kind == "fps" else None)

    def read_by(self, decoder: str | None = None, preprocess: str | None = None) -> QwenProtocol:
        """Return a copy with another decoder. None keeps the protocol's own.

        Raises:
            ValueError: The decoder is unknown, or a preprocessing is named: qwen_vl_utils and transformers resize.
            ImportError: The decoder is not installed.
        """
        if preprocess is not None:
            raise ValueError(
                f"--preprocess {preprocess} is not for {self.harness_name}: qwen_vl_utils resizes its frames"
            )
        require(decoder or self.decoder)
        return replace(self, decoder=decoder or self.decoder)

    def message(self, video_file: str, question: Question, total_frames: int) -> list[dict[str, Any]]:
        """Return the chat messages, with the options of qwen_vl_utils for the video.

        Args:
            video_file: Path of the video.
            question: The task's text, or a conversation. The video belongs to its first turn.
            total_frames: Number of frames in the file.
        """
        video = {"type": "video", "video": video_file, "min_pixels": self.min_pixels}
        if self.total_pixels is None:
            video["max_pixels"] = self.max_pixels
        else:
            video["total_pixels"] = self.total_pixels
        if self.rate is not None:
            video |= {"fps": self.rate.fps, "max_frames": self.frames, "min_frames": self.rate.min_frames or 2}
        elif not self.simple:
            video["nframes"] = max(2, min(self.frames, total_frames) // 2 * 2)
        said: list[dict[str, Any]] = [] if self.system is None else [{"role": "system", "content": self.system}]
        for i, turn in enumerate(turns(question)):
            asks = i % 2 == 0
            text = turn.replace("<image>", "") if self.simple and asks else turn
            content = [*([] if i else [video]), {"type": "text", "text": text}]
            said.append({"role": "user" if asks else "assistant", "content": content})
        return said

    @property
    def template(self) -> dict[str, Any]:
        """Arguments of the chat template."""
        return {} if self.thinking is None else {"enable_thinking": self.thinking}

    def describe(self) -> dict[str, Any]:
        """Return how videos and prompts are made, for settings.json."""
        total = {} if self.total_pixels is None else {"total_pixels": self.total_pixels}
        return {
            "protocol": self.harness_name,
            "sampling": self.sampling,
            "decoder": self.decoder,
            "min_pixels": self.min_pixels,
            "max_pixels": self.max_pixels,
            "system_prompt": self.system,
            **total,
            **self.template,
        }


QWEN3_5 = QwenProtocol(
    "qwen3_5",
    frames=768,
    rate=FrameSampling("fps", fps=2, max_frames=768, min_frames=4),
    patch=16,
    resized=True,
    min_pixels=64 * 32 * 32,
    max_pixels=128 * 32 * 32,
    total_pixels=224 * 1024 * 32 * 32,
    thinking=False,  # lmms-eval's default is True, but its tasks leave no room for thoughts: they allow 16 tokens
    system="You are a helpful assistant.",
    max_new_tokens=1024,
)
"""Qwen3.5, whose wrapper is the same for the dense models and for those with a mixture of experts."""

QWEN_PROTOCOLS: dict[str, QwenProtocol] = {
    "qwen2_vl": QwenProtocol(
        "qwen2_vl", simple=True, min_pixels=3136, max_pixels=602112, system="You are a helpful assistant."
    ),
    "qwen2_5_vl": QwenProtocol("qwen2_5_vl"),
    "qwen3_vl": QwenProtocol("qwen3_vl", patch=16, resized=True, system="You are a helpful assistant."),
    "qwen3_5": QWEN3_5,
    "qwen3_5_moe": QWEN3_5,
}
"""By model_type in config.json, which is also lmms-eval's name of the wrapper (but for a mixture of experts)."""


@dataclass(frozen=True)
class Read:
    """A decoded video, as `QwenEngine.read` returns it.

    Attributes:
        file: Path of the video.
        frames: float [T, 3, H, W], 0 to 255.
        metadata: qwen_vl_utils' description of the frames.
        shown_at: Seconds at which a player shows the T frames.
        total: Number of frames in the file.
        fps: Frames per second of the file.
        seconds: What reading took, by stage.
        reading: How the video was read.
    """

    file: str
    frames: torch.Tensor
    metadata: dict[str, Any]
    shown_at: list[float]
    total: int
    fps: float
    seconds: dict[str, float]
    reading: Reading


@dataclass(frozen=True)
class Reader:
    """Reads videos with our reader. qwen_vl_utils chooses and sizes the frames. Picklable; see `Engine.read`."""

    protocol: QwenProtocol

    def __call__(self, video_file: str) -> Read:
        timer = StageTimer(torch.device("cpu"))
        timer.switch("decode")
        with open_video(video_file, self.protocol.decoder) as video:
            choose = partial(self._choose, video_file)
            indices, pictures = video.sample(choose)
            shown_at = video.times(indices)
            metadata = {
                "fps": video.fps,
                "frames_indices": stamped(indices, shown_at, video.fps),
                "total_num_frames": len(video),
                "video_backend": video.name,
            }
            frames, metadata = self._sized(video_file, pictures, metadata)
            timer.switch(None)
            reading = reading_of(video_file, video, choose, pictures)
        if self.protocol.simple:
            some = np.unique(np.linspace(0, len(frames) - 1, self.protocol.frames, dtype=int))
            frames, shown_at = frames[some], [shown_at[i] for i in some]
        return Read(video_file, frames, metadata, shown_at, len(video), video.fps, timer.seconds, reading)

    def _asked(self, video_file: str, total: int) -> dict[str, Any]:
        """Return the message's options for the video."""
        return self.protocol.message(video_file, "", total)[-1]["content"][0]

    def _choose(self, video_file: str, total: int, fps: float) -> list[int]:
        """Return the numbers of the frames that qwen_vl_utils takes. It refuses one frame, which we take twice."""
        from qwen_vl_utils.vision_process import calculate_video_frame_range, smart_nframes

        if total == 1:
            return [0, 0]  # two frames make one step: the processor, too, doubles a last frame without a partner
        asked = self._asked(video_file, total)
        first, last, count = calculate_video_frame_range(asked, total, fps)
        frames = smart_nframes(asked, total_frames=count, video_fps=fps)
        return torch.linspace(first, last, frames).round().long().tolist()

    def _sized(
        self, video_file: str, pictures: np.ndarray, metadata: dict[str, Any]
    ) -> tuple[torch.Tensor, dict[str, Any]]:
        """Return the pictures as qwen_vl_utils sizes them, float [T, 3, H, W] from 0 to 255, and their metadata."""
        from qwen_vl_utils import vision_process

        video = torch.from_numpy(pictures).permute(0, 3, 1, 2)
        rate = len(pictures) / metadata["total_num_frames"] * metadata["fps"]
        # It calls whichever of its readers is installed. Each is replaced by one that returns what is read already.
        readers = dict.fromkeys(vision_process.VIDEO_READER_BACKENDS, lambda asked: (video, metadata, rate))
        with patch.dict(vision_process.VIDEO_READER_BACKENDS, readers):
            return vision_process.fetch_video(
                self._asked(video_file, metadata["total_num_frames"]),
                image_patch_size=self.protocol.patch,
                return_video_metadata=True,
            )
