#!/usr/bin/env bash
# In transformers 5, text behind a long video gets positions that the video's own tokens have, and no error says so.
#
# Date: 2026-11-28.
# Versions: transformers 4.57.1, 5.23.0 and 5.24.0, torch 2.13.0, NumPy 2.2.6.
#
# What happens:
#   The script makes tiny Qwen2-VL and Qwen2.5-VL models and asks get_rope_index for the mRoPE positions of a prompt:
#   a word, the start of a video, the video, its end, a word. The video has 8 steps in time, 2 rows and 3 columns.
#   4.57.1 counts on behind the largest position of the video. Its last step in time has 9, and what follows 10 and 11.
#   5.23.0 and 5.24.0 count on behind its rows and columns only: what follows has 5 and 6. Five of the eight steps have
#   a time position as large as the first of these, or larger.
#   Where a video has no more steps than rows or columns, all versions agree.
#
# Why it matters: One checkpoint gets other positions for one video from transformers 4 than from transformers 5, so
#   its answers may differ. The source of vLLM 0.32 counts as transformers 4.57.1 does; this script does not run it.
#
# What you can do: Say with a score which version computed the positions. To compare two engines to the token, use
#   videos with no more steps in time than rows or columns.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
cat > check.py <<'PY'
import inspect, sys, torch, transformers
from transformers import (
    Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2VLConfig, Qwen2VLForConditionalGeneration,
)

print("transformers", transformers.__version__, "| torch", torch.__version__)
assert transformers.__version__ == sys.argv[1]
old = sys.argv[1] == "4.57.1"
VISION_START, VISION_END, IMAGE, VIDEO = 50, 51, 52, 53
text = dict(
    vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2,
    num_key_value_heads=1, rope_scaling={"type": "mrope", "rope_type": "default", "mrope_section": [2, 3, 3]},
)
ids = dict(
    image_token_id=IMAGE, video_token_id=VIDEO, vision_start_token_id=VISION_START, vision_end_token_id=VISION_END,
)
kinds = {
    "Qwen2-VL": (Qwen2VLForConditionalGeneration, Qwen2VLConfig, dict(depth=1, embed_dim=32, hidden_size=32, num_heads=2)),
    "Qwen2.5-VL": (
        Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLConfig,
        dict(depth=1, hidden_size=32, intermediate_size=48, out_hidden_size=32, num_heads=2, tokens_per_second=1),
    ),
}


def positions(kind, steps):
    """The time positions of a prompt: a word, start, the video of 2 rows and 3 columns, end, a word."""
    model_class, config_class, vision = kinds[kind]
    model = model_class(config_class(text_config=text, vision_config=vision, **ids))
    prompt = torch.tensor([[1, VISION_START, *[VIDEO] * (steps * 6), VISION_END, 2]])
    given = dict(video_grid_thw=torch.tensor([[steps, 4, 6]]), attention_mask=torch.ones_like(prompt))
    parameters = inspect.signature(model.model.get_rope_index).parameters
    if "mm_token_type_ids" in parameters:
        given["mm_token_type_ids"] = (prompt == VIDEO) * 2
    if "second_per_grid_ts" in parameters:
        given["second_per_grid_ts"] = torch.tensor([1.0])
    return model.model.get_rope_index(prompt, **given)[0][0, 0].tolist()


for kind in kinds:
    for steps in (3, 8):
        found = positions(kind, steps)
        video, behind = found[2:-2], found[-2:]
        print(f"{kind}, {steps} steps: last step at {max(video)}, text behind it at {behind}")
        assert max(video) == 1 + steps
        after = 2 + (max(steps, 3) if old else 3)
        assert behind == [after, after + 1]
PY
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.2.6
for version in 4.57.1 5.23.0 5.24.0; do
  venv/bin/pip install --quiet --disable-pip-version-check "transformers==$version"
  venv/bin/python check.py "$version"
done
echo confirmed
