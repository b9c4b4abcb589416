"""Qwen2-VL, Qwen2.5-VL, Qwen3-VL and Qwen3.5 through transformers' own classes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch

from llava.model.builder import quantisation, resolve_attention
from llava.model.checkpoint import load_texts, load_whole
from llava.video import FrameSampling
from vidcom2 import Compressor, Record

from ..results.sample import Answer
from .base import EngineBase, Numbers, Question, Unanswerable, generate_arguments, in_batch, one_by_one, turns
from .qwen_protocol import QwenProtocol, Read, Reader
from .timing import StageTimer

UNQUANTISED = ["model.visual", "lm_head"]
"""Modules that keep their precision, as in a LLaVA."""


@dataclass
class Seen:
    """A video that questions are asked about. Its first question fills `patches` and `encoded`.

    Attributes:
        read: The decoded video.
        timer: Times of what all answers about the video share.
        patches: What the processor made of the frames.
        encoded: What the vision tower made of the patches.
        inputs: Of the latest question: (question, prompt, the model's inputs).
    """

    read: Read
    timer: StageTimer
    patches: Any = None
    encoded: Any = None
    inputs: tuple[Question, str, Any] = ("", "", None)


class QwenEngine(EngineBase):
    """A loaded Qwen checkpoint; see `Engine`. Prompts of any length are accepted: the configs name no limit.

    Args:
        model: Checkpoint directory or hub name.
        protocol: Frames and prompts.
        device: "cpu", "cuda:0", "auto" to spread the model over all GPUs, or None if ZeRO-3 places it.
        dtype: "float16", "bfloat16" or "float32".
        attn: Attention implementation of the LLM. None: the best that is installed.
        load: Replaces `AutoModelForImageTextToText.from_pretrained`.
        bits: 4 or 8 to hold the LLM in fewer bits, by bitsandbytes. None: in `dtype`.

    Raises:
        ValueError, OSError, ImportError: The checkpoint cannot be loaded.
    """

    def __init__(
        self,
        model: str,
        protocol: QwenProtocol,
        device: str | None,
        dtype: str,
        attn: str | None = None,
        load: Callable[..., Any] | None = None,
        bits: int | None = None,
    ):
        from transformers import AutoModelForImageTextToText, AutoProcessor

        self.protocol, self.read = protocol, Reader(protocol)
        options: dict[str, Any] = {
            "dtype": getattr(torch, dtype),
            "device_map": device,
            "attn_implementation": resolve_attention(attn),
        }
        if bits is not None:
            options["quantization_config"] = quantisation(bits == 8, options["dtype"], UNQUANTISED)
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
        """See `Engine.sampled`."""
        other = copy.copy(self)
        other.protocol = self.protocol.sampled(sampling)
        other.read = Reader(other.protocol)
        return other

    def shown_at(self, seen: Seen) -> tuple[list[float], int]:
        """Return the seconds at which the frames of a video are shown, and how many the model merges into one."""
        return seen.read.shown_at, self.model.config.vision_config.temporal_patch_size

    def see(self, read: Read) -> Seen:
        """See `Engine.see`. The tower runs with the first question: only the model's own call prepares its input."""
        return Seen(read, StageTimer(self.device, read.seconds))

    @one_by_one
    @torch.inference_mode()
    def answer_all(
        self, asked: Sequence[tuple[Seen, Question]], generation: dict[str, Any], compressor: Compressor
    ) -> list[Answer | Unanswerable]:
        """See `Engine.answer_all`."""
        errors = [misleading(self.processor, question) for _, question in asked]
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
        together = {**timer.seconds, "vision": 0.0}  # it is counted per video, in seen.timer
        answers: list[Answer | Unanswerable] = []
        for (seen, _), (prompt, own), record, row, error in zip(
            asked, prepared, records, new, numbers.errors, strict=True
        ):
            text = self.text(row)
            if self.protocol.simple:
                text = until(text, generation)
            read, seconds = seen.read, in_batch(seen.timer.seconds, together, len(asked))
            record = replace(record, sample=0, start=self._start(own))  # without the padding
            made = Answer(text, prompt, len(read.frames), read.total / read.fps, [record], seconds, read.reading)
            answers.append(error or made)
        return answers

    def text(self, tokens: Any) -> str:
        """See `Engine.text`."""
        text = self.processor.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text.strip() if self.protocol.simple else text

    def _prepare(self, seen: Seen, question: Question) -> tuple[str, Any]:
        """Return the question's prompt and the model's inputs."""
        if seen.inputs[0] != question or seen.inputs[2] is None:
            read = seen.read
            message = self.protocol.message(read.file, question, read.total)
            prompt = self.processor.apply_chat_template(
                message, tokenize=False, add_generation_prompt=True, **self.protocol.template
            )
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
        """In the block, the processor cuts a video into patches for its first question only, and remembers them."""
        processor = self.processor.video_processor
        preprocess = processor.preprocess

        def remembered(*args: Any, **kwargs: Any) -> Any:
            if seen.patches is None:
                with seen.timer.during("preprocess"):
                    seen.patches = preprocess(*args, **kwargs)
                    seen.patches["pixel_values_videos"] = seen.patches["pixel_values_videos"].to(self.device)
            return copy.copy(seen.patches)  # transformers removes entries from it

        processor.preprocess = remembered
        try:
            yield
        finally:
            del processor.preprocess

    @contextmanager
    def _encoded_once(self, videos: Sequence[Seen]) -> Iterator[None]:
        """In the block, the vision tower encodes each video once, by itself, and remembers the result.

        Args:
            videos: The videos of the batch, in the order of its prompts.
        """
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
        """Return the record of an uncompressed video: all T·M tokens stay."""
        t, h, w = inputs["video_grid_thw"][0].tolist()
        frames = (h * w // self.model.model.visual.spatial_merge_size**2,) * t
        return Record(0, "video", "none", "original", self._start(inputs), frames, frames, 0, 0)

    def _start(self, inputs: Any) -> int:
        """Return the number of tokens before the video."""
        return int((inputs["input_ids"][0] == self.model.config.video_token_id).int().argmax())


def misleading(processor: Any, question: Question) -> Unanswerable | None:
    """Return an error if a question contains a placeholder token. The tokenizer has no way to write it as text."""
    said = "\n".join(turns(question))
    places = [place for place in (processor.video_token, processor.image_token) if place in said]
    return (
        Unanswerable(f"the question says {', '.join(places)}, which this model takes for a place") if places else None
    )


def batch(inputs: Sequence[Any]) -> dict[str, Any]:
    """Join the model's inputs for several prompts into those of one batch, padded on the left."""
    if len(inputs) == 1:
        return dict(inputs[0])
    longest = max(own["input_ids"].shape[1] for own in inputs)

    def padded(name: str, line: torch.Tensor) -> torch.Tensor:
        # A repetition penalty takes padding for text. So the padding is a token that the prompt has anyway.
        fill = int(line[0, 0]) if name == "input_ids" else 0
        return torch.nn.functional.pad(line, (longest - line.shape[1], 0), value=fill)

    of_text = ("input_ids", "attention_mask", "mm_token_type_ids")
    return {
        name: joined([padded(name, own[name]) if name in of_text else own[name] for own in inputs])
        for name in inputs[0]
    }


def joined(parts: Sequence[Any]) -> Any:
    """Concatenate tensors along dimension 0, also inside lists, tuples, dicts and transformers' outputs."""
    first = parts[0]
    if len(parts) == 1:
        return copy.copy(first)  # transformers adds entries to it
    if isinstance(first, torch.Tensor):
        return torch.cat(list(parts))
    if isinstance(first, dict):
        return type(first)(**{name: joined([part[name] for part in parts]) for name in first})
    return type(first)(joined(together) for together in zip(*parts, strict=True))


def until(text: str, generation: dict[str, Any]) -> str:
    """Cut an answer at the first of the task's stop texts."""
    stops = generation.get("until") or []
    for stop in [stops] if isinstance(stops, str) else stops:
        text = text.split(stop)[0] if stop else text
    return text.strip()
