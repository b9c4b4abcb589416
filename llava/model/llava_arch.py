"""Mixins that make a language model a LLaVA: a vision tower, a projector, and the way from pixels to LLM input rows.

encode -> pool -> compress -> arrange with newlines -> splice into the text -> pad

The models here are `vidcom2.models.llava.SplicingModel`s. That file says what vidcom2 asks of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers.utils import logging

from llava.constants import IGNORE_INDEX, IMAGE_TOKEN_INDEX
from llava.model.checkpoint import load_whole
from llava.model.multimodal_encoder.builder import build_vision_tower, keep_tower_config
from llava.model.multimodal_projector.builder import build_vision_projector
from llava.model.sight import Sight
from llava.model.splice import Padded, pad_rows, splice, spliced_visuals
from llava.model.visual_inputs import has_slot, prompt_ids, used_inputs, visual_inputs
from vidcom2 import Compressor, Record
from vidcom2.models.names import cache_name, cache_of, warn_untested
from vidcom2.models.spliced import Spliced

# The mixins below stand in front of a language model's classes and call their methods with super().
LanguageModel: Any = Any if TYPE_CHECKING else object

warn_untested()
logger = logging.get_logger(__name__)

TOWER_PREFIX = "model.vision_tower.vision_tower."


class LlavaMetaModel(LanguageModel):
    """Mixin for the bare LLM: adds `vision_tower`, `mm_projector` and, for "unpad" merging, `image_newline`.

    Raises:
        ValueError: If the config asks for a resampler.
    """

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
        """Return the vision tower; None for a plain language model."""
        return getattr(self, "vision_tower", None)


class LlavaMetaForCausalLM(Sight, LanguageModel):
    """Mixin to put before the LLM's class: multimodal forward, generate and from_pretrained.

    Attributes:
        compressor: What compresses the videos; None for nothing. `vidcom2` sets it.
        visual_records: One `vidcom2.Record` for each image or video of the latest call, in order. Every call makes
            a new list, and it is empty until the call has put its rows together.
        visual_hooks: Functions that every call with images calls with its prompts, as soon as their rows are put
            together, in the thread that then calls the language model. Append your own to see what is spliced where.
    """

    compressor: Compressor | None = None

    def _assemble(self, model: nn.Module) -> None:
        """Do what is left of a CausalLM's __init__ once its bare model is built."""
        self.model = model
        self.vocab_size = self.config.vocab_size
        self.lm_head = nn.Linear(self.config.hidden_size, self.config.vocab_size, bias=False)
        self.visual_records: list[Record] = []
        self.visual_hooks: list[Callable[[Spliced], None]] = []
        self.post_init()

    def get_model(self) -> Any:
        """Return the language model without its head."""
        return self.model

    def get_vision_tower(self) -> Any:
        """Return the vision tower; None for a plain language model."""
        return self.get_model().get_vision_tower()

    # ---- from pixels to LLM input rows; the beginning is in `Sight`

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

        A single token that is no slot, or that meets a cache with rows (a decoding step), comes back as it is.

        Args:
            input_ids: int64 [B, n].
            position_ids: int64 [B, n] or None. Given ones are numbered anew.
            attention_mask: [B, n], 1 for tokens; None if there is no padding.
            past_key_values: The key-value cache, which is not changed; None for none.
            labels: int64 [B, n] or None.
            images: One entry for each slot: [V, 3, S, S], [3, S, S], or what `encode` made of it. Or a 5-D or 4-D
                tensor. A text-only prompt may have a dummy entry.
            modalities: "image", "video" or "text" (a dummy), for each of `images`.
            image_sizes: (width, height) of each image, needed for images of several tiles.

        Returns:
            (None, position_ids, attention_mask, past_key_values, inputs_embeds [B, L, D], labels). Position ids, mask
            and labels are None unless they were given, or unless the sequence cannot be read without them.

        Raises:
            ValueError: If images, slots and modalities do not match, or for images on a cache with rows, where
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
        # Where prompts differ in length, a mask is needed even if none was given: nothing may attend to padding.
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
        self.visual_records = []  # should this call fail, the records of another one must not be taken for its own
        real = torch.ones_like(input_ids, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
        samples = [ids[keep] for ids, keep in zip(input_ids, real, strict=True)]
        targets = [torch.full_like(ids, IGNORE_INDEX) for ids in samples]
        if labels is not None:
            targets = [line[keep] for line, keep in zip(labels, real, strict=True)]

        inputs = used_inputs(visual_inputs(images, modalities, image_sizes), samples)
        visuals = self.visual_rows(inputs)
        supply = iter(visuals)
        embed = self.get_model().embed_tokens
        rows = [splice(ids, target, supply, embed) for ids, target in zip(samples, targets, strict=True)]

        limit = getattr(self.config, "tokenizer_model_max_length", None)
        padded = pad_rows(rows, padding_side, limit)
        if not visuals and torch.is_grad_enabled():
            padded = replace(padded, embeds=padded.embeds + self.no_gradient())
        starts = [row.starts for row in rows]
        spliced = tuple(spliced_visuals(inputs, visuals, starts, padded, self.compressor))
        self.visual_records = [visual.record for visual in spliced]
        for hook in list(self.visual_hooks):
            hook(Spliced(padded.mask, spliced, padded.cut, labels is not None))
        if any(padded.cut):
            longest = max(len(row.embeds) for row in rows)
            logger.warning(
                f"a sequence of {longest} tokens is cut to tokenizer_model_max_length={limit}: what comes last, often "
                "the question, is lost. Use fewer frames, or a lower retention."
            )
        return padded

    def _keeps_positions(self) -> bool:
        return self.compressor is not None and self.compressor.positions == "original"

    # ---- the language model's own methods, with images

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
        """Run the LLM's forward on a prompt with images. It takes what the LLM's own forward takes, and more.

        Args:
            images: See `prepare_inputs_labels_for_multimodal`, also for `image_sizes` and `modalities`.
            image_sizes: See there.
            modalities: See there.
            past_key_values: The key-value cache, by LLaVA's name.
            cache: The key-value cache, by the name of transformers 5.24 and later.
            dpo_forward: Whether to return (logits, labels), with labels expanded to the visual rows.

        Raises:
            ValueError: If the cache comes by both names, or if a step lacks the positions that it needs under
                positions="original", and for what `prepare_inputs_labels_for_multimodal` refuses.
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
        """Run transformers' generate() on prompts with image slots. It returns the new tokens only.

        Batches may be padded on either side. They are padded on the left before the LLM gets them.

        Args:
            inputs: int64 [B, n], the prompts. They may come as `input_ids` instead.
            images: See `prepare_inputs_labels_for_multimodal`, also for `image_sizes` and `modalities`.
            image_sizes: See there.
            modalities: See there.
            kwargs: What transformers' generate() takes.

        Raises:
            NotImplementedError: For `inputs_embeds`.
            ValueError: If there is no prompt, if it has another shape, or if the cache has rows already, and for what
                `prepare_inputs_labels_for_multimodal` refuses.
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
        """Load a checkpoint as transformers does, but refuse one with missing weights instead of making them up.

        Only the tower's weights may be missing. Then they come from the tower's own files.

        Raises:
            ValueError: If weights are missing, of another shape, or in files that cannot be read.
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

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> None:
        """Write a checkpoint as transformers does, with the tower's config.json if the config means one inside it."""
        super().save_pretrained(save_directory, *args, **kwargs)
        tower = self.get_vision_tower()
        if tower is not None and args[:1] != (False,) and kwargs.get("is_main_process", True):
            keep_tower_config(self.config, tower.vision_tower_name, save_directory)
