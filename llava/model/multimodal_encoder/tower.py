"""What the SigLIP and the CLIP tower share: geometry, dtype handling, and loading the tower's own weights."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers.integrations import is_deepspeed_zero3_enabled
from transformers.utils import cached_file

from llava.model.checkpoint import readable
from llava.model.multimodal_encoder.vit import VisionConfig, VisionModel

WEIGHT_FILES = (
    "model.safetensors.index.json",
    "model.safetensors",
    "pytorch_model.bin.index.json",
    "pytorch_model.bin",
)
"""Files that may hold a tower's weights, in the order in which they are tried."""


@contextmanager
def gathered(module: nn.Module) -> Iterator[None]:
    """Gather the parameters that DeepSpeed ZeRO-3 has spread over the ranks, for a with-block.

    At the end of the block the values of rank 0 go to all ranks. Without ZeRO-3 nothing happens.

    Args:
        module: The module.
    """
    if not is_deepspeed_zero3_enabled():
        yield
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters(list(module.parameters()), modifier_rank=0):
        yield


class VisionTower(nn.Module):
    """A vision tower: images [N, 3, S, S] -> features [N, tokens, D]. Subclasses choose depth and features.

    Args:
        source: Directory or hub name of the tower's own files.
        config: The tower's geometry.
        layers: How many transformer layers are built.
        used: How many of them run.

    Attributes:
        vision_tower_name: `source`, where `load_model` finds the weights.
        config: The tower's geometry.
        vision_tower: The transformer.
        image_processor: Makes pixels for this tower.
    """

    image_processor: Any

    def __init__(self, source: str, config: VisionConfig, layers: int, used: int):
        super().__init__()
        self.vision_tower_name = source
        self.config = config
        self.vision_tower = VisionModel(config, layers, used)

    @property
    def is_loaded(self) -> bool:
        """Always True, because a tower is built with its model. Callers written for upstream ask for it."""
        return True

    def load_model(self, only: Collection[str] | None = None) -> None:
        """Load weights from the tower's own files at `vision_tower_name`.

        This is needed only if the LLaVA checkpoint does not hold them. Weights of layers and heads that the tower does
        not have are ignored.

        Args:
            only: Names of the weights to load, None for all.

        Raises:
            OSError: If there are no weight files.
            ValueError: If a weight is missing or has another shape, or if the tower is offloaded.
        """
        prefix = "vision_model."  # transformers 5 leaves it out when it saves a bare vision model
        state = {prefix + k.removeprefix(prefix): v for k, v in read_weights(self.vision_tower_name).items()}
        wanted = set(self.vision_tower.state_dict() if only is None else only)
        if missing := sorted(wanted - set(state)):
            raise ValueError(
                f"the files of vision tower {self.vision_tower_name!r} lack {len(missing)} of its weights, "
                f"{missing[0]} for one"
            )
        with gathered(self.vision_tower):
            if any(weight.is_meta for weight in self.vision_tower.parameters()):
                raise ValueError(
                    f"weights of vision tower {self.vision_tower_name!r} are not in the checkpoint, and cannot be read "
                    "into an offloaded tower: give model.vision_tower a device in device_map"
                )
            own = self.vision_tower.state_dict()
            for key in sorted(wanted):
                if state[key].shape != own[key].shape:
                    raise ValueError(
                        f"the files of vision tower {self.vision_tower_name!r} do not fit its config.json: {key} is "
                        f"{[*state[key].shape]} in the file, {[*own[key].shape]} by the config"
                    )
            self.vision_tower.load_state_dict({k: state[k] for k in wanted}, strict=False)

    def forward(self, images: Tensor | list[Tensor]) -> Tensor | list[Tensor]:
        """Encode images.

        Args:
            images: float [N, 3, S, S], or a list of [3, S, S].

        Returns:
            Features [N, tokens, D] in the images' dtype, or a list of [1, tokens, D].
        """
        if isinstance(images, list):
            return [self(image[None]) for image in images]
        offloaded = self.device.type == "meta"  # accelerate's hooks then move the images to the weights
        hidden = self.vision_tower(images.to(None if offloaded else self.device, self.dtype))
        return self.feature_select(hidden).to(images.dtype)

    def feature_select(self, hidden: Tensor) -> Tensor:
        """Choose the features among the hidden states [N, tokens, D]; here all of them."""
        return hidden

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the weights."""
        return self.vision_tower.vision_model.embeddings.patch_embedding.weight.dtype

    @property
    def device(self) -> torch.device:
        """Device of the weights; "meta" if they are offloaded."""
        return self.vision_tower.vision_model.embeddings.patch_embedding.weight.device

    @property
    def hidden_size(self) -> int:
        """Size D of a feature."""
        return self.config.hidden_size

    @property
    def image_size(self) -> int:
        """Side S of an image in pixels."""
        return self.config.image_size

    @property
    def num_patches_per_side(self) -> int:
        """Patches per side of an image."""
        return self.config.num_patches_per_side

    @property
    def num_patches(self) -> int:
        """Patches per image, without a class token."""
        return self.config.num_patches_per_side**2


def read_weights(source: str) -> dict[str, Tensor]:
    """Read all weights of a directory or hub repository, sharded or not.

    Args:
        source: The directory or hub name.

    Returns:
        The weights by name, on the CPU.

    Raises:
        OSError: If there is none of `WEIGHT_FILES`, or a file cannot be read.
    """
    for name in WEIGHT_FILES:
        file = cached_file(source, name, _raise_exceptions_for_missing_entries=False)
        if file is None:
            continue
        if not name.endswith(".index.json"):
            return _read(file)
        shards = sorted(set(json.loads(Path(file).read_text(encoding="utf-8"))["weight_map"].values()))
        return {k: v for shard in shards for k, v in _read(cached_file(source, shard)).items()}
    raise OSError(f"vision tower {source!r} has none of {', '.join(WEIGHT_FILES)}")


def _read(file: Any) -> dict[str, Tensor]:
    with readable(file):
        if file.endswith(".safetensors"):
            return load_file(file)
        return torch.load(file, map_location="cpu", weights_only=True)
