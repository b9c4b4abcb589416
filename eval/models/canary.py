"""The canary checks that compression works with the installed libraries, before a run.

The hooks depend on names in transformers (vidcom2/models/names.py). A release that renames one need not fail: it can
give dense or wrong answers. So a tiny random model of the run's family answers two compressed prompts of different
lengths in one batch. The same model then recomputes the logits of each prompt plainly: alone, without hooks, without a
KV cache, with the dropped tokens hidden by the attention mask. This takes a second on a CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForImageTextToText

from llava.constants import IMAGE_TOKEN_INDEX
from llava.mm_utils import get_model_name_from_path
from llava.model.builder import FAMILIES, llava_family
from llava.model.checkpoint import checkpoint_config
from vidcom2 import VidCom2
from vidcom2.compressor import Compressor
from vidcom2.methods.fastv import FastV

from ..results.errors import UserError
from ..results.provenance import versions
from .qwen_protocol import QWEN_PROTOCOLS
from .random_weights import PRESETS, TINY_TOWER, write

KINDS = (*FAMILIES, *QWEN_PROTOCOLS)
"""What can be checked: classes of the llava tree, and model types of transformers."""
SIDE, PATCH, HIDDEN = 3, 4, 48
START, END, VIDEO, IMAGE, VOCAB = 90, 91, 92, 93, 96
STEPS = 3
"""New tokens. The prefill gives the first one; the others need the KV cache."""
TOLERANCE = 1e-3
"""Largest difference of float32 logits of about 1. They differ by 1e-5 if all is well."""


class CanaryError(UserError, RuntimeError):
    """Compression does not work with the installed libraries."""


def require_for(model: str, compressors: Iterable[Compressor]) -> None:
    """Check what these compressors do to a model, on a tiny model of its family.

    Args:
        model: Checkpoint directory or hub name.
        compressors: Those of the run. Dense needs no check.

    Raises:
        CanaryError: Compression does not work.
    """
    config = checkpoint_config(model)
    family = config.get("model_type")
    kind = family if family in QWEN_PROTOCOLS else llava_family(config, get_model_name_from_path(model))
    for inside in sorted({chosen.stage == "inside LLM" for chosen in compressors if chosen.drops}):
        require_sound(str(kind), inside)


def require_all() -> None:
    """Check all families, before and inside the LLM. Raises CanaryError."""
    for kind in KINDS:
        for inside in (False, True):
            require_sound(kind, inside)


@lru_cache
def require_sound(kind: str, inside: bool) -> None:
    """Check compressed answers of a tiny model against a plain recomputation.

    Args:
        kind: One of KINDS.
        inside: Check a method inside the LLM (FastV) instead of one before it.

    Raises:
        CanaryError: The model fails, does not drop the chosen tokens, or gives other logits.
    """
    compressor = FastV(0.5, k=1) if inside else VidCom2(0.4, positions="original")
    found = ", ".join(f"{name} {version}" for name, version in versions().items() if version is not None)
    advice = f"Nothing was run. Installed: {found}. requirements.txt lists what is tested"
    try:
        difference = largest_difference(kind, compressor)
    except Exception as error:  # whatever a library raises, the finding is that compression does not work with it
        raise CanaryError(f"{compressor.spec} on a tiny {kind} model fails with {error!r}. {advice}") from error
    if difference == float("inf"):
        raise CanaryError(f"{compressor.spec} on a tiny {kind} model does not drop the tokens that it chose. {advice}")
    if not difference < TOLERANCE:
        raise CanaryError(
            f"{compressor.spec} on a tiny {kind} model gives logits that differ by {difference:.2g} from a plain "
            f"recomputation. {advice}"
        )


@torch.no_grad()
def largest_difference(kind: str, compressor: Compressor) -> float:
    """Return the largest difference between the logits of compressed answers and of the plain recomputation.

    It is infinite if the model did not drop the tokens that the compressor chose.
    """
    with TemporaryDirectory() as folder, torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, prompts = qwen(kind) if kind in QWEN_PROTOCOLS else llava(kind, Path(folder))
        lm = model.model.language_model if kind in QWEN_PROTOCOLS else model.get_model()
        cut = getattr(compressor, "k", 0)  # the first layer without the dropped tokens
        with compressor(model), watched(lm, cut) as short:
            settings = {"max_new_tokens": STEPS, "do_sample": False, "output_logits": True}
            out = model.generate(**together(prompts), **settings, return_dict_in_generate=True)
        left, differences = [], []
        for row, prompt in enumerate(prompts):
            with watched(lm, cut) as dense:
                plain(model, prompt, out.sequences[:0])
            before, whole = (rows[0] for rows in dense[0])  # [L, D] of the first layer, and of the first one cut
            columns = prompt.columns(len(before))
            kept = torch.ones(len(before), dtype=torch.bool)
            if cut:  # the input of the first layer after the cut shows which rows are left
                kept[columns] = torch.cdist(whole[columns].double(), short[0][1][row].double()).amin(dim=1) < TOLERANCE
            else:
                index = compressor.select(before[columns].unflatten(0, (prompt.frames, -1))).index
                kept[columns] = torch.zeros_like(columns, dtype=torch.bool).index_fill(0, index, True)
            left.append(int(kept.sum()))
            if not 0 < kept[columns].sum() < len(columns):
                return float("inf")
            answer = out.sequences[row : row + 1, -STEPS:]
            without = shortened if any(hasattr(layer, "linear_attn") for layer in lm.layers) else masked
            with without(lm.layers[cut:], kept):
                logits = plain(model, prompt, answer[:, :-1])[0, -STEPS:]
            differences.append((logits - torch.stack(out.logits, dim=1)[row]).abs().max())
        return float(max(differences)) if short[0][1].shape[1] == max(left) else float("inf")


def plain(model: Any, prompt: Prompt, answer: Tensor) -> Tensor:
    """Return the logits [1, L, V] of a prompt and the first tokens of its answer [1, n], without a KV cache."""
    ids = torch.cat([prompt.ids, answer[:1]], dim=1) if len(answer) else prompt.ids
    kinds = {"mm_token_type_ids": 2 * (ids == VIDEO).long()} if "video_grid_thw" in prompt.video else {}
    return model(input_ids=ids, attention_mask=torch.ones_like(ids), **kinds, **prompt.video, use_cache=False).logits


@contextmanager
def watched(lm: Any, cut: int) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Collect, for each call, the rows [B, L, D] that enter the first layer and layer `cut`."""
    calls: list[tuple[Tensor, Tensor]] = []
    rows: list[Tensor] = []
    handles = [
        lm.layers[0].register_forward_pre_hook(lambda module, args: rows.append(args[0])),
        lm.layers[cut].register_forward_pre_hook(lambda module, args: calls.append((rows[-1], args[0]))),
    ]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def masked(layers: Any, kept: Tensor) -> Iterator[None]:
    """In the block, rows of these layers attend only to rows that `kept` (bool [L]) marks, and to later ones."""

    def mask(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        rows = args[0].shape[1]
        seen = torch.ones(rows, rows, dtype=torch.bool).tril()
        seen[:, : len(kept)] &= kept
        seen |= torch.eye(rows, dtype=torch.bool)  # softmax over an empty row would give NaN
        return args, {**kwargs, "attention_mask": seen[None, None]}

    handles = [layer.register_forward_pre_hook(mask, with_kwargs=True) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def shortened(layers: Any, kept: Tensor) -> Iterator[None]:
    """In the block, layers get only the rows that `kept` (bool [L]) marks, and later ones. For linear attention."""

    def shorten(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        cos, sin = kwargs["position_embeddings"]  # [1, L, ...], the same in each layer
        stays = torch.ones(cos.shape[1], dtype=torch.bool)
        stays[: len(kept)] = kept
        rows = args[0][:, stays] if layer is layers[0] else args[0]
        kwargs |= {"position_embeddings": (cos[:, stays], sin[:, stays]), "attention_mask": None}
        return (rows, *args[1:]), kwargs

    handles = [layer.register_forward_pre_hook(shorten, with_kwargs=True) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


# ---- tiny models


@dataclass
class Prompt:
    """A prompt with one video.

    Attributes:
        ids: Token ids, int64 [1, n].
        frames: Number of frames T.
        video: The model's arguments for the video.
        columns: Returns the positions of the video's patch tokens, given the number of rows of the language model.
    """

    ids: Tensor
    frames: int
    video: dict[str, Any]
    columns: Callable[[int], Tensor]


def together(prompts: Sequence[Prompt]) -> dict[str, Any]:
    """Return generate()'s arguments for a batch that is padded on the left."""
    longest = max(prompt.ids.shape[1] for prompt in prompts)
    lacking = [longest - prompt.ids.shape[1] for prompt in prompts]
    ids = torch.cat([nn.functional.pad(p.ids, (n, 0)) for p, n in zip(prompts, lacking, strict=True)])
    mask = torch.stack([torch.arange(longest) >= n for n in lacking]).long()
    videos = [prompt.video for prompt in prompts]
    if "images" in videos[0]:
        images = [image for video in videos for image in video["images"]]
        return {"inputs": ids, "attention_mask": mask, "images": images, "modalities": ["video"] * len(images)}
    pixels = {name: torch.cat([video[name] for video in videos]) for name in videos[0]}
    return {"input_ids": ids, "attention_mask": mask, "mm_token_type_ids": 2 * (ids == VIDEO).long(), **pixels}


def qwen(kind: str) -> tuple[Any, list[Prompt]]:
    """Make a tiny model of transformers, and two prompts with a video each."""
    text: dict[str, Any] = {"vocab_size": VOCAB, "hidden_size": HIDDEN, "intermediate_size": 64, "num_hidden_layers": 4}
    text |= {"num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": False}
    text |= {"bos_token_id": None, "eos_token_id": None, "pad_token_id": 0, "head_dim": 12}
    text["rope_parameters"] = {"rope_type": "default", "rope_theta": 1000.0, "mrope_section": [2, 2, 2]}
    vision: dict[str, Any] = {"depth": 2, "num_heads": 4, "patch_size": PATCH}
    vision |= {"temporal_patch_size": 2, "spatial_merge_size": 2}
    if kind == "qwen2_vl":
        vision |= {"embed_dim": 32, "hidden_size": HIDDEN, "mlp_ratio": 2}
    else:
        vision |= {"hidden_size": 32, "intermediate_size": 48, "out_hidden_size": HIDDEN}
    if kind == "qwen2_5_vl":
        vision |= {"window_size": 4 * PATCH, "fullatt_block_indexes": [1]}
    if kind == "qwen3_vl":
        vision |= {"num_position_embeddings": 64, "deepstack_visual_indexes": [0]}
    if kind.startswith("qwen3_5"):
        vision["num_position_embeddings"] = 64
        text |= {"layer_types": ["full_attention", "linear_attention"] * 2, "rms_norm_eps": 0.1}
        text |= {"linear_num_key_heads": 2, "linear_num_value_heads": 4}
        text |= {"linear_key_head_dim": 8, "linear_value_head_dim": 12}
        text["rope_parameters"]["partial_rotary_factor"] = 1.0
    if kind == "qwen3_5_moe":
        text |= {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48}
        text["shared_expert_intermediate_size"] = 48
    ids = {"image_token_id": IMAGE, "video_token_id": VIDEO, "vision_start_token_id": START, "vision_end_token_id": END}
    config = AutoConfig.for_model(kind, text_config=text, vision_config=vision, tie_word_embeddings=False, **ids)
    model = lively(AutoModelForImageTextToText.from_config(config, attn_implementation="sdpa"))
    m = SIDE**2

    def prompt(frames: int, *question: int) -> Prompt:
        if kind.startswith("qwen3"):
            video = [token for t in range(frames) for token in (10 + t, START, *[VIDEO] * m, END)]
        else:
            video = [START, *[VIDEO] * (frames * m), END]
        ids = torch.tensor([[1, 2, 3, *video, *question]])
        pixels = {
            "pixel_values_videos": torch.randn(frames * m * 4, 3 * 2 * PATCH**2),
            "video_grid_thw": torch.tensor([[frames, 2 * SIDE, 2 * SIDE]]),
        }
        return Prompt(ids, frames, pixels, lambda rows: (ids[0] == VIDEO).nonzero()[:, 0])

    return model, [prompt(4, 4, 5), prompt(2, 4, 5, 6, 7, 8)]


def llava(kind: str, folder: Path) -> tuple[Any, list[Prompt]]:
    """Make a tiny model of the llava tree and two prompts. A video's rows and a newline replace one token."""
    tower = folder / "vision_tower"
    tower.mkdir()
    size = 8 * PATCH
    write(tower / "config.json", {**TINY_TOWER, "image_size": size, "patch_size": PATCH})
    config_class, model_class = FAMILIES[kind]
    config = {**PRESETS["tiny"], "num_hidden_layers": 4, "vocab_size": VOCAB, "mm_vision_tower": str(tower)}
    for name in ("architectures", "model_type"):
        config.pop(name)
    ids = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": 0}
    model = lively(model_class._from_config(config_class(**{**config, **ids}), attn_implementation="sdpa"))

    def prompt(frames: int, *question: int) -> Prompt:
        ids = torch.tensor([[1, 2, 3, IMAGE_TOKEN_INDEX, *question]])
        video = {"images": [torch.randn(frames, 3, size, size)], "modalities": ["video"]}
        around = ids.shape[1]  # the video's slot is gone, its newline is there
        return Prompt(ids, frames, video, lambda rows: 3 + torch.arange(rows - around))

    return model, [prompt(4, 4, 5), prompt(2, 4, 5, 6, 7, 8)]


def lively(model: Any) -> Any:
    """With weights that keep the scale of what passes through, so that a wrong mask or position shows."""
    for name, weight in model.named_parameters():
        if weight.ndim > 1:
            scale = 0.5 if "embed" in name and "patch" not in name else 1.5 / weight[0].numel() ** 0.5
            nn.init.normal_(weight, std=scale)
    model.generation_config.eos_token_id = None
    return model.eval()
