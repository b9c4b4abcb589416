"""From pixels to the LLM's rows: encode, pool, compress, arrange with newlines."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from accelerate.utils import align_module_device
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate, max_pool2d

from llava.model.visual_inputs import Encoded, VisualInput
from llava.model.visual_layout import VisualRows, arrange_image, arrange_video, plain_rows, video_newlines
from vidcom2 import Compressor


class Sight:
    """Mixin of a LLaVA: what it does with images and videos before its language model sees them.

    Attributes:
        config: The model's config.
        compressor: What compresses the videos; None for nothing.
    """

    config: Any
    compressor: Compressor | None

    def get_model(self) -> Any:
        """Return the module that has `mm_projector` and, for "unpad" merging, `image_newline`."""
        raise NotImplementedError

    def get_vision_tower(self) -> Any:
        """Return the vision tower."""
        raise NotImplementedError

    def encode_images(self, images: Tensor) -> Tensor:
        """Run tower and projector: images [N, 3, S, S] -> features [N, tokens, D], in the projector's dtype."""
        features = self.get_vision_tower()(images)
        projector = self.get_model().mm_projector
        # A quantised weight is stored as integers. Their dtype is not the one it computes in.
        dtype = next((p.dtype for p in projector.parameters() if p.is_floating_point()), features.dtype)
        return projector(features.to(dtype))

    @torch.no_grad()
    def encode(self, views: Tensor) -> Encoded:
        """Encode one image or video [V, 3, S, S], to be passed in `images` any number of times."""
        return Encoded(self.encode_images(views))

    def get_2dPool(self, image_feature: Tensor, stride: int = 2) -> Tensor:
        """Shrink each frame's square token grid by `stride`: [T, side·side, D] -> [T, M, D].

        The config's mm_spatial_pool_mode decides: "average" and "max" round the new side down, "bilinear" rounds it up.

        Raises:
            ValueError: If the tokens are not the tower's grid, or if the mode is unknown.
        """
        side = self.get_vision_tower().num_patches_per_side
        if image_feature.shape[1] != side * side:
            raise ValueError(
                f"{image_feature.shape[1]} tokens per frame are not the tower's {side}x{side} grid, so they cannot be "
                "pooled; videos need mm_vision_select_feature=patch"
            )
        x = rearrange(image_feature, "t (y x) d -> t d y x", x=side)
        mode = getattr(self.config, "mm_spatial_pool_mode", None)
        if mode == "average":
            x = avg_pool2d(x, stride)
        elif mode == "max":
            x = max_pool2d(x, stride)
        elif mode == "bilinear":
            x = interpolate(x, size=(math.ceil(side / stride),) * 2, mode="bilinear")
        else:
            raise ValueError(f"mm_spatial_pool_mode={mode!r} is unknown; use average, max or bilinear")
        return rearrange(x, "t d y x -> t (y x) d")

    def no_gradient(self) -> Tensor | float:
        """Return 0, through which all visual weights that learn get a gradient of 0.

        In a batch of text alone they would get none, and DistributedDataParallel would wait for it.
        """
        seen = [getattr(self.get_model(), name, None) for name in ("vision_tower", "mm_projector", "image_newline")]
        weights = [w for part in seen for w in (part.parameters() if isinstance(part, nn.Module) else [part])]
        return sum(w.flatten()[:0].sum() for w in weights if w is not None and w.requires_grad)

    def visual_rows(self, inputs: Sequence[VisualInput]) -> list[VisualRows]:
        """Encode all views in one go, then pool, compress and arrange each input on its own."""
        if not inputs:
            return []
        tower, config = self.get_vision_tower(), self.config
        pixels = [entry.views for entry in inputs if isinstance(entry.views, Tensor)]
        fresh: Iterator[Tensor] = iter(())
        if pixels:
            fresh = iter(self.encode_images(torch.cat(pixels)).split([len(views) for views in pixels]))
        visuals = []
        with align_module_device(self.get_model()):  # where accelerate has offloaded it
            newline = getattr(self.get_model(), "image_newline", None)
        for entry in inputs:
            feature = entry.views.features if isinstance(entry.views, Encoded) else next(fresh)
            if not entry.merge:
                visuals.append(plain_rows(feature.flatten(0, 1)))
            elif entry.modality == "video":
                pooled = self.get_2dPool(feature, getattr(config, "mm_spatial_pool_stride", None) or 2)
                kept = self.compressor.select(pooled) if self.compressor is not None else None
                style = self.compressor.newlines if self.compressor is not None else "released"
                visuals.append(arrange_video(pooled, newline, video_newlines(config), kept, style))
            else:
                visuals.append(arrange_image(feature, newline, config, entry.image_size, tower.image_size))
        return visuals
