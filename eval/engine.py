"""One question about one video file, through a LLaVA checkpoint: the part of an evaluation that knows the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from eval.protocol import Protocol
from eval.timing import StageTimer
from llava.constants import IMAGE_TOKEN_INDEX
from llava.mm_utils import KeywordsStoppingCriteria, get_model_name_from_path, tokenizer_image_token
from llava.model.builder import load_pretrained_model
from llava.video import read_video
from vidcom2 import Compressor, Record


class PromptTooLong(Exception):
    """Video and question together do not fit the model, which would cut the question off."""


@dataclass(frozen=True)
class Answer:
    """text: the raw answer. prompt: what was asked, video as one slot. frames, duration: what was seen of the video.
    records: what the video cost the LLM. seconds: per stage (eval.timing.STAGES)."""

    text: str
    prompt: str
    frames: int
    duration: float
    records: list[Record]
    seconds: dict[str, float]


class LlavaEngine:
    """Answers questions about video files.

    device: "cpu", "cuda:0", or "auto" to spread the model over all GPUs. dtype: "float16" | "bfloat16" | "float32".
    attn: None for the best installed attention. Raises what `load_pretrained_model` raises.
    """

    def __init__(
        self,
        model: str,
        protocol: Protocol,
        compressor: Compressor | None,
        device: str,
        dtype: str,
        attn: str | None = None,
    ):
        self.protocol, self.compressor = protocol, compressor
        self.tokenizer, self.model, self.processor, _ = load_pretrained_model(
            model,
            None,
            get_model_name_from_path(model),
            device_map=device,
            torch_dtype=dtype,
            attn_implementation=attn,
            overwrite_config=protocol.overwrite_config,
            compressor=compressor,
        )
        self.device = self.model.device
        self.dtype = getattr(torch, dtype)
        self.attention = self.model.config._attn_implementation
        self.identity = "|".join(
            [model, compressor.spec if compressor else "none", str(protocol), dtype, self.attention]
        )
        """Names everything that an answer depends on besides the question, for caches and results."""

    @torch.inference_mode()
    def answer(self, video_file: str, question: str, generation: dict[str, Any]) -> Answer:
        """Greedy or sampled answer to `question` (without image slot) about the video.

        generation: transformers' generate arguments, as lmms-eval's tasks give them.
        Raises llava.video.VideoError for a video that cannot be read, PromptTooLong.
        """
        timer = StageTimer(self.device)
        timer.switch("decode")
        video = read_video(video_file, self.protocol.sampling)
        timer.switch("preprocess")
        pixels = self.processor.preprocess(video.frames, return_tensors="pt")["pixel_values"]
        pixels = pixels.to(self.device, self.dtype)
        prompt = self.protocol.prompt(question, video)
        tokens = tokenizer_image_token(prompt, self.tokenizer, IMAGE_TOKEN_INDEX)
        ids = torch.tensor([tokens], device=self.device)
        stop = KeywordsStoppingCriteria([self.protocol.stop_text], self.tokenizer, ids)
        with timer.watching(self.model):
            new = self.model.generate(
                ids,
                images=[pixels],
                modalities=["video"],
                attention_mask=torch.ones_like(ids),
                pad_token_id=self._pad_token_id,
                stopping_criteria=[stop],
                **_generate_arguments(generation),
            )
        records = list(self.model.visual_records)
        self._check_length(ids, records)
        text = self.tokenizer.batch_decode(new, skip_special_tokens=True)[0].strip()
        return Answer(text, prompt, len(video.frames), video.duration, records, timer.seconds)

    @property
    def _pad_token_id(self) -> int:
        pad = self.tokenizer.pad_token_id
        return self.tokenizer.eos_token_id if pad is None else pad

    def _check_length(self, ids: torch.Tensor, records: list[Record]) -> None:
        limit = getattr(self.model.config, "tokenizer_model_max_length", None)
        length = ids.shape[1] - len(records) + sum(record.tokens_after + record.cut for record in records)
        if limit is not None and length > limit:
            raise PromptTooLong(
                f"{length} tokens do not fit the model's {limit}: use fewer frames or a lower retention"
            )


def _generate_arguments(generation: dict[str, Any]) -> dict[str, Any]:
    """lmms-eval's generation_kwargs as its LLaVA wrappers pass them on: no `until`, no sampling knobs when greedy."""
    arguments = {"max_new_tokens": 1024, **generation}
    arguments.pop("until", None)
    temperature = arguments.get("temperature") or 0
    arguments["do_sample"] = bool(arguments.get("do_sample", temperature > 0))
    if not arguments["do_sample"]:
        for knob in ("temperature", "top_p", "top_k"):
            arguments.pop(knob, None)
    return arguments
