"""Random models of transformers' own video classes, and the inputs that their processors would make.

Weights are spread so that greedy tokens differ. Text is random ids; a row knows where its visual tokens are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import transformers as hf
from torch import Tensor, nn

from tests.vidcom2.kinds import NEW
from tests.vidcom2.rows import (
    COLON,
    END,
    FRAME,
    HIDDEN,
    IMAGE,
    MERGE,
    NEWLINE,
    PADDED,
    PATCH,
    QWEN_TOWER,
    ROPE,
    START,
    TEXT,
    TOWER,
    VIDEO,
    WORDS,
    Row,
    Visual,
    joined,
    pixels,
)

QWEN = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
STACKED = ("llava_onevision", "llava_next_video")
"""Their processors stack all videos of a batch into one tensor, so these have equal frames."""
KINDS = (*QWEN, *STACKED, "internvl")

SIDE = {"llava_onevision": 7, "llava_next_video": 6, "internvl": 6}
"""Patches per side of a frame, which is pooled to 4x4, 3x3 and 3x3 tokens."""


def _config(kind: str, layers: int) -> Any:
    """The kind's config class, filled, with so many layers in the language model."""
    if kind in NEW:
        return NEW[kind].config(layers)
    text = {**TEXT, "num_hidden_layers": layers}
    mrope = {**text, "rope_parameters": {**ROPE, "mrope_section": [2, 2, 2]}}
    plain = {**text, "rope_parameters": dict(ROPE)}
    qwen = {"image_token_id": IMAGE, "video_token_id": VIDEO, "vision_start_token_id": START}
    qwen |= {"vision_end_token_id": END, "tie_word_embeddings": False}
    llava = {"image_token_index": IMAGE, "video_token_index": VIDEO, "tie_word_embeddings": False}
    side = PATCH * SIDE.get(kind, 0)
    tower = {**TOWER, "image_size": side}
    if kind == "qwen2_vl":
        vision = {**QWEN_TOWER, "depth": 2, "embed_dim": 32, "hidden_size": HIDDEN, "mlp_ratio": 2}
        return hf.Qwen2VLConfig(text_config=mrope, vision_config=vision, **qwen)
    if kind == "qwen2_5_vl":
        vision = {**QWEN_TOWER, "depth": 2, "hidden_size": 32, "intermediate_size": 48, "out_hidden_size": HIDDEN}
        # Windows of 2x2 tokens, so that the tower reorders its tokens; frames may share their time position.
        vision |= {"window_size": 4 * PATCH, "fullatt_block_indexes": [1], "tokens_per_second": 2}
        return hf.Qwen2_5_VLConfig(text_config=mrope, vision_config=vision, **qwen)
    if kind == "qwen3_vl":
        vision = {**QWEN_TOWER, "depth": 3, "hidden_size": 32, "intermediate_size": 48, "out_hidden_size": HIDDEN}
        vision |= {"num_position_embeddings": 64, "deepstack_visual_indexes": [0, 1]}
        return hf.Qwen3VLConfig(text_config={**mrope, "head_dim": 12}, vision_config=vision, **qwen)
    if kind == "llava_onevision":
        vision = {"model_type": "siglip_vision_model", "vision_use_head": False, **tower}
        own = {"model_type": "qwen2", **plain}
        grid = [[side, side]]
        return hf.LlavaOnevisionConfig(text_config=own, vision_config=vision, image_grid_pinpoints=grid, **llava)
    if kind == "llava_next_video":
        vision = {"model_type": "clip_vision_model", "projection_dim": 32, **tower}
        return hf.LlavaNextVideoConfig(text_config={"model_type": "llama", **plain}, vision_config=vision, **llava)
    assert kind == "internvl", kind
    tokens = (SIDE[kind] // 2) ** 2
    settings = {"image_token_id": IMAGE, "image_seq_length": tokens, "tie_word_embeddings": False}
    return hf.InternVLConfig(text_config={"model_type": "qwen2", **plain}, vision_config=tower, **settings)


CLASSES = {
    "qwen2_vl": "Qwen2VL",
    "qwen2_5_vl": "Qwen2_5_VL",
    "qwen3_vl": "Qwen3VL",
    "llava_onevision": "LlavaOnevision",
    "llava_next_video": "LlavaNextVideo",
    "internvl": "InternVL",
}


def tiny(kind: str, attn_implementation: str = "sdpa", seed: int = 0, layers: int = 3) -> Any:
    """A model on CPU in float32, in eval mode, whose answers end by their length only."""
    model_class = getattr(hf, NEW[kind].model if kind in NEW else f"{CLASSES[kind]}ForConditionalGeneration")
    model = model_class._from_config(_config(kind, layers), attn_implementation=attn_implementation)
    randomise(model, seed)
    model.generation_config.pad_token_id = 0
    model.generation_config.eos_token_id = None
    return model.eval()


@torch.no_grad()
def randomise(model: nn.Module, seed: int = 0) -> None:
    """Fill every parameter: matrices that keep the scale of what passes through, norms about 1, small biases."""
    generator = torch.Generator().manual_seed(seed)
    for name, weight in model.named_parameters():
        noise = torch.randn(weight.shape, generator=generator)
        if "norm" in name and name.endswith("weight"):
            weight.copy_(weight.mean() + 0.2 * noise)  # a new one holds 1, or 0 where the module adds 1
        elif name.endswith("bias"):
            weight.copy_(0.2 * noise)
        elif name.endswith(("patch_embed.proj.weight", "patch_embedding.weight", "projection.weight")):
            weight.copy_(noise / weight[0].numel() ** 0.5)
        elif "embed" in name or "newline" in name or "token" in name or "lambda" in name:
            weight.copy_(0.5 * noise)
        else:
            weight.copy_(1.5 * noise / weight[0].numel() ** 0.5)
        if name == "lm_head.weight":
            weight[WORDS:] = 0


Part = tuple[str, tuple[int, ...]]


def text(n: int) -> Part:
    """n random words."""
    return "text", (n,)


def video(frames: int, h: int = 3, w: int = 3) -> Part:
    """Frames of h x w tokens; the kinds other than Qwen have a fixed frame size and ignore h and w."""
    return "video", (frames, h, w)


def image(h: int = 3, w: int = 2) -> Part:
    """An image, for all but llava_next_video. InternVL's has one tile."""
    return "image", (1, h, w)


def prompt(kind: str, *parts: Part, seed: int = 0) -> Row:
    """A row of such parts, its words and pixels drawn from `seed`."""
    generator = torch.Generator().manual_seed(3000 + seed)
    row = Row(kind, [])
    for what, sizes in parts:
        if what == "text":
            row += torch.randint(1, WORDS, sizes, generator=generator).tolist()
        else:
            row += _visual(kind, what, *sizes, generator)
    return row


def batch(rows: Sequence[Row]) -> dict[str, Tensor]:
    """The inputs of a model call: text padded on the left, the pixels of all rows in order."""
    texts = [row.text for row in rows]
    longest = max(len(row.ids) for row in rows)
    inputs = {
        name: torch.cat([nn.functional.pad(text[name], (longest - text[name].shape[1], 0)) for text in texts])
        for name in PADDED
        if name in texts[0]
    }
    names = {name: None for row in rows for name in row.media}
    return inputs | {name: joined(rows, name) for name in names}


def _visual(kind: str, modality: str, frames: int, h: int, w: int, generator: torch.Generator) -> Row:
    """A row of nothing but one visual, with what the processor writes around it."""
    if kind in NEW:
        return NEW[kind].visual(modality, frames, h, w, generator)
    assert modality == "video" or kind != "llava_next_video", f"no image layout for {kind}"
    tokens, spelled = _spell(kind, modality, frames, h, w, generator)
    placeholder = IMAGE if modality == "image" or kind == "internvl" else VIDEO
    at = tuple(i for i, token in enumerate(spelled) if token == placeholder)

    values = "pixel_values" if placeholder == IMAGE else "pixel_values_videos"
    size = PATCH * SIDE.get(kind, 0)
    if kind in QWEN:
        patches = pixels(frames, h * w * MERGE**2, 3 * 2 * PATCH**2, generator=generator).flatten(0, 1)
        media = {values: patches, f"{modality}_grid_thw": torch.tensor([[frames, MERGE * h, MERGE * w]])}
        if kind == "qwen2_5_vl" and modality == "video":
            media["second_per_grid_ts"] = torch.tensor([0.4 if frames % 2 else 1.5])
    elif modality == "image" and kind == "llava_onevision":
        media = {
            values: pixels(2, 3, size, size, generator=generator)[None],
            "image_sizes": torch.tensor([[size, size]]),
        }
        media["batch_num_images"] = torch.tensor([1])
    else:
        media = {values: pixels(frames, 3, size, size, generator=generator)}
        if kind in STACKED:
            media[values] = media[values][None]
    grid = (h, w) if kind in QWEN else None
    return Row(kind, spelled, [Visual(modality, frames, tokens, at, grid)], media)


def _spell(kind: str, modality: str, frames: int, h: int, w: int, generator: torch.Generator) -> tuple[int, list[int]]:
    """The tokens of one frame, and the ids of the visual with what the processor writes around it."""
    if kind == "qwen3_vl" and modality == "video":
        spelled = [START]
        for _ in range(frames):
            timestamp = torch.randint(1, WORDS, (3,), generator=generator).tolist()
            spelled += [*timestamp, START, *[VIDEO] * (h * w), END]
        return h * w, [*spelled, END]
    if kind in QWEN:
        return h * w, [START, *[VIDEO if modality == "video" else IMAGE] * (frames * h * w), END]
    side = SIDE[kind]
    if kind == "internvl":
        m = (side // 2) ** 2
        if modality == "image":
            return m, [START, *[IMAGE] * m, END]
        spelled = []
        for i in range(frames):
            number = [WORDS + int(digit) for digit in str(i + 1)]
            spelled += [*[NEWLINE] * (i > 0), FRAME, *number, COLON, START, *[IMAGE] * m, END]
        return m, spelled
    if modality == "image":  # the whole image, and one tile whose rows end in newlines
        m = side**2 + side * (side + 1)
        return m, [IMAGE] * m
    m = ((side + 1) // 2) ** 2
    return m, [VIDEO] * (frames * m + (kind == "llava_onevision"))
