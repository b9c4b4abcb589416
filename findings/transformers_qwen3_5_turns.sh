#!/usr/bin/env bash
# Qwen3.5 in transformers: padding between two turns of a chat changes the answer of a row, and no error says so.
#
# Date: 2026-11-28.
# Versions: transformers 5.23.0 and 5.24.0, torch 2.13.0, NumPy 2.2.6.
#
# What happens:
#   The script makes a tiny Qwen3 and a tiny Qwen3.5, both with random weights, and has two chats in one batch. The first
#   turns have the same length. The second ones have 2 and 6 tokens, so the shorter one gets padding on its left, which
#   the attention mask excludes. Both are answered from the cache of the first turns, and then anew without it.
#   Qwen3's logits are those that each chat has alone.
#   Qwen3.5's are so for the longer turn only. The logits of the other are off by more than 0.5, with and without the
#   cache. Half of the tiny model's layers have a recurrent state, and the padding goes through it.
#
# Why it matters: A batch of chats about videos can be asked a second question on one cache where all layers have attention.
#   With Qwen3.5 this goes wrong: a row's answer depends on how long the other rows' questions are.
#
# What you can do: Ask later turns one chat at a time, or process whole chats anew with all padding in front.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
cat > check.py <<'PY'
import sys, torch, transformers
from transformers import Qwen3_5ForCausalLM, Qwen3_5TextConfig, Qwen3Config, Qwen3ForCausalLM

print("transformers", transformers.__version__, "| torch", torch.__version__)
assert transformers.__version__ == sys.argv[1]
shared = dict(
    vocab_size=64, hidden_size=32, intermediate_size=48, num_attention_heads=4, num_key_value_heads=2, head_dim=8,
    bos_token_id=None, eos_token_id=None, pad_token_id=0, tie_word_embeddings=False,
)
torch.manual_seed(0)
models = {
    "Qwen3": Qwen3ForCausalLM(Qwen3Config(num_hidden_layers=2, **shared)),
    "Qwen3.5": Qwen3_5ForCausalLM(Qwen3_5TextConfig(
        num_hidden_layers=4, full_attention_interval=2, linear_key_head_dim=8, linear_value_head_dim=8,
        linear_num_key_heads=2, linear_num_value_heads=4, **shared,
    )),
}
FIRST = [[5, 6, 7, 8, 9, 10], [11, 12, 13, 14, 15, 16]]
SECOND = [[20, 21], [22, 23, 24, 25, 26, 27]]
SETTINGS = dict(do_sample=False, return_dict_in_generate=True, output_logits=True)


def padded(rows):
    longest = max(map(len, rows))
    ids = torch.tensor([[0] * (longest - len(row)) + row for row in rows])
    return ids, torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])


for name, model in models.items():
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.eval()
    ids, mask = padded(FIRST)
    one = model.generate(ids, attention_mask=mask, max_new_tokens=2, **SETTINGS)
    ids, more = padded(SECOND)
    mask = torch.cat([mask, mask.new_ones(2, 2), more], dim=1)
    ids = torch.cat([one.sequences, ids], dim=1)
    both = model.generate(ids, attention_mask=mask, past_key_values=one.past_key_values, max_new_tokens=1, **SETTINGS)
    anew = model.generate(ids, attention_mask=mask, max_new_tokens=1, **SETTINGS)
    for row, (first, said, second) in enumerate(zip(FIRST, one.sequences[:, -2:].tolist(), SECOND, strict=True)):
        alone = torch.tensor([first + said + second])
        right = model.generate(alone, attention_mask=torch.ones_like(alone), max_new_tokens=1, **SETTINGS)
        off = [(found.logits[0][row] - right.logits[0][0]).abs().max().item() for found in (both, anew)]
        print(f"{name}, second turn of {len(second)} tokens:", "off by %.1e with the cache, %.1e without" % tuple(off))
        wrong = name == "Qwen3.5" and len(second) < 6
        assert all((each > 0.5) if wrong else (each < 1e-4) for each in off)
PY
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.2.6
for version in 5.23.0 5.24.0; do
  venv/bin/pip install --quiet --disable-pip-version-check "transformers==$version"
  venv/bin/python check.py "$version"
done
echo confirmed
