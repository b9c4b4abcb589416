"""From a LLaVA config to its vision tower. The tower's own config.json decides its kind, not its name."""

from __future__ import annotations

import os
import shutil
from typing import Any

from transformers import PreTrainedConfig

from llava.model.multimodal_encoder.clip_encoder import CLIPVisionTower
from llava.model.multimodal_encoder.siglip_encoder import SigLipVisionTower
from llava.model.multimodal_encoder.tower import VisionTower
from llava.model.multimodal_encoder.vit import VisionConfig

KNOWN_TOWERS: dict[str, dict[str, Any]] = {
    "google/siglip-so400m-patch14-384": {
        "model_type": "siglip_vision_model",
        "hidden_size": 1152,
        "intermediate_size": 4304,
        "num_hidden_layers": 27,
        "num_attention_heads": 16,
        "image_size": 384,
        "patch_size": 14,
    },
    **{
        f"openai/clip-vit-large-patch14{suffix}": {
            "model_type": "clip_vision_model",
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "image_size": size,
            "patch_size": 14,
        }
        for suffix, size in (("", 224), ("-336", 336))
    },
}
"""Vision configs of the published checkpoints' towers, by hub name. These checkpoints hold the tower's weights, so
nothing needs to be downloaded."""


def build_vision_tower(config: Any, **kwargs: Any) -> VisionTower:
    """Build the vision tower that a config names (upstream's `build_vision_tower`).

    The weights are not read here: they come with the LLaVA checkpoint or from `VisionTower.load_model`.

    Args:
        config: A LLaVA config. `mm_vision_tower` (or `vision_tower`) is a directory, a directory inside the checkpoint,
            or a hub name. For CLIP, `mm_vision_select_layer` (-2) and `mm_vision_select_feature` ("patch") choose the
            features.
        **kwargs: Ignored; upstream takes them.

    Returns:
        The tower, whose weights are not loaded yet.

    Raises:
        ValueError: If the config names no tower, the tower is neither SigLIP nor CLIP, or the features do not exist.
        OSError: If the tower's config is not found.
    """
    name = getattr(config, "mm_vision_tower", None) or getattr(config, "vision_tower", None)
    if not name:
        raise ValueError("the config names no vision tower: set mm_vision_tower to a directory or a hub name")
    inside = os.path.join(getattr(config, "_name_or_path", "") or "", name)
    source = inside if os.path.isdir(inside) else name
    vision = VisionConfig.from_dict(_tower_config(source))
    if vision.model_type == "siglip":
        return SigLipVisionTower(source, vision)
    select_layer = getattr(config, "mm_vision_select_layer", -2)
    return CLIPVisionTower(source, vision, select_layer, getattr(config, "mm_vision_select_feature", "patch"))


def keep_tower_config(config: Any, source: str, folder: str | os.PathLike[str]) -> None:
    """Write the tower's config.json into a checkpoint, if the tower's name is that of a directory inside it.

    Args:
        config: The LLaVA config, as for `build_vision_tower`.
        source: Where the tower's config.json is now.
        folder: The checkpoint.
    """
    name = getattr(config, "mm_vision_tower", None) or getattr(config, "vision_tower", None)
    if not os.path.isdir(source) or name in (None, source) or os.path.isabs(name):
        return
    inside = os.path.join(folder, name)
    os.makedirs(inside, exist_ok=True)
    if not os.path.samefile(inside, source):
        shutil.copyfile(os.path.join(source, "config.json"), os.path.join(inside, "config.json"))


def _tower_config(source: str) -> dict[str, Any]:
    if not os.path.isdir(source) and source in KNOWN_TOWERS:
        return KNOWN_TOWERS[source]
    try:
        return PreTrainedConfig.get_config_dict(source)[0]
    except OSError as error:
        raise OSError(
            f"vision tower {source!r} is neither a directory, here or in the checkpoint, nor reachable on the hub: "
            "point mm_vision_tower (overwrite_config) at its files"
        ) from error
