"""The answers that an engine of vLLM must give: of our hooks on transformers' models, and of the llava tree."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import AutoModelForImageTextToText, AutoProcessor, GenerationConfig
from transformers.video_utils import VideoMetadata

from llava.mm_utils import process_images, tokenizer_image_token
from llava.model.builder import load_pretrained_model
from tests.vllm.asked import QWEN, TOKENS, Asked, asked_of, media, metadata, prompt, size_of
from vidcom2 import Compressor, compressor
from vidcom2.vllm.serving import serving

PLAIN = GenerationConfig(pad_token_id=0)
"""Checkpoints' own settings, such as penalties, are not vLLM's defaults here, and an answer has no end."""


def answers(kind: str, checkpoint: Path, spec: str) -> list[list[int]]:
    """The ids of the answers to all prompts of a kind."""
    numbering: Any = "original" if kind in QWEN else "repack"
    chosen = serving(compressor(spec), numbering).compressor
    if chosen.drops:
        chosen = replace(chosen, positions=numbering)
    ways = {"llava_ov": of_tree, "llava_video": of_tree, "internvl_chat": by_hand}
    with torch.no_grad():
        return list(ways.get(kind, of_hooks)(kind, checkpoint, chosen))


def of_hooks(
    kind: str, checkpoint: Path, chosen: Compressor, prompts: Sequence[Asked] | None = None
) -> Iterator[list[int]]:
    processor = AutoProcessor.from_pretrained(checkpoint)
    model = AutoModelForImageTextToText.from_pretrained(checkpoint, dtype=torch.float32).eval()
    model.generation_config = PLAIN
    for asked in asked_of(kind) if prompts is None else prompts:
        videos, images = media(kind, asked)
        extra: dict[str, Any] = {}
        if kind in QWEN and videos:
            told = [VideoMetadata(**metadata(video)) for video in videos]
            extra = {"video_metadata": told, "do_sample_frames": False}
        inputs = processor(
            text=[prompt(kind, asked)], videos=videos or None, images=images or None, return_tensors="pt", **extra
        )
        with chosen(model):
            ids = model.generate(**inputs, do_sample=False, max_new_tokens=TOKENS)
        yield ids[0, inputs["input_ids"].shape[1] :].tolist()


def by_hand(kind: str, checkpoint: Path, chosen: Compressor) -> Iterator[list[int]]:
    """InternVL in OpenGVLab's layout, with rows put together one by one: there is no newline between frames."""
    origin = checkpoint / "transformers"
    processor = AutoProcessor.from_pretrained(origin)
    model = AutoModelForImageTextToText.from_pretrained(origin, dtype=torch.float32).eval()
    model.generation_config = PLAIN

    def rows_of(text: str) -> Tensor:
        return model.get_input_embeddings()(processor.tokenizer(text, return_tensors="pt")["input_ids"][0])

    def seen(pixels: Tensor) -> Tensor:
        return model.model.get_image_features(pixels).pooler_output

    def frames(video: Any) -> Iterator[Tensor]:
        x = seen(processor.video_processor([video], return_tensors="pt")["pixel_values_videos"].flatten(0, 1))
        kept = chosen.select(x, (math.isqrt(x.shape[1]),) * 2)
        for number, frame in enumerate(kept.apply(x).split(kept.budgets.tolist())):
            yield from (rows_of(f"Frame{number + 1}: <img>"), frame, rows_of("</img>"))

    for asked in asked_of(kind):
        videos, images = (iter(one) for one in media(kind, asked))
        rows: list[Tensor] = []
        for piece in re.split("(<video>|<image>|<IMG_CONTEXT>)", prompt(kind, asked)):
            if piece == "<video>":
                rows += frames(next(videos))
            elif piece in ("<image>", "<IMG_CONTEXT>"):
                tile = seen(processor.image_processor([next(images)], return_tensors="pt")["pixel_values"])[0]
                rows += rows_of("<img>"), tile, rows_of("</img>")
            elif piece:
                rows.append(rows_of(piece))
        yield model.generate(inputs_embeds=torch.cat(rows)[None], do_sample=False, max_new_tokens=TOKENS)[0].tolist()


def of_tree(kind: str, checkpoint: Path, chosen: Compressor) -> Iterator[list[int]]:
    tokenizer, model, processor, _ = load_pretrained_model(
        str(checkpoint), None, "llava_qwen", device_map="cpu", torch_dtype="float32"
    )
    model.float().eval()
    model.generation_config = PLAIN
    for asked in asked_of(kind):
        videos, images = (iter(one) for one in media(kind, asked))
        text = prompt(kind, asked).replace("<video>", "<image>")
        ids = tokenizer_image_token(text, tokenizer, return_tensors="pt")[None]
        pixels, modalities, sizes = [], [], []
        for slot in re.findall("[VI]", asked.text):
            if slot == "V":
                frames = [Image.fromarray(frame) for frame in next(videos)]
                pixels.append(processor.preprocess(frames, return_tensors="pt")["pixel_values"])
                sizes.append(size_of(kind))
            else:
                image = next(images)
                pixels.append(process_images([image], processor, model.config)[0])
                sizes.append(image.size)
            modalities.append("video" if slot == "V" else "image")
        with chosen(model):
            made = model.generate(
                ids,
                images=pixels or None,
                modalities=modalities or ["image"],
                image_sizes=sizes or None,
                do_sample=False,
                max_new_tokens=TOKENS,
            )
        yield made[0].tolist()
