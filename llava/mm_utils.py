"""Images to model input, prompts with image slots to token ids, and stopping at a phrase."""

from __future__ import annotations

import ast
import base64
import math
import re
from collections.abc import Sequence
from io import BytesIO
from typing import Any, overload

import torch
from PIL import Image
from transformers import PreTrainedTokenizerBase, StoppingCriteria

from llava.constants import DEFAULT_IMAGE_TOKEN, IMAGE_TOKEN_INDEX

Size = tuple[int, int]
"""(width, height) in pixels, as PIL has it."""

Pinpoints = str | Sequence[Sequence[int]]
"""`image_grid_pinpoints` of a config: a list of sizes, that list as a string, or "(1x1),...,(6x6)" in tiles."""

RANGE_PATCH_SIZES = (224, 336, 384, 448, 512)


def select_best_resolution(original_size: Size, possible_resolutions: Sequence[Sequence[int]]) -> Size:
    """The resolution that keeps most of the image's pixels, then wastes least; the first one on ties."""
    if not possible_resolutions:
        raise ValueError("there is no resolution to choose from")
    width, height = original_size

    def merit(resolution: Sequence[int]) -> tuple[int, int]:
        scale = min(resolution[0] / width, resolution[1] / height)
        kept = min(int(width * scale) * int(height * scale), width * height)
        return kept, kept - resolution[0] * resolution[1]

    best_width, best_height = max(possible_resolutions, key=merit)
    return best_width, best_height


def _resolutions(pinpoints: Pinpoints | None, patch_size: int) -> list[Size]:
    """The sizes that `pinpoints` stands for. ValueError when it cannot be read."""
    if isinstance(pinpoints, str):
        tiles = re.findall(r"\((\d+)x(\d+)\)", pinpoints)
        if tiles:
            if patch_size not in RANGE_PATCH_SIZES:
                raise ValueError(f"a range of tiles needs a patch size in {RANGE_PATCH_SIZES}, got {patch_size}")
            (first_w, first_h), (last_w, last_h) = (map(int, tile) for tile in (tiles[0], tiles[-1]))
            return [
                (w * patch_size, h * patch_size) for w in range(first_w, last_w + 1) for h in range(first_h, last_h + 1)
            ]
    try:
        listed: Any = ast.literal_eval(pinpoints) if isinstance(pinpoints, str) else pinpoints
        return [(int(width), int(height)) for width, height in listed]
    except (SyntaxError, TypeError, ValueError):
        form = 'a list of [width, height] or a string like "(1x1),...,(6x6)"'
        raise ValueError(f"image_grid_pinpoints must be {form}, got {pinpoints!r}") from None


def get_anyres_image_grid_shape(image_size: Size, grid_pinpoints: Pinpoints, patch_size: int) -> tuple[int, int]:
    """(columns, rows) of the tiles that an image of `image_size` is cut into."""
    width, height = select_best_resolution(image_size, _resolutions(grid_pinpoints, patch_size))
    return width // patch_size, height // patch_size


