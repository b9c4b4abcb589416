"""The answers that an engine of vLLM must give: of our hooks on transformers' models, and of the llava tree."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor, GenerationConfig
from transformers.video_utils import VideoMetadata

from llava.mm_utils import process_images, tokenizer_image_token
from llava.model.builder import load_pretrained_model
from tests.vllm.asked import QWEN, TOKENS, asked_of, media, metadata, prompt, size_of
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
    made = {"llava_ov": of_tree, "llava_video": of_tree, "internvl_chat": by_hand}.get(kind, of_hooks)
    with torch.no_grad():
        return list(made(kind, checkpoint, chosen))


def of_hooks(kind: str, checkpoint: Path, chosen: Compressor) -> Iterator[list[int]]:
    processor = AutoProcessor.from_pretrained(checkpoint)
    model = AutoModelForImageTextToText.from_pretrained(checkpoint, dtype=torch.float32).eval()
    model.generation_config = PLAIN
    for asked in asked_of(kind):
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
    """OpenGVLab's InternVL, whose frames have no newline between them: rows put together one by one."""
    origin = checkpoint / "transformers"
    processor = AutoProcessor.from_pretrained(origin)
    model = AutoModelForImageTextToText.from_pretrained(origin, dtype=torch.float32).eval()
    model.generation_config = PLAIN
    words = processor.tokenizer
    embed = model.get_input_embeddings()
    for asked in asked_of(kind):
        parts = prompt(kind, asked).split("<video>")
        rows = [embed(words(parts[0], return_tensors="pt")["input_ids"][0])] if parts[0] else []
        for video, behind in zip(media(kind, asked)[0], parts[1:], strict=True):
            pixels = processor.video_processor([video], return_tensors="pt")["pixel_values_videos"].flatten(0, 1)
            x = model.model.get_image_features(pixels).pooler_output
            kept = chosen.select(x)
            for number, frame in enumerate(kept.apply(x).split(kept.budgets.tolist())):
                for piece in (f"Frame{number + 1}: <img>", frame, "</img>"):
                    text = isinstance(piece, str)
                    rows.append(embed(words(piece, return_tensors="pt")["input_ids"][0]) if text else piece)
            rows.append(embed(words(behind, return_tensors="pt")["input_ids"][0]))
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
