#!/usr/bin/env bash
# VideoLLaMA 3 in transformers: with its processor's default compression of videos, beams and several samples fail.
#
# Date: 2026-11-28.
# Versions: transformers 5.23.0 and 5.24.0, torch 2.13.0, NumPy 2.2.6.
#
# What happens:
#   By default (use_token_compression=True) the model's processor leaves out tokens of a video that hardly differ from
#   the frame before, and says in video_compression_mask which ones stay.
#   The script makes a tiny random model and the inputs of one video of 4 frames, in the form of this processor: all 24
#   tokens, or 23 and a mask that leaves one out.
#   Greedy decoding answers both. With num_beams=2, or with num_return_sequences=2, generate() answers the prompt of 24
#   tokens, and raises "torch.cat(): expected a non-empty list of Tensors" for the one of 23.
#   The processor itself is not run here.
#
# Why it matters: By default, each video with such tokens fails as soon as an evaluation uses beams or draws several
#   answers, and the message names no cause.
#
# What you can do: Give the processor use_token_compression=False, or decode one answer at a time.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
cat > check.py <<'PY'
import sys, torch, transformers
from transformers import VideoLlama3Config, VideoLlama3ForConditionalGeneration

print("transformers", transformers.__version__, "| torch", torch.__version__)
assert transformers.__version__ == sys.argv[1]
VIDEO = 61
torch.manual_seed(0)
model = VideoLlama3ForConditionalGeneration(VideoLlama3Config(
    text_config=dict(
        model_type="qwen2", vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=1, bos_token_id=None, eos_token_id=None, pad_token_id=0,
    ),
    vision_config=dict(hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2, patch_size=4),
    image_token_id=60, video_token_id=VIDEO, tie_word_embeddings=False,
)).eval()
model.generation_config.pad_token_id = 0
pixels = torch.randn(4 * 4 * 6, 3 * 4 * 4)
ways = {"greedy": {}, "2 beams": dict(num_beams=2), "2 samples": dict(do_sample=True, num_return_sequences=2)}
for kept in (24, 23):
    mask = torch.ones(24, dtype=torch.bool)
    mask[kept:] = False
    ids = torch.tensor([[1, 2, *[VIDEO] * kept, 3]])
    for way, own in ways.items():
        inputs = dict(
            input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values_videos=pixels, video_compression_mask=mask,
            video_grid_thw=torch.tensor([[4, 4, 6]]), video_merge_sizes=torch.tensor([2]),
        )
        try:
            found = list(model.generate(**inputs, max_new_tokens=2, **own)[:, ids.shape[1] :].shape)
        except (RuntimeError, ValueError) as error:
            found = str(error)
        print(f"{kept} of 24 tokens, {way}: {found}")
        if kept == 24 or way == "greedy":
            assert found == [2 if way == "2 samples" else 1, 2]
        else:
            assert found == "torch.cat(): expected a non-empty list of Tensors"
PY
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.2.6
for version in 5.23.0 5.24.0; do
  venv/bin/pip install --quiet --disable-pip-version-check "transformers==$version"
  venv/bin/python check.py "$version"
done
echo confirmed
