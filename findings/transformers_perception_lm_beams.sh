#!/usr/bin/env bash
# PerceptionLM in transformers: with two videos in a prompt, beams get the wrong videos, and no error says so.
#
# Date: 2026-11-28.
# Versions: transformers 5.23.0, torch 2.15.0, torchvision 0.29.2, timm 1.0.31, NumPy 2.2.6.
#
# What happens:
#   The script makes a tiny random model and a prompt with two videos, A and B, of three frames each. It looks at the
#   embeddings that the language model gets where the prompt has the videos.
#   Greedy decoding gives A and then B. With num_beams=2 the first beam gets A twice and the second one B twice.
#   generate() repeats each video on its own for the beams, A, A, B, B, and fills the prompts in this order.
#   With one video in the prompt, each beam gets it.
#
# Why it matters: A question that compares two videos is answered from one of them, and a score says nothing of it.
#
# What you can do: Decode greedily, or with one sample, if a prompt has more than one video.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
cat > check.py <<'PY'
import sys, torch, transformers
from transformers import PerceptionLMConfig, PerceptionLMForConditionalGeneration

print("transformers", transformers.__version__, "| torch", torch.__version__)
assert transformers.__version__ == sys.argv[1]
VIDEO, FRAMES, TOKENS = 61, 3, 4
torch.manual_seed(0)
model = PerceptionLMForConditionalGeneration(PerceptionLMConfig(
    text_config=dict(
        model_type="llama", vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=1, bos_token_id=None, eos_token_id=None, pad_token_id=0,
    ),
    vision_config=dict(
        model_type="timm_wrapper", architecture="vit_pe_core_tiny_patch16_384", do_pooling=True, num_classes=0,
        model_args=dict(
            embed_dim=32, depth=1, num_heads=2, patch_size=4, img_size=[20, 20], ref_feat_shape=[5, 5], global_pool="",
        ),
    ),
    projector_pooling_ratio=2, image_token_id=60, video_token_id=VIDEO, tie_word_embeddings=False,
)).eval()
model.generation_config.pad_token_id = 0
A, B = torch.randn(2, 1, FRAMES, 3, 20, 20)
features = {
    name: model.model.get_image_features(video).pooler_output.flatten(0, 1).detach() for name, video in zip("AB", (A, B))
}
got = []
model.model.language_model.register_forward_pre_hook(
    lambda lm, args, kwargs: got.append(kwargs["inputs_embeds"].detach()), with_kwargs=True
)


def seen(videos, **settings):
    """The names of the videos that each beam gets."""
    got.clear()
    block = [VIDEO] * (FRAMES * TOKENS)
    ids = torch.tensor([[1, *(token for _ in videos for token in [*block, 2])]])
    model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values_videos=torch.cat(videos), max_new_tokens=1,
        do_sample=False, **settings,
    )
    beams = [row[ids[0] == VIDEO].split(len(block)) for row in got[0]]
    found = [
        "".join(name for video in beam for name in "AB" if torch.allclose(features[name], video, atol=1e-5))
        for beam in beams
    ]
    print(f"{len(videos)} videos in the prompt, {settings or 'greedy'}: {found}")
    return found


assert seen([A, B]) == ["AB"]
assert seen([A], num_beams=2) == ["A", "A"]
assert seen([A, B], num_beams=2) == ["AA", "BB"]
PY
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check \
  torch==2.15.0 torchvision==0.29.2 timm==1.0.31 numpy==2.2.6 transformers==5.23.0
venv/bin/python check.py 5.23.0
echo confirmed
