"""Tiny processors of Qwen-Omni, and whole models with a talker."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers as hf
from tokenizers import Tokenizer, models, pre_tokenizers

from tests.vidcom2.hf_tiny import randomise
from tests.vidcom2.kinds.qwen_omni import AUDIO, AUDIO_END, AUDIO_START, MEL_FRAMES, MELS, config
from tests.vidcom2.rows import END, HIDDEN, IMAGE, MERGE, PATCH, ROPE, START, TEXT, VIDEO, VOCAB

SPECIAL = {
    "image": ("<|IMAGE|>", IMAGE),
    "video": ("<|VIDEO|>", VIDEO),
    "audio": ("<|AUDIO|>", AUDIO),
    "vision_bos": ("<|vision_bos|>", START),
    "vision_eos": ("<|vision_eos|>", END),
    "audio_bos": ("<|audio_bos|>", AUDIO_START),
    "audio_eos": ("<|audio_eos|>", AUDIO_END),
}
CHAT = """\
{%- for message in messages %}{%- for part in message.content %}
{%- if part.type == 'video' %}{{ '<|vision_bos|><|VIDEO|><|vision_eos|>' }}{%- else %}{{ part.text }}{%- endif %}
{%- endfor %}{%- endfor %}"""


def tiny_processor(kind: str, patch: int = PATCH) -> Any:
    """Its words are w0, w1 and so on, by their ids; other words are w1."""
    vocab = {f"w{i}": i for i in range(VOCAB)}
    for token, i in SPECIAL.values():
        del vocab[f"w{i}"]
        vocab[token] = i
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="w1"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    named = {f"{name}_token": token for name, (token, _) in SPECIAL.items()}
    fast = hf.PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="w0", extra_special_tokens=named)
    sizes = {"patch_size": patch, "merge_size": MERGE, "temporal_patch_size": 2}
    ears = hf.WhisperFeatureExtractor(feature_size=MELS, chunk_length=MEL_FRAMES // 100)
    whole = hf.Qwen2_5OmniProcessor if kind == "qwen2_5_omni_thinker" else hf.Qwen3OmniMoeProcessor
    return whole(hf.Qwen2VLImageProcessor(**sizes), hf.Qwen2VLVideoProcessor(**sizes), ears, fast, CHAT)


def whole_model(kind: str, **vision: Any) -> Any:
    """vision: Settings of the tower."""
    thinker = config(kind, 2)
    thinker.vision_config.update(vision)
    if kind == "qwen3_omni_moe_thinker":
        return hf.Qwen3OmniMoeForConditionalGeneration._from_config(
            hf.Qwen3OmniMoeConfig(thinker_config=thinker.to_dict(), enable_audio_output=False)
        )
    talker = {**TEXT, "embedding_size": HIDDEN, "head_dim": 12, "rope_parameters": {**ROPE, "mrope_section": [2, 2, 2]}}
    dit = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "head_dim": 8, "emb_dim": 8}
    dit |= {"enc_channels": [8, 8, 8, 8, 24], "enc_emb_dim": 8, "enc_dim": 8, "enc_attention_channels": 4}
    wave = {"dit_config": dit | {"enc_se_channels": 4}, "bigvgan_config": {"upsample_initial_channel": 64}}
    settings = hf.Qwen2_5OmniConfig(thinker_config=thinker.to_dict(), talker_config=talker, token2wav_config=wave)
    model = hf.Qwen2_5OmniForConditionalGeneration._from_config(settings)
    model.speaker_map = {"Chelsie": {"bos_token": 1, "cond": torch.zeros(1), "ref_mel": torch.zeros(1)}}
    return model


def released_model() -> Any:
    """A whole Qwen2.5-Omni with patches of the released size."""
    model = whole_model("qwen2_5_omni_thinker", patch_size=14, window_size=112)
    randomise(model.thinker)
    return model


def make_omni(path: Path) -> Path:
    """Write `released_model` and its processor."""
    released_model().save_pretrained(path)
    tiny_processor("qwen2_5_omni_thinker", 14).save_pretrained(path)
    return path