def resize_and_pad_image(image: Image.Image, target_resolution: Size) -> Image.Image:
    """Fit the image into `target_resolution` keeping its aspect ratio, centred on black."""
    target_w, target_h = target_resolution
    scale_w, scale_h = target_w / image.width, target_h / image.height
    if scale_w < scale_h:
        size = target_w, min(math.ceil(image.height * scale_w), target_h)
    else:
        size = min(math.ceil(image.width * scale_h), target_w), target_h
    canvas = Image.new("RGB", (target_w, target_h))
    canvas.paste(image.resize(size), ((target_w - size[0]) // 2, (target_h - size[1]) // 2))
    return canvas


def expand2square(pil_img: Image.Image, background_color: int | tuple[int, ...]) -> Image.Image:
    """Pad the shorter side with `background_color`, the image in the middle."""
    side = max(pil_img.size)
    if pil_img.size == (side, side):
        return pil_img
    square = Image.new(pil_img.mode, (side, side), background_color)
    square.paste(pil_img, ((side - pil_img.width) // 2, (side - pil_img.height) // 2))
    return square


def divide_to_patches(image: Image.Image, patch_size: int) -> list[Image.Image]:
    """Square tiles, row by row; tiles that stick out of the image are filled with black."""
    return [
        image.crop((left, top, left + patch_size, top + patch_size))
        for top in range(0, image.height, patch_size)
        for left in range(0, image.width, patch_size)
    ]


def process_anyres_image(image: Image.Image, processor: Any, grid_pinpoints: Pinpoints | None) -> torch.Tensor:
    """(1 + tiles, 3, S, S): the whole image squashed to a square, then its tiles row by row."""
    size = processor.size
    if isinstance(size, dict):
        side = size["shortest_edge"] if "shortest_edge" in size else min(size["height"], size["width"])
    else:
        side = min(size)
    best = select_best_resolution(image.size, _resolutions(grid_pinpoints, side))
    tiles = divide_to_patches(resize_and_pad_image(image, best), processor.crop_size["height"])
    return _pixels([image.resize((side, side)), *tiles], processor)


def _pixels(images: list[Image.Image], processor: Any) -> torch.Tensor:
    """(n, 3, S, S) float."""
    return processor.preprocess(images, return_tensors="pt")["pixel_values"]


def process_images(
    images: Sequence[Image.Image], image_processor: Any, model_cfg: Any
) -> torch.Tensor | list[torch.Tensor]:
    """Pixels of every image, as `model_cfg.image_aspect_ratio` asks.

    "anyres" and "anyres_max_<k>" give (1 + tiles, 3, S, S) per image: one tensor with a leading image axis when
    all images have the same number of tiles, else a list. "pad" (to a square in the mean colour) and any other
    name ("square": no care for the aspect ratio) give (n, 3, S, S). Raises ValueError for None, "highres" and
    "crop_split", which are not supported.
    """
    aspect = getattr(model_cfg, "image_aspect_ratio", None)
    if aspect is None or aspect in ("highres", "crop_split"):
        raise ValueError(
            f"image_aspect_ratio {aspect!r} is not supported; use 'anyres', 'anyres_max_<k>', 'pad' or 'square'"
        )
    if aspect == "anyres" or "anyres_max" in aspect:
        pinpoints = getattr(model_cfg, "image_grid_pinpoints", None)
        views = [process_anyres_image(image, image_processor, pinpoints) for image in images]
        same = all(view.shape == views[0].shape for view in views)
        return torch.stack(views) if views and same else views
    if aspect == "pad":
        grey = tuple(int(255 * mean) for mean in image_processor.image_mean)
        images = [expand2square(image.convert("RGB"), grey) for image in images]
    return _pixels(list(images), image_processor)


def load_image_from_base64(image: str | bytes) -> Image.Image:
    """The image in a base64-encoded file."""
    return Image.open(BytesIO(base64.b64decode(image)))


@overload
def tokenizer_image_token(
    prompt: str,
    tokenizer: PreTrainedTokenizerBase,
    image_token_index: int = ...,
    return_tensors: None = None,
    slots: int | None = None,
) -> list[int]: ...
@overload
def tokenizer_image_token(
    prompt: str, tokenizer: PreTrainedTokenizerBase, image_token_index: int = ..., *, return_tensors: str
) -> torch.Tensor: ...
def tokenizer_image_token(
    prompt: str,
    tokenizer: PreTrainedTokenizerBase,
    image_token_index: int = IMAGE_TOKEN_INDEX,
    return_tensors: str | None = None,
    slots: int | None = None,
) -> list[int] | torch.Tensor:
    """Token ids of `prompt` with `image_token_index` for every "<image>", or for the first `slots` of them: what
    stands behind those is text.

    A list, or with return_tensors="pt" an int64 tensor (L,). A BOS that the tokenizer adds stays in front only.
    """
    if return_tensors not in (None, "pt"):
        raise ValueError(f"return_tensors must be None or 'pt', got {return_tensors!r}")
    first, *rest = (
        tokenizer(piece).input_ids for piece in prompt.split(DEFAULT_IMAGE_TOKEN, -1 if slots is None else slots)
    )
    added = 1 if first and first[0] == tokenizer.bos_token_id else 0
    ids = list(first)
    for piece in rest:
        ids += [image_token_index, *piece[added:]]
    return ids if return_tensors is None else torch.tensor(ids, dtype=torch.long)


def get_model_name_from_path(model_path: str) -> str:
    """The last component of a path or hub name; a training checkpoint is named after its run as well."""
    *parents, name = model_path.strip("/").split("/")
    return f"{parents[-1]}_{name}" if name.startswith("checkpoint-") and parents else name


class KeywordsStoppingCriteria(StoppingCriteria):
    """Stops each sequence of a batch once one of the keywords shows up in what the model wrote.

    `input_ids` (B, L) is the prompt, whose own text never counts. Empty keywords are ignored: templates without
    a separator have "" as their stop string, and "" is in every text.
    """

    def __init__(self, keywords: Sequence[str], tokenizer: PreTrainedTokenizerBase, input_ids: torch.Tensor) -> None:
        self.keywords = [keyword for keyword in keywords if keyword]
        self.tokenizer = tokenizer
        self.prompt = input_ids
        self.keyword_ids = [tokenizer(keyword, add_special_tokens=False).input_ids for keyword in self.keywords]
        # A token adds at least one byte, so no spelling of a keyword takes more tokens than it has bytes.
        self.tail = max((len(keyword.encode()) for keyword in self.keywords), default=0)

    def __call__(self, input_ids: torch.Tensor, scores: Any = None, **kwargs: Any) -> torch.Tensor:
        """(B,) bool: which sequences are finished."""
        if not self.keywords:
            return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)
        done = [self._ends(row) for row in self._written(input_ids)[:, -self.tail :].tolist()]
        return torch.tensor(done, dtype=torch.bool, device=input_ids.device)

    def _written(self, ids: torch.Tensor) -> torch.Tensor:
        """`ids` without the prompt, which `generate` leaves out by itself when it started from embeddings."""
        length = self.prompt.shape[1]
        if ids.shape[1] < length:
            return ids
        # Beams and several answers per prompt repeat each row of the prompt.
        prompt = self.prompt.to(ids.device).repeat_interleave(ids.shape[0] // self.prompt.shape[0], dim=0)
        return ids[:, length:] if torch.equal(ids[:, :length], prompt) else ids

    def _ends(self, tail: list[int]) -> bool:
        if any(ids and tail[-len(ids) :] == ids for ids in self.keyword_ids):
            return True
        text = self.tokenizer.decode(tail)
        return any(keyword in text for keyword in self.keywords)
