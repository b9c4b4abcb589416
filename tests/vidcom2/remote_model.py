"""A video model that transformers does not have: a checkpoint brings this file along (trust_remote_code=True).

Its outer part (`model`) encodes the videos, and calls `language_model` with embeddings. That is what hooks need.
"""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn
from transformers import GenerationMixin, PreTrainedConfig, PreTrainedModel, Qwen2Config, Qwen2Model
from transformers.modeling_outputs import CausalLMOutputWithPast


class ClipTellerConfig(PreTrainedConfig):
    model_type = "clip_teller"
    sub_configs: ClassVar = {"text_config": Qwen2Config}

    def __init__(
        self, text_config: Any = None, video_token_id: int = 1, frame_tokens: int = 4, patch: int = 6, **others
    ):
        own = text_config if isinstance(text_config, Qwen2Config) else Qwen2Config(**(text_config or {}))
        self.text_config, self.video_token_id = own, video_token_id
        self.frame_tokens, self.patch = frame_tokens, patch
        super().__init__(**others)


class ClipTellerPreTrainedModel(PreTrainedModel):
    config_class = ClipTellerConfig
    base_model_prefix = "model"


class ClipTellerModel(ClipTellerPreTrainedModel):
    def __init__(self, config: ClipTellerConfig):
        super().__init__(config)
        self.projector = nn.Linear(config.patch, config.text_config.hidden_size)
        self.language_model = Qwen2Model(config.text_config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.embed_tokens

    def forward(
        self,
        input_ids: Tensor,
        pixel_values_videos: Tensor | None = None,
        frames_per_video: Tensor | None = None,
        **others: Any,
    ) -> Any:
        """pixel_values_videos: [frames of all videos, tokens of a frame, patch]."""
        embeds = self.get_input_embeddings()(input_ids)
        if pixel_values_videos is not None:
            features = self.projector(pixel_values_videos).flatten(0, 1)
            embeds = embeds.masked_scatter((input_ids == self.config.video_token_id)[..., None], features)
        return self.language_model(inputs_embeds=embeds, **others)


class ClipTellerForConditionalGeneration(ClipTellerPreTrainedModel, GenerationMixin):
    def __init__(self, config: ClipTellerConfig):
        super().__init__(config)
        self.model = ClipTellerModel(config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        pixel_values_videos: Tensor | None = None,
        frames_per_video: Tensor | None = None,
        use_cache: bool | None = None,
        **others: Any,
    ) -> CausalLMOutputWithPast:
        out = self.model(
            input_ids,
            pixel_values_videos,
            frames_per_video,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            use_cache=use_cache,
        )
        return CausalLMOutputWithPast(logits=self.lm_head(out[0]), past_key_values=out.past_key_values)

    def prepare_inputs_for_generation(self, *args: Any, is_first_iteration: bool = False, **kwargs: Any) -> Any:
        inputs = super().prepare_inputs_for_generation(*args, is_first_iteration=is_first_iteration, **kwargs)
        if not is_first_iteration and kwargs.get("use_cache", True):
            inputs["pixel_values_videos"] = inputs["frames_per_video"] = None
        return inputs


ClipTellerConfig.register_for_auto_class()
ClipTellerForConditionalGeneration.register_for_auto_class("AutoModelForImageTextToText")
