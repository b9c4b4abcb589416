"""What vLLM is sent about a video: the prompts and frames of the families' protocols, in vLLM's form."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from transformers import AutoConfig, AutoProcessor, AutoTokenizer

from llava.constants import IMAGE_TOKEN_INDEX
from llava.mm_utils import tokenizer_image_token
from llava.model.checkpoint import load_texts
from llava.vllm.shapes import newlines, tokens_per_frame, tower_of
from vidcom2.vllm.serving import Numbering

from . import llava as llava_engine
from . import qwen as qwen_engine
from .base import Question
from .llava import LlavaProtocol
from .qwen_protocol import QwenProtocol


@dataclass(frozen=True)
class Prompt:
    """A question about a video, as vLLM takes it.

    Attributes:
        text: The whole prompt, with one slot for the video.
        request: What `vllm.LLM.generate` takes.
        frames: Number of frames T that the model sees.
        duration: Length of the video in seconds.
        shape: T and M of the tokens that are compressed.
        separators: Newlines of the video. They stay.
    """

    text: str
    request: dict[str, Any]
    frames: int
    duration: float
    shape: tuple[int, int]
    separators: int


class Prompts(Protocol):
    """How the checkpoints of a family are asked through vLLM.

    Attributes:
        read: See `base.Engine.read`.
        numbering: How the plug-in numbers kept tokens.
        overrides: Fields of the model's config that the protocol sets.
        options: More arguments of `vllm.LLM`.
        row: The token that stands for a row of a video in the prompt that vLLM made.
        tokenizer: The checkpoint's.
        stop: The text that ends an answer.
        own_ends: Whether what the checkpoint's generation_config.json names ends an answer, too.
        max_new_tokens: Length of an answer, if the task does not say it.
    """

    read: Callable[[str], Any]
    numbering: Numbering
    overrides: dict[str, Any]
    options: dict[str, Any]
    row: int
    tokenizer: Any
    stop: str
    own_ends: bool
    max_new_tokens: int

    def prompt(self, read: Any, question: Question) -> Prompt:
        """Return a question about a video.

        Raises:
            Unanswerable: The question cannot be written in a prompt.
        """

    def finish(self, text: str, generation: dict[str, Any]) -> str:
        """Return the answer in what was generated."""


class LlavaPrompts:
    """LLaVA checkpoints in LLaVA-NeXT's layout; see `Prompts`. The frames are resized where they are read."""

    numbering: Numbering = "repack"
    own_ends = True
    max_new_tokens = 1024

    def __init__(self, model: str, protocol: LlavaProtocol):
        self.protocol = protocol
        self.tokenizer = load_texts(AutoTokenizer.from_pretrained, model)
        self.overrides, self.stop = dict(protocol.overwrite_config), protocol.stop_text
        self.options: dict[str, Any] = {}
        self.row = self.tokenizer.convert_tokens_to_ids("<|endoftext|>")
        self._slot = self.tokenizer.encode("<video>", add_special_tokens=False)
        self._config = AutoConfig.from_pretrained(model)
        for name, value in self.overrides.items():
            setattr(self._config, name, value)
        tower = tower_of(self._config)
        self._m = tokens_per_frame(self._config, tower)
        # Small frames are hashed, sent and kept by vLLM, and the processes that read ahead have done the resizing.
        self.read: Callable[[str], Any] = llava_engine.Reader(
            protocol.sampling, tower.image_processor, torch.float32, protocol.decoder, "resized"
        )

    def prompt(self, read: llava_engine.Read, question: Question) -> Prompt:
        """See `Prompts.prompt`."""
        text = self.protocol.prompt(question, read.times, read.duration)
        ids = tokenizer_image_token(text, self.tokenizer, IMAGE_TOKEN_INDEX, slots=1)
        slot = ids.index(IMAGE_TOKEN_INDEX)
        request = {
            "prompt_token_ids": [*ids[:slot], *self._slot, *ids[slot + 1 :]],
            "multi_modal_data": {"video": read.pixels[read.rows].numpy()},
        }
        t = len(read.rows)
        return Prompt(text, request, t, read.duration, (t, self._m), newlines(self._config, t, self._m))

    def finish(self, text: str, generation: dict[str, Any]) -> str:
        """See `Prompts.finish`."""
        return text.strip()


class QwenPrompts:
    """Qwen2-VL, Qwen2.5-VL and Qwen3-VL; see `Prompts`."""

    numbering: Numbering = "original"
    own_ends = False  # as in lmms-eval's wrappers

    def __init__(self, model: str, protocol: QwenProtocol):
        self.protocol = protocol
        limits: dict[str, Any] = {"min_pixels": protocol.min_pixels, "max_pixels": protocol.max_pixels}
        self.processor = load_texts(AutoProcessor.from_pretrained, model, **limits)
        self.tokenizer = self.processor.tokenizer
        self.stop: str = self.tokenizer.eos_token
        self.overrides: dict[str, Any] = {}
        self.options = {"mm_processor_kwargs": {**limits, "do_sample_frames": False}}
        if protocol.resized:
            self.options["mm_processor_kwargs"] = {"do_resize": False, "do_sample_frames": False}
        self.row = self.processor.video_token_id
        self.max_new_tokens = protocol.max_new_tokens
        self.read: Callable[[str], Any] = qwen_engine.Reader(protocol)

    def prompt(self, read: qwen_engine.Read, question: Question) -> Prompt:
        """See `Prompts.prompt`."""
        if error := qwen_engine.misleading(self.processor, question):
            raise error
        message = self.protocol.message(read.file, question, read.total)
        text = self.processor.apply_chat_template(
            message, tokenize=False, add_generation_prompt=True, **self.protocol.template
        )
        duration = read.total / read.fps
        known = {**read.metadata, "duration": duration, "do_sample_frames": False}
        request = {"prompt": text, "multi_modal_data": {"video": [(read.frames, known)]}}
        t, _, h, w = read.frames.shape
        side = 2 * self.protocol.patch
        shape = ((t + 1) // 2, (h // side) * (w // side))  # two frames are a step, an odd one is repeated
        return Prompt(text, request, t, duration, shape, 0)

    def finish(self, text: str, generation: dict[str, Any]) -> str:
        """See `Prompts.finish`."""
        return qwen_engine.until(text, generation) if self.protocol.simple else text


def prompts_of(model: str, protocol: LlavaProtocol | QwenProtocol) -> Prompts:
    """Return how a checkpoint is asked."""
    return QwenPrompts(model, protocol) if isinstance(protocol, QwenProtocol) else LlavaPrompts(model, protocol)
