"""What the SigLIP and the CLIP tower share: geometry, dtype handling, and loading their own weights."""

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


@contextmanager
def whole(module: nn.Module) -> Iterator[None]:
    """Within, a module whose parameters DeepSpeed ZeRO-3 has spread has all of them; the first process's go to all."""
    if not is_deepspeed_zero3_enabled():
        yield
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters(list(module.parameters()), modifier_rank=0):
        yield


class VisionTower(nn.Module):
    """images [N, 3, S, S] -> features [N, tokens, D]; subclasses bring the depth, the selection and the processor.

    source: directory or hub name of the tower's own files, where `load_model` finds its weights.
    """

    image_processor: Any

    def __init__(self, source: str, config: VisionConfig, layers: int, used: int):
        super().__init__()
        self.vision_tower_name = source
        self.config = config
        self.vision_tower = VisionModel(config, layers, used)

    @property
    def is_loaded(self) -> bool:
        """Always True: a tower is built with its model. Kept because callers written for upstream ask."""
        return True

    def load_model(self, only: Collection[str] | None = None) -> None:
        """Fill the tower from its own files at `vision_tower_name`; `only` names the weights to fill, None for all.

        Needed only where the LLaVA checkpoint does not hold them. Layers and heads that the tower does not
        run are left out. Raises OSError where there are no weights, ValueError where they do not fit or the tower
        is offloaded.
        """
        prefix = "vision_model."  # which transformers 5 leaves out when it saves a bare vision model
        state = {prefix + k.removeprefix(prefix): v for k, v in read_weights(self.vision_tower_name).items()}
        wanted = set(self.vision_tower.state_dict() if only is None else only)
        if missing := sorted(wanted - set(state)):
            raise ValueError(
                f"the files of vision tower {self.vision_tower_name!r} lack {len(missing)} of its weights, "
                f"{missing[0]} for one"
            )
        with whole(self.vision_tower):
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
        if isinstance(images, list):
            return [self(image[None]) for image in images]
        offloaded = self.device.type == "meta"  # then accelerate's hooks bring images to where the weights come
        hidden = self.vision_tower(images.to(None if offloaded else self.device, self.dtype))
        return self.feature_select(hidden).to(images.dtype)

    def feature_select(self, hidden: Tensor) -> Tensor:
        return hidden

    @property
    def dtype(self) -> torch.dtype:
        return self.vision_tower.vision_model.embeddings.patch_embedding.weight.dtype

    @property
    def device(self) -> torch.device:
        return self.vision_tower.vision_model.embeddings.patch_embedding.weight.device

    @property
    def hidden_size(self) -> int:
        return self.config.hidden_size

    @property
    def image_size(self) -> int:
        return self.config.image_size

    @property
    def num_patches_per_side(self) -> int:
        return self.config.num_patches_per_side

    @property
    def num_patches(self) -> int:
        return self.config.num_patches_per_side**2


def read_weights(source: str) -> dict[str, Tensor]:
    """All weights of a local directory or hub repository, sharded or not, safetensors before pickles."""
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
