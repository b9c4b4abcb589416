"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL through transformers: the part of an evaluation that knows these models.

Frames are chosen and resized by qwen_vl_utils and prompts put together as lmms-eval's own wrappers do for these ids, so
answers are theirs. Two things differ: the pictures are our reader's, and a video that cannot be read is an error, not a
question without its video.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar
from unittest.mock import patch

import numpy as np
import torch

from llava.model.builder import resolve_attention
from llava.model.checkpoint import load_texts, load_whole
from llava.video import EXACT, FrameSampling, open_video, require, stamped
from vidcom2 import Compressor, Record

from ..results.sample import Answer, Reading
from .base import EngineBase, Numbers, Unanswerable, generate_arguments, in_batch, one_by_one
from .reading import reading_of
from .timing import StageTimer


@dataclass(frozen=True)
class QwenProtocol:
    """harness_name: the lmms-eval wrapper that this equals; task prompts are chosen by it.

    frames: at most that many per video, evenly spaced. simple: as lmms-eval's older kind of wrapper does (qwen2_vl),
    read two frames per second and thin these out, tell the processor nothing of their times, and end the answer at the
    task's stop texts. patch: pixels; sizes are rounded to twice that. resized: the processor is to take the frames as
    qwen_vl_utils sized them. min_pixels, max_pixels: of a frame. system: the system prompt, None for the chat
    template's own. decoder: what reads videos, see llava.video.read_video.
    """

    harness_name: str
    frames: int = 32
    simple: bool = False
    patch: int = 14
    resized: bool = False
    min_pixels: int = 256 * 28 * 28
    max_pixels: int = 2048 * 28 * 28
    system: str | None = None
    max_new_tokens: int = 128
    decoder: str = EXACT
    default_dtype: ClassVar[str] = "bfloat16"  # on GPUs

    @property
    def sampling(self) -> str:
        return f"2 per second, at most {self.frames}" if self.simple else f"uniform:{self.frames}"

    def sampled(self, sampling: FrameSampling) -> QwenProtocol:
        """The same with another number of frames; ValueError for a sampling that qwen_vl_utils would change."""
        if sampling.kind != "uniform" or sampling.max_frames % 2:
            raise ValueError(f"--sampling {sampling} is not for {self.harness_name}: use uniform:N with an even N")
        return replace(self, frames=sampling.max_frames)

    def read_by(self, decoder: str | None = None, preprocess: str | None = None) -> QwenProtocol:
        """The same with another decoder; ValueError, ImportError for one that there is not, and for any preprocessing:
        qwen_vl_utils and transformers resize."""
        if preprocess is not None:
            raise ValueError(
                f"--preprocess {preprocess} is not for {self.harness_name}: qwen_vl_utils resizes its frames"
            )
        require(decoder or self.decoder)
        return replace(self, decoder=decoder or self.decoder)

    def message(self, video_file: str, question: str, total_frames: int) -> list[dict[str, Any]]:
        """The chat about a video of `total_frames`, with what qwen_vl_utils is to do with it."""
        video = {"type": "video", "video": video_file, "min_pixels": self.min_pixels, "max_pixels": self.max_pixels}
        if self.simple:
            question = question.replace("<image>", "")
        else:
            video["nframes"] = max(2, min(self.frames, total_frames) // 2 * 2)
        content = [video, {"type": "text", "text": question}]
        system = [] if self.system is None else [{"role": "system", "content": self.system}]
        return [*system, {"role": "user", "content": content}]

    def describe(self) -> dict[str, Any]:
        """How videos and prompts are made, for results.json."""
        return {
            "protocol": self.harness_name,
            "sampling": self.sampling,
            "decoder": self.decoder,
            "min_pixels": self.min_pixels,
            "max_pixels": self.max_pixels,
            "system_prompt": self.system,
        }


QWEN_PROTOCOLS: dict[str, QwenProtocol] = {
    "qwen2_vl": QwenProtocol(
        "qwen2_vl", simple=True, min_pixels=3136, max_pixels=602112, system="You are a helpful assistant."
    ),
    "qwen2_5_vl": QwenProtocol("qwen2_5_vl"),
    "qwen3_vl": QwenProtocol("qwen3_vl", patch=16, resized=True, system="You are a helpful assistant."),
}
"""By model_type in config.json, which is also lmms-eval's id."""


@dataclass(frozen=True)
class Read:
    """A decoded video: frames float [T, 3, H, W] from 0 to 255, qwen_vl_utils' notes on them, how many the file has
    and how many per second. seconds: what reading took, per stage. reading: how it was read."""

    file: str
    frames: torch.Tensor
    metadata: dict[str, Any]
    total: int
    fps: float
    seconds: dict[str, float]
    reading: Reading


@dataclass(frozen=True)
class Reader:
    """Reads videos with our reader; qwen_vl_utils says which frames, and sizes them."""

    protocol: QwenProtocol

    def __call__(self, video_file: str) -> Read:
        timer = StageTimer(torch.device("cpu"))
        timer.switch("decode")
        with open_video(video_file, self.protocol.decoder) as video:
            choose = partial(self._choose, video_file)
            indices, pictures = video.sample(choose)
            metadata = {
                "fps": video.fps,
                "frames_indices": stamped(indices, video.times(indices), video.fps),
                "total_num_frames": len(video),
                "video_backend": video.name,
            }
            frames, metadata = self._sized(video_file, pictures, metadata)
            timer.switch(None)
            reading = reading_of(video_file, video, choose, pictures)
        if self.protocol.simple:
            frames = frames[np.unique(np.linspace(0, len(frames) - 1, self.protocol.frames, dtype=int))]
        return Read(video_file, frames, metadata, len(video), video.fps, timer.seconds, reading)

    def _asked(self, video_file: str, total: int) -> dict[str, Any]:
        """What the message says of the video."""
        return self.protocol.message(video_file, "", total)[-1]["content"][0]

    def _choose(self, video_file: str, total: int, fps: float) -> list[int]:
        """Numbers of the frames that qwen_vl_utils takes of so many. ValueError where these are too few for it."""
        from qwen_vl_utils.vision_process import calculate_video_frame_range, smart_nframes

        asked = self._asked(video_file, total)
        first, last, count = calculate_video_frame_range(asked, total, fps)
        frames = smart_nframes(asked, total_frames=count, video_fps=fps)
        return torch.linspace(first, last, frames).round().long().tolist()

    def _sized(
        self, video_file: str, pictures: np.ndarray, metadata: dict[str, Any]
    ) -> tuple[torch.Tensor, dict[str, Any]]:
        """The pictures as qwen_vl_utils sizes them, float [T, 3, H, W] from 0 to 255, and the metadata with them."""
        from qwen_vl_utils import vision_process

        video = torch.from_numpy(pictures).permute(0, 3, 1, 2)
        rate = len(pictures) / metadata["total_num_frames"] * metadata["fps"]
        # It reads files by one of these, whichever is installed; instead of them, what has been read already.
        readers = dict.fromkeys(vision_process.VIDEO_READER_BACKENDS, lambda asked: (video, metadata, rate))
        with patch.dict(vision_process.VIDEO_READER_BACKENDS, readers):
            return vision_process.fetch_video(
                self._asked(video_file, metadata["total_num_frames"]),
                image_patch_size=self.protocol.patch,
                return_video_metadata=True,
            )


@dataclass
class Seen:
    """timer: of what is shared by the answers about a video. patches: what the processor made of the frames,
    and encoded, what the tower made of these, as soon as there was a question. inputs: of the latest question,
    (question, prompt, what the model gets)."""

    read: Read
    timer: StageTimer
    patches: Any = None
    encoded: Any = None
    inputs: tuple[str, str, Any] = ("", "", None)


class QwenEngine(EngineBase):
    """Answers questions about video files, see eval.models.base.Engine; arguments as LlavaEngine's.

    load: what takes `AutoModelForImageTextToText.from_pretrained`'s place. Raises what that raises.
    """

    def __init__(
        self,
        model: str,
        protocol: QwenProtocol,
        device: str | None,
        dtype: str,
        attn: str | None = None,
        load: Callable[..., Any] | None = None,
    ):
        from transformers import AutoModelForImageTextToText, AutoProcessor

        self.protocol, self.read = protocol, Reader(protocol)
        options = {
            "dtype": getattr(torch, dtype),
            "device_map": device,
            "attn_implementation": resolve_attention(attn),
        }
        if load is None:
            self.model, _ = load_whole(
                AutoModelForImageTextToText.from_pretrained, model, trust_remote_code=False, **options
            )
        else:
            self.model = load(model, **options)
        self.model.eval()
        self.processor = load_texts(
            AutoProcessor.from_pretrained, model, min_pixels=protocol.min_pixels, max_pixels=protocol.max_pixels
        )
        self.device = self.model.device
        self.attention = self.model.config._attn_implementation
        self._loaded = (model, dtype, self.attention)

    def sampled(self, sampling: FrameSampling) -> QwenEngine:
        other = copy.copy(self)
        other.protocol = self.protocol.sampled(sampling)
        other.read = Reader(other.protocol)
        return other

    def see(self, read: Read) -> Seen:
        return Seen(read, StageTimer(self.device, read.seconds))

    @one_by_one
    @torch.inference_mode()
    def answer_all(
        self, asked: Sequence[tuple[Seen, str]], generation: dict[str, Any], compressor: Compressor
    ) -> list[Answer | Unanswerable]:
        """No prompt is too long: these models' configs do not say what is."""
        errors = [self._misleading(question) for _, question in asked]
        if any(errors):
            sound = [pair for pair, error in zip(asked, errors, strict=True) if error is None]
            rest = iter(self.answer_all(sound, generation, compressor) if sound else [])
            return [error or next(rest) for error in errors]
        prepared = [self._prepare(seen, question) for seen, question in asked]
        inputs = batch([own for _, own in prepared])
        tokenizer = self.processor.tokenizer
        numbers = Numbers(len(asked))
        settings = generate_arguments(generation, self.protocol.max_new_tokens, numbers)
        timer = StageTimer(self.device)
        parts = self.model.model
        with (
            compressor(self.model) as attachment,
            self._encoded_once([seen for seen, _ in asked]),
            timer.watching(self.model, parts.language_model, parts.visual),
        ):
            out = self.model.generate(
                **inputs,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
                **settings,
            )
            records = attachment.records or [self._dense_record(own) for _, own in prepared]
        records = records[:: len(records) // len(asked)]  # beams of one prompt have one each
        new = out[:, inputs["input_ids"].shape[1] :]
        texts = self.processor.batch_decode(new, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        together = {**timer.seconds, "vision": 0.0}  # which each video has of its own
        answers: list[Answer | Unanswerable] = []
        for (seen, _), (prompt, own), record, text, error in zip(
            asked, prepared, records, texts, numbers.errors, strict=True
        ):
            if self.protocol.simple:
                text = until(text, generation)
            read, seconds = seen.read, in_batch(seen.timer.seconds, together, len(asked))
            record = replace(record, sample=0, start=self._start(own))  # without the padding
            made = Answer(text, prompt, len(read.frames), read.total / read.fps, [record], seconds, read.reading)
            answers.append(error or made)
        return answers

    def _misleading(self, question: str) -> Unanswerable | None:
        """These models have no other spelling of the places for videos and images; a question cannot speak of them."""
        places = [place for place in (self.processor.video_token, self.processor.image_token) if place in question]
        return (
            Unanswerable(f"the question says {', '.join(places)}, which this model takes for a place")
            if places
            else None
        )

    def _prepare(self, seen: Seen, question: str) -> tuple[str, Any]:
        """The question's prompt and what the model gets."""
        if seen.inputs[0] != question or seen.inputs[2] is None:
            read = seen.read
            message = self.protocol.message(read.file, question, read.total)
            prompt = self.processor.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
            extra: dict[str, Any] = {} if self.protocol.simple else {"video_metadata": [read.metadata]}
            if self.protocol.resized:
                extra["do_resize"] = False
            with self._cut_once(seen):
                inputs = self.processor(
                    text=[prompt], videos=[read.frames], do_sample_frames=False, return_tensors="pt", **extra
                ).to(self.device)
            seen.inputs = (question, prompt, inputs)
        return seen.inputs[1:]

    @contextmanager
    def _cut_once(self, seen: Seen) -> Iterator[None]:
        """Within, the processor resizes the video and cuts it into patches for its first question only."""
        processor = self.processor.video_processor
        preprocess = processor.preprocess

        def remembered(*args: Any, **kwargs: Any) -> Any:
            if seen.patches is None:
                with seen.timer.during("preprocess"):
                    seen.patches = preprocess(*args, **kwargs)
                    seen.patches["pixel_values_videos"] = seen.patches["pixel_values_videos"].to(self.device)
            return copy.copy(seen.patches)  # transformers takes things out of what it gets

        processor.preprocess = remembered
        try:
            yield
        finally:
            del processor.preprocess

    @contextmanager
    def _encoded_once(self, videos: Sequence[Seen]) -> Iterator[None]:
        """Within, the vision tower, called for all these videos, computes for those without an answer only, each by
        itself."""
        tower = self.model.model.visual
        forward, replaced = tower.forward, "forward" in vars(tower)  # as accelerate does over several devices

        def remembered(pixels: torch.Tensor, grid_thw: torch.Tensor, **kwargs: Any) -> Any:
            patches = pixels.split(grid_thw.prod(dim=1).tolist())
            copies = len(grid_thw) // len(videos)  # transformers 5.17 encodes a video for each beam, 5.23 for all
            repeated = [seen for seen in videos for _ in range(copies)]
            for seen, own, grid in zip(repeated, patches, grid_thw.split(1), strict=True):
                if seen.encoded is None:
                    with seen.timer.during("vision"):
                        seen.encoded = forward(own, grid_thw=grid, **kwargs)
            return joined([seen.encoded for seen in repeated])

        tower.forward = remembered
        try:
            yield
        finally:
            del tower.forward
            if replaced:
                tower.forward = forward

    def _dense_record(self, inputs: Any) -> Record:
        t, h, w = inputs["video_grid_thw"][0].tolist()
        frames = (h * w // self.model.model.visual.spatial_merge_size**2,) * t
        return Record(0, "video", "none", "original", self._start(inputs), frames, frames, 0, 0)

    def _start(self, inputs: Any) -> int:
        """How many tokens of a prompt stand before its video."""
        return int((inputs["input_ids"][0] == self.model.config.video_token_id).int().argmax())


def batch(inputs: Sequence[Any]) -> dict[str, Any]:
    """What the model gets for several prompts, of what it would get for each; of one, that."""
    if len(inputs) == 1:
        return dict(inputs[0])
    longest = max(own["input_ids"].shape[1] for own in inputs)

    def padded(name: str, line: torch.Tensor) -> torch.Tensor:
        # With a token that the prompt has already: a penalty for repeating tokens takes padding for text.
        fill = int(line[0, 0]) if name == "input_ids" else 0
        return torch.nn.functional.pad(line, (longest - line.shape[1], 0), value=fill)

    of_text = ("input_ids", "attention_mask", "mm_token_type_ids")
    return {
        name: joined([padded(name, own[name]) if name in of_text else own[name] for own in inputs])
        for name in inputs[0]
    }


def joined(parts: Sequence[Any]) -> Any:
    """Tensors one behind the other, dim 0; so also those in equal lists, tuples and transformers' outputs."""
    first = parts[0]
    if len(parts) == 1:
        return copy.copy(first)  # transformers puts other things into what it gets
    if isinstance(first, torch.Tensor):
        return torch.cat(list(parts))
    if isinstance(first, dict):
        return type(first)(**{name: joined([part[name] for part in parts]) for name in first})
    return type(first)(joined(together) for together in zip(*parts, strict=True))


def until(text: str, generation: dict[str, Any]) -> str:
    """The answer before the first of the task's stop texts."""
    stops = generation.get("until") or []
    for stop in [stops] if isinstance(stops, str) else stops:
        text = text.split(stop)[0] if stop else text
    return text.strip()
