"""LLaVA checkpoints: frames, prompts and configs are those of lmms-eval's llava_onevision and llava_vid wrappers."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch

from llava.constants import DEFAULT_IMAGE_TOKEN, IMAGE_TOKEN_INDEX
from llava.conversation import conv_templates
from llava.mm_utils import KeywordsStoppingCriteria, get_model_name_from_path, tokenizer_image_token
from llava.model.builder import load_pretrained_model
from llava.model.multimodal_encoder.on_device import preprocess_on_device, resized
from llava.model.visual_inputs import Encoded
from llava.video import EXACT, FrameSampling, open_video, require, sample_video
from vidcom2 import Compressor, Keep, Record

from ..results.sample import Answer, Reading
from .base import (
    EngineBase,
    Numbers,
    PromptTooLong,
    Question,
    Unanswerable,
    generate_arguments,
    in_batch,
    one_by_one,
    turns,
)
from .reading import reading_of
from .timing import StageTimer


@dataclass(frozen=True)
class LlavaProtocol:
    """How a LLaVA checkpoint sees videos and is asked.

    Attributes:
        harness_name: The lmms-eval wrapper with the same frames and prompts. Tasks choose their prompts by it.
        sampling: Which frames are used.
        overwrite_config: What the wrapper sets in the model's config.
        conv_template: Name of the conversation template.
        time_instruction: Tell the model the times of the frames, before the question.
        decoder: What reads videos, see `llava.video.read_video`.
        preprocess: "exact": frames are resized by PIL where they are read, as in the wrappers. "fast": the same pixels
            are computed on the model's device.
        keep: Seconds of every video of which the caller keeps more; None for none.
        default_dtype: Dtype of the model on GPUs.
    """

    harness_name: str
    sampling: FrameSampling
    overwrite_config: dict[str, Any] = field(default_factory=dict)
    conv_template: str = "qwen_1_5"
    time_instruction: bool = False
    decoder: str = EXACT
    preprocess: str = "exact"
    keep: Keep | None = None
    default_dtype: ClassVar[str] = "float16"

    def prompt(self, question: Question, times: list[float], duration: float) -> str:
        """Return the whole prompt, with one image slot for the video.

        Args:
            question: The task's text, or a conversation. The video belongs to its first turn.
            times: Times of the frames, in seconds.
            duration: Length of the video, in seconds.
        """
        first, *later = turns(question)
        if self.time_instruction:
            located = ",".join(f"{second:.2f}s" for second in times)
            first = (
                f"The video lasts for {duration:.2f} seconds, and {len(times)} frames are uniformly "
                f"sampled from it. These frames are located at {located}.Please answer the following questions related "
                f"to this video.\n{first}"
            )
        conversation = conv_templates[self.conv_template].copy()
        for i, text in enumerate([f"{DEFAULT_IMAGE_TOKEN}\n{first}", *later, None]):
            conversation.append_message(conversation.roles[i % 2], text)
        return conversation.get_prompt()

    def sampled(self, sampling: FrameSampling) -> LlavaProtocol:
        """Return a copy with other frames."""
        return replace(self, sampling=sampling)

    def read_by(self, decoder: str | None = None, preprocess: str | None = None) -> LlavaProtocol:
        """Return a copy with another decoder or preprocessing. None keeps the protocol's own.

        Raises:
            ValueError: The name is unknown.
            ImportError: The decoder is not installed.
        """
        if preprocess not in (None, "exact", "fast"):
            raise ValueError(f"--preprocess {preprocess!r} is unknown; there are exact and fast")
        require(decoder or self.decoder)
        return replace(self, decoder=decoder or self.decoder, preprocess=preprocess or self.preprocess)

    def describe(self) -> dict[str, Any]:
        """Return how videos and prompts are made, for settings.json."""
        return {
            "protocol": self.harness_name,
            "sampling": str(self.sampling),
            "decoder": self.decoder,
            "preprocess": self.preprocess,
            "conv_template": self.conv_template,
            "time_instruction": self.time_instruction,
            "model_config": self.overwrite_config,
        }

    @property
    def stop_text(self) -> str:
        """The text that ends an answer."""
        return conv_templates[self.conv_template].reply_end


LLAVA_PROTOCOLS: dict[str, LlavaProtocol] = {
    "llava_onevision": LlavaProtocol(
        "llava_onevision",
        FrameSampling("uniform", max_frames=32),
        {"mm_spatial_pool_stride": 2, "mm_spatial_pool_mode": "bilinear"},
    ),
    "llava_vid": LlavaProtocol(
        "llava_vid",
        FrameSampling("fps", fps=1.0, max_frames=64),
        {
            "mm_spatial_pool_stride": 2,
            "mm_spatial_pool_mode": "average",
            "mm_pooling_position": "before",
            "mm_newline_position": "grid",
            "delay_load": False,
        },
    ),
}


@dataclass(frozen=True)
class Read:
    """A video as `LlavaEngine.read` returns it. Frames that are sampled several times are held once.

    Attributes:
        pixels: The distinct frames: [F, 3, S, S] for the tower, uint8 [F, S, S, 3] if they were only resized, or uint8
            [F, H, W, 3] for "fast" preprocessing.
        rows: For each of the T sampled frames, its index among the F.
        times: Times of the T frames that the prompt names, in seconds.
        shown_at: Seconds at which a player shows the T frames.
        duration: Length of the video, in seconds.
        seconds: What reading took, by stage.
        reading: How the video was read.
    """

    pixels: torch.Tensor
    rows: list[int]
    times: list[float]
    shown_at: list[float]
    duration: float
    seconds: dict[str, float]
    reading: Reading


@dataclass(frozen=True)
class Reader:
    """Decodes videos and prepares their frames. Picklable; see `Engine.read`.

    Attributes:
        sampling: Which frames are used.
        processor: The tower's image processor.
        dtype: Of the pixels that it makes.
        decoder: What reads videos.
        preprocess: "exact": frames become pixels. "resized": they get the size of the pixels. "fast": they stay as they
            are.
    """

    sampling: FrameSampling
    processor: Any
    dtype: torch.dtype
    decoder: str = EXACT
    preprocess: str = "exact"

    def __call__(self, video_file: str) -> Read:
        timer = StageTimer(torch.device("cpu"))
        timer.switch("decode")
        with open_video(video_file, self.decoder) as opened:
            video = sample_video(opened, self.sampling)
            timer.switch(None)
            reading = reading_of(video_file, opened, self.sampling.indices, video.distinct, video.rows)
        timer.switch("preprocess")
        if self.preprocess == "fast":
            pixels = torch.from_numpy(video.distinct)
        elif self.preprocess == "resized":
            pixels = torch.from_numpy(resized(self.processor, video.distinct))
        else:
            pixels = self.processor.preprocess(video.distinct, return_tensors="pt")["pixel_values"].to(self.dtype)
        timer.switch(None)
        return Read(pixels, video.rows, video.times, video.shown_at, video.duration, timer.seconds, reading)


@dataclass(frozen=True)
class Seen:
    """A video after tower and projector, with the timer of both."""

    read: Read
    encoded: Encoded
    timer: StageTimer


class LlavaEngine(EngineBase):
    """A loaded LLaVA checkpoint; see `Engine`.

    Args:
        model: Checkpoint directory or hub name.
        protocol: Frames and prompts.
        device: "cpu", "cuda:0", "auto" to spread the model over all GPUs, or None if ZeRO-3 places it.
        dtype: "float16", "bfloat16" or "float32".
        attn: Attention implementation of the LLM. None: the best that is installed.
        load: Replaces `load_pretrained_model`.
        bits: 4 or 8 to hold the LLM in fewer bits, by bitsandbytes. None: in `dtype`.

    Raises:
        ValueError, OSError, ImportError: As `load_pretrained_model`.
    """

    def __init__(
        self,
        model: str,
        protocol: LlavaProtocol,
        device: str | None,
        dtype: str,
        attn: str | None = None,
        load: Callable[..., tuple[Any, Any, Any, int]] = load_pretrained_model,
        bits: int | None = None,
    ):
        self.protocol = protocol
        self.tokenizer, self.model, processor, _ = load(
            model,
            None,
            get_model_name_from_path(model),
            device_map=device,
            torch_dtype=dtype,
            attn_implementation=attn,
            overwrite_config=protocol.overwrite_config,
            compressor=None,
            **({f"load_{bits}bit": True} if bits else {}),
        )
        self.device = self.model.device
        self.read = Reader(protocol.sampling, processor, getattr(torch, dtype), protocol.decoder, protocol.preprocess)
        self.attention = self.model.config._attn_implementation
        self._loaded = (model, dtype, self.attention)

    def sampled(self, sampling: FrameSampling) -> LlavaEngine:
        """See `Engine.sampled`."""
        other = copy.copy(self)
        other.protocol, other.read = self.protocol.sampled(sampling), replace(self.read, sampling=sampling)
        return other

    def shown_at(self, seen: Seen) -> tuple[list[float], int]:
        """Return the seconds at which the frames of a video are shown, and 1: each frame has tokens of its own."""
        return seen.read.shown_at, 1

    @torch.inference_mode()
    def see(self, read: Read) -> Seen:
        """See `Engine.see`."""
        timer = StageTimer(self.device, read.seconds)
        decoded = read.pixels.dtype == torch.uint8
        timer.switch("preprocess" if decoded else "vision")
        pixels = read.pixels.to(self.device)
        if decoded:
            pixels = preprocess_on_device(self.read.processor, pixels).to(self.read.dtype)
            timer.switch("vision")
        encoded = self.model.encode(pixels if len(pixels) == len(read.rows) else pixels[read.rows])
        timer.switch(None)
        return Seen(read, encoded, timer)

    @one_by_one
    @torch.inference_mode()
    def answer_all(
        self, asked: Sequence[tuple[Seen, Question]], generation: dict[str, Any], compressor: Compressor
    ) -> list[Answer | Unanswerable]:
        """See `Engine.answer_all`."""
        prompts = [self.protocol.prompt(question, seen.read.times, seen.read.duration) for seen, question in asked]
        # The video's slot comes first. A later "<image>", in the question, is text.
        tokens = [tokenizer_image_token(prompt, self.tokenizer, IMAGE_TOKEN_INDEX, slots=1) for prompt in prompts]
        ids, mask = self._padded(tokens)
        images, modalities = [seen.encoded for seen, _ in asked], ["video"] * len(asked)
        if compressor.stage == "inside LLM":  # these methods refuse a batch if one prompt is too long
            self.model.prepare_inputs_labels_for_multimodal(ids, None, mask, None, None, images, modalities)
            errors = [self._too_long(*pair) for pair in zip(tokens, self.model.visual_records, strict=True)]
            if any(errors):
                fitting = [pair for pair, error in zip(asked, errors, strict=True) if error is None]
                rest = iter(self.answer_all(fitting, generation, compressor) if fitting else [])
                return [error or next(rest) for error in errors]
        stop = KeywordsStoppingCriteria([self.protocol.stop_text], self.tokenizer, ids)
        numbers = Numbers(len(asked))
        timer = StageTimer(self.device)
        with (
            compressor(self.model),
            self._stopped_if_too_long(tokens),
            timer.watching(self.model, self.model.get_model()),
        ):
            new = self.model.generate(
                ids,
                images=images,
                modalities=modalities,
                attention_mask=mask,
                pad_token_id=self._pad_token_id,
                stopping_criteria=[stop],
                **generate_arguments(generation, 1024, numbers),
            )
        answers: list[Answer | Unanswerable] = []
        for (seen, _), prompt, line, record, row, error in zip(
            asked, prompts, tokens, self.model.visual_records, new, numbers.errors, strict=True
        ):
            read, seconds = seen.read, in_batch(seen.timer.seconds, timer.seconds, len(asked))
            record = replace(record, sample=0, start=line.index(IMAGE_TOKEN_INDEX))  # without the padding
            made = Answer(self.text(row), prompt, len(read.times), read.duration, [record], seconds, read.reading)
            answers.append(self._too_long(line, record) or error or made)
        return answers

    def text(self, tokens: Any) -> str:
        """See `Engine.text`."""
        return self.tokenizer.decode(tokens, skip_special_tokens=True).strip()

    @contextmanager
    def _stopped_if_too_long(self, tokens: Sequence[Sequence[int]]) -> Iterator[None]:
        """In the block, the model does not begin to answer a lone prompt that it would have to cut.

        Raises:
            PromptTooLong: The prompt is too long. A batch has the answers of the others.
        """

        def check(_: object) -> None:
            if len(tokens) == 1 and (error := self._too_long(tokens[0], self.model.visual_records[0])):
                raise error

        self.model.visual_hooks.append(check)
        try:
            yield
        finally:
            self.model.visual_hooks.remove(check)

    def _padded(self, tokens: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return token ids and their mask, int64 [B, n], padded on the left."""
        longest = max(map(len, tokens))
        ids = [[self._pad_token_id] * (longest - len(line)) + [*line] for line in tokens]
        mask = [[0] * (longest - len(line)) + [1] * len(line) for line in tokens]
        return torch.tensor(ids, device=self.device), torch.tensor(mask, device=self.device)

    @property
    def _pad_token_id(self) -> int:
        pad = self.tokenizer.pad_token_id
        return self.tokenizer.eos_token_id if pad is None else pad

    def _too_long(self, tokens: Sequence[int], record: Record) -> PromptTooLong | None:
        """Return an error if prompt and video exceed the model's `tokenizer_model_max_length`.

        Args:
            tokens: The prompt's tokens, with the video as one.
            record: What the video costs.
        """
        limit = getattr(self.model.config, "tokenizer_model_max_length", None)
        length = len(tokens) - 1 + record.prompt_rows + record.cut
        if limit is None or length <= limit:
            return None
        return PromptTooLong(
            f"{length} tokens do not fit the model's {limit}: use fewer frames, a lower retention or a shorter question"
        )
