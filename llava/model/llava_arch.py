"""What makes a language model a LLaVA: a vision tower, a projector, and the way from pixels to LLM input rows.

encode -> pool -> compress -> arrange with newlines -> splice into the text -> pad
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import align_module_device
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate, max_pool2d
from transformers.utils import logging

from llava.constants import IGNORE_INDEX, IMAGE_TOKEN_INDEX
from llava.model.checkpoint import load_whole
from llava.model.multimodal_encoder.builder import build_vision_tower
from llava.model.multimodal_projector.builder import build_vision_projector
from llava.model.splice import Padded, pad_rows, splice
from llava.model.visual_inputs import Encoded, VisualInput, has_slot, prompt_ids, used_inputs, visual_inputs
from llava.model.visual_layout import VisualRows, arrange_image, arrange_video, plain_rows, video_newlines
from vidcom2 import Compressor, Record
from vidcom2.models.names import cache_name, cache_of, warn_untested

# The mixins below stand in front of a language model's classes and call their methods with super().
LanguageModel: Any = Any if TYPE_CHECKING else object

warn_untested()
logger = logging.get_logger(__name__)

TOWER_PREFIX = "model.vision_tower.vision_tower."


class LlavaMetaModel(LanguageModel):
    """Mixin for the bare LLM: adds `vision_tower`, `mm_projector` and, for "unpad" merging, `image_newline`."""

    def __init__(self, config: Any):
        super().__init__(config)
        if not hasattr(config, "mm_vision_tower") and not hasattr(config, "vision_tower"):
            return
        if getattr(config, "mm_resampler_type", None) is not None:
            raise ValueError(f"mm_resampler_type={config.mm_resampler_type!r} is not supported; only null is")
        self.vision_tower = build_vision_tower(config)
        self.mm_projector = build_vision_projector(config)
        if "unpad" in getattr(config, "mm_patch_merge_type", "flat"):
            self.image_newline = nn.Parameter(torch.randn(config.hidden_size) / math.sqrt(config.hidden_size))

    def get_vision_tower(self) -> Any:
        return getattr(self, "vision_tower", None)


class LlavaMetaForCausalLM(LanguageModel):
    """Mixin, to stand before the LLM's class: multimodal forward, generate and from_pretrained.

    compressor: what compresses the videos; set by `vidcom2`, not by hand.
    visual_records: one `vidcom2.Record` per image or video of the latest prompt.
    """

    compressor: Compressor | None = None

    def _assemble(self, model: nn.Module) -> None:
        """What is left of a CausalLM's __init__ once its bare model is built."""
        self.model = model
        self.vocab_size = self.config.vocab_size
        self.lm_head = nn.Linear(self.config.hidden_size, self.config.vocab_size, bias=False)
        self.visual_records: list[Record] = []
        self.post_init()

    def get_model(self) -> Any:
        return self.model

    def get_vision_tower(self) -> Any:
        return self.get_model().get_vision_tower()

    # ---- from pixels to LLM input rows

    def encode_images(self, images: Tensor) -> Tensor:
        """Tower and projector: [N, 3, S, S] -> [N, tokens, D], in the projector's dtype."""
        features = self.get_vision_tower()(images)
        projector = self.get_model().mm_projector
        # A quantised weight is stored as integers, which say nothing about the dtype it computes in.
        dtype = next((p.dtype for p in projector.parameters() if p.is_floating_point()), features.dtype)
        return projector(features.to(dtype))

    @torch.no_grad()
    def encode(self, views: Tensor) -> Encoded:
        """One image or video [V, 3, S, S] through tower and projector, to be passed in `images` any number of times."""
        return Encoded(self.encode_images(views))

    def get_2dPool(self, image_feature: Tensor, stride: int = 2) -> Tensor:
        """Shrink each frame's square token grid by `stride`: [T, side*side, D] -> [T, M, D].

        mm_spatial_pool_mode average and max floor the new side, bilinear rounds it up. Raises ValueError for others.
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

    def prepare_inputs_labels_for_multimodal(
        self,
        input_ids: Any,
        position_ids: Tensor | None,
        attention_mask: Tensor | None,
        past_key_values: Any,
        labels: Tensor | None,
        images: Any,
        modalities: str | Sequence[str] = ("image",),
        image_sizes: Sequence[tuple[int, int]] | None = None,
    ) -> tuple[Any, ...]:
        """Replace the image slots (IMAGE_TOKEN_INDEX) of input_ids [B, n] by visual rows.

        images: a list with one [V, 3, S, S] or [3, S, S] tensor, or what `encode` made of it, per slot; or a 5-D or
        4-D tensor of images; a text-only sample may have a dummy entry. modalities: "image", "video" or "text" (a
        dummy), for each of `images`.
        Returns (None, position_ids, attention_mask, past_key_values, inputs_embeds [B, L, D], labels). Position ids,
        mask and labels come back only if they were given, or if the sequence cannot be read without them.

        A single token that is no slot, or that meets a cache with rows (a decoding step), comes back as it is.

        Raises ValueError where images, slots and modalities do not match, and for images on a cache with rows where
        positions or a mask must go on from it.
        """
        continues = past_key_values is not None and bool(past_key_values.get_seq_length() > 0)
        step = input_ids.shape[1] == 1 and (continues or not has_slot(input_ids))
        if self.get_vision_tower() is None or images is None or step:
            if not step and has_slot(input_ids):
                raise ValueError(
                    f"the prompt has image slots (token {IMAGE_TOKEN_INDEX}) but no images came, or the model has no "
                    "vision tower: pass images, one for each slot"
                )
            return input_ids, position_ids, attention_mask, past_key_values, None, labels
        if continues and (position_ids is not None or attention_mask is not None or self._keeps_positions()):
            raise ValueError(
                "images on a key-value cache with rows take their positions from the cache: pass neither position_ids "
                "nor attention_mask, nor use positions='original'; or pass the whole chat without a cache"
            )
        side = "left" if getattr(self.config, "tokenizer_padding_side", "right") == "left" else "right"
        padded = self._multimodal_rows(input_ids, attention_mask, labels, images, modalities, image_sizes, side)
        # A mask nobody asked for is needed where rows differ in length, or padding would be attended to.
        mask = padded.mask if attention_mask is not None or not padded.mask.all() else None
        if mask is not None and attention_mask is not None:
            mask = mask.to(attention_mask.dtype)
        if self._keeps_positions():
            position_ids = padded.position
        elif position_ids is not None:
            position_ids = (padded.mask.long().cumsum(1) - 1).clamp_min(0).to(position_ids.dtype)
            position_ids = position_ids * padded.mask
        return (
            None,
            position_ids,
            mask,
            past_key_values,
            padded.embeds,
            padded.labels if labels is not None else None,
        )

    def _multimodal_rows(
        self,
        input_ids: Any,
        attention_mask: Tensor | None,
        labels: Tensor | None,
        images: Any,
        modalities: str | Sequence[str],
        image_sizes: Sequence[tuple[int, int]] | None,
        padding_side: str,
    ) -> Padded:
        self.visual_records = []  # should this fail, no other call's are taken for its own
        real = torch.ones_like(input_ids, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
        samples = [ids[keep] for ids, keep in zip(input_ids, real, strict=True)]
        targets = [torch.full_like(ids, IGNORE_INDEX) for ids in samples]
        if labels is not None:
            targets = [line[keep] for line, keep in zip(labels, real, strict=True)]

        inputs = used_inputs(visual_inputs(images, modalities, image_sizes), samples)
        visuals = self._visual_rows(inputs)
        supply = iter(visuals)
        embed = self.get_model().embed_tokens
        rows = [splice(ids, target, supply, embed) for ids, target in zip(samples, targets, strict=True)]

        limit = getattr(self.config, "tokenizer_model_max_length", None)
        longest = max(len(row.embeds) for row in rows)
        if limit is not None and longest > limit:
            logger.warning(
                f"a sequence of {longest} tokens is cut to tokenizer_model_max_length={limit}: what comes last, often "
                "the question, is lost. Use fewer frames, or a lower retention."
            )
        padded = pad_rows(rows, padding_side, limit)
        records = tuple(self._records(inputs, visuals, [row.starts for row in rows], padded, limit))
        self.visual_records = list(records)
        return replace(padded, records=records)

    def _visual_rows(self, inputs: Sequence[VisualInput]) -> list[VisualRows]:
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

    def _keeps_positions(self) -> bool:
        return self.compressor is not None and self.compressor.positions == "original"

    def _records(
        self,
        inputs: Sequence[VisualInput],
        visuals: Sequence[VisualRows],
        starts: Sequence[Sequence[int]],
        padded: Padded,
        limit: int | None,
    ) -> Iterator[Record]:
        pairs = iter(zip(inputs, visuals, strict=True))
        for sample, sample_starts in enumerate(starts):
            for start in sample_starts:
                entry, visual = next(pairs)
                compressed = self.compressor if entry.merge and entry.modality == "video" else None
                yield Record(
                    sample=sample,
                    modality="video" if entry.modality == "video" else "image",
                    method=compressed.spec if compressed else "none",
                    positions=(compressed.positions or "repack") if compressed else "repack",
                    start=start + padded.shift[sample],
                    frames_before=tuple(before for before, _ in visual.frames),
                    frames_after=tuple(after for _, after in visual.frames),
                    separators_before=visual.separators[0],
                    separators_after=visual.separators[1],
                    cut=max(0, min(start + len(visual.rows) - limit, len(visual.rows))) if limit else 0,
                )

    # ---- the language model's own methods, taught images

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        images: Any = None,
        image_sizes: Any = None,
        modalities: str | Sequence[str] = ("image",),
        dpo_forward: bool = False,
        logits_to_keep: int | Tensor = 0,
        cache: Any = None,
        **kwargs: Any,
    ) -> Any:
        """The LLM's forward; `images` and their kin as in `prepare_inputs_labels_for_multimodal`.

        past_key_values, cache: the key-value cache, by LLaVA's name or by that of transformers 5.24 on.
        dpo_forward returns (logits, labels), labels expanded to the visual rows.
        """
        if past_key_values is not None and cache is not None:
            raise ValueError("past_key_values and cache are two names of the key-value cache: pass one of them")
        past_key_values = cache if past_key_values is None else past_key_values
        if inputs_embeds is None:
            input_ids, position_ids, attention_mask, past_key_values, inputs_embeds, labels = (
                self.prepare_inputs_labels_for_multimodal(
                    input_ids, position_ids, attention_mask, past_key_values, labels, images, modalities, image_sizes
                )
            )
        continues = past_key_values is not None and past_key_values.get_seq_length() > 0
        if continues and self._keeps_positions() and position_ids is None:
            raise ValueError(
                "with positions='original' a step after the prompt cannot count its position from the cache: pass "
                "position_ids (the prompt's last one + 1, + 2, ...), or let generate() do it"
            )
        if attention_mask is None and position_ids is not None and past_key_values is None:
            # Without any mask transformers takes gaps between position ids for borders between packed samples.
            rows: Any = input_ids if inputs_embeds is None else inputs_embeds
            attention_mask = torch.ones(rows.shape[:2], dtype=torch.long, device=rows.device)
        outputs = super().forward(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            labels=None if dpo_forward else labels,
            use_cache=use_cache,
            logits_to_keep=logits_to_keep,
            **{cache_name(super().forward): past_key_values},
            **kwargs,
        )
        return (outputs.logits, labels) if dpo_forward else outputs

    @torch.no_grad()
    def generate(
        self,
        inputs: Tensor | None = None,
        images: Any = None,
        image_sizes: Any = None,
        modalities: str | Sequence[str] = ("image",),
        **kwargs: Any,
    ) -> Any:
        """transformers' generate on a prompt with image slots, `inputs` or `input_ids`; returns the new tokens only.

        Batches may be padded on either side; they are padded on the left before the LLM sees them.
        Raises NotImplementedError for inputs_embeds, ValueError for a prompt that is none and for a cache with rows,
        and what `prepare_inputs_labels_for_multimodal` raises.
        """
        if "inputs_embeds" in kwargs:
            raise NotImplementedError("generate() builds inputs_embeds itself; pass token ids and images")
        inputs = prompt_ids(inputs, kwargs.pop("input_ids", None))
        past = cache_of(kwargs)
        if past is not None and past.get_seq_length() > 0:
            raise ValueError(
                f"generate() takes a whole chat, but a key-value cache of {int(past.get_seq_length())} rows came: "
                "leave it out, or go on with forward()"
            )
        kwargs.pop("position_ids", None)
        images = [] if images is None else images
        mask = kwargs.pop("attention_mask", None)
        padded = self._multimodal_rows(inputs, mask, None, images, modalities, image_sizes, "left")
        if self._keeps_positions():
            kwargs["position_ids"] = padded.position
        return super().generate(inputs_embeds=padded.embeds, attention_mask=padded.mask.long(), **kwargs)

    # ---- weights

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """transformers' from_pretrained, but a weight missing from the checkpoint is an error, not a random number.

        Tower weights alone may be missing; then they come from the tower's own files.
        """
        want_info = kwargs.pop("output_loading_info", False)
        model, info = load_whole(
            super().from_pretrained, pretrained_model_name_or_path, *args, borrowed=TOWER_PREFIX, **kwargs
        )
        tower = [key for key in info["missing_keys"] if key.startswith(TOWER_PREFIX)]
        if tower:
            logger.info(f"{len(tower)} tower weights are not in the checkpoint; reading the tower's own files")
            model.get_vision_tower().load_model(only=[key.removeprefix(TOWER_PREFIX) for key in tower])
        return (model, info) if want_info else model
