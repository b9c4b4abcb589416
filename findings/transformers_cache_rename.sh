#!/usr/bin/env bash
# From transformers 5.24 on, hooks do not find the KV cache under `past_key_values`, and no error says so.
#
# Date: 2026-11-28.
# Versions: transformers 5.23.0 and 5.24.0, torch 2.13.0, NumPy 2.2.6.
#
# What happens:
#   The script makes a tiny random Qwen2 model and generates with it, with the same hooks on both versions.
#   A forward pre-hook on a decoder layer finds the cache in kwargs["past_key_values"] on 5.23.0, at each step.
#   On 5.24.0 that key is not there: the same cache is in kwargs["cache"].
#   A forward pre-hook on the inner model gives it a cache of its own, in kwargs["past_key_values"].
#   On 5.23.0 the model fills that cache. On 5.24.0 it fills the one of generate(), and the hook's stays empty:
#   a FutureWarning says that the new name takes precedence.
#   Neither version raises an error, and the first hook gets no warning. Callers may use the old name until 5.40.
#   The output of a forward has the key `past_key_values` on 5.23.0 and the key `cache` on 5.24.0.
#
# Why it matters: Code that drops visual tokens by hooks keeps masks and positions in step with a shortened cache.
#   If it does not find the cache, the model goes on with wrong masks and still answers.
#
# What you can do: Look up the name in the signature of forward, and fail if it has neither.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
cat > check.py <<'PY'
import sys, torch, transformers
from transformers import DynamicCache, Qwen2Config, Qwen2ForCausalLM

print("transformers", transformers.__version__, "| torch", torch.__version__)
new = sys.argv[1] == "5.24.0"
assert transformers.__version__ == sys.argv[1]
torch.manual_seed(0)
config = Qwen2Config(
    vocab_size=50, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, bos_token_id=None, eos_token_id=None, pad_token_id=0,
)
model = Qwen2ForCausalLM(config).eval()
ids = torch.tensor([[3, 1, 4, 1, 5]])

seen = []
watch = model.model.layers[0].register_forward_pre_hook(
    lambda layer, args, kwargs: seen.append((kwargs.get("past_key_values"), kwargs.get("cache"))), with_kwargs=True
)
out = model.generate(ids, max_new_tokens=3, do_sample=False, return_dict_in_generate=True)
watch.remove()
old_found, new_found = ([pair[i] is not None for pair in seen] for i in (0, 1))
print("a layer's hook finds past_key_values:", old_found, "cache:", new_found)
assert old_found == [not new] * 3 and new_found == [new] * 3

own = DynamicCache(config=config)
give = model.model.register_forward_pre_hook(
    lambda lm, args, kwargs: (args, {**kwargs, "past_key_values": own}), with_kwargs=True
)
model.generate(ids, max_new_tokens=3, do_sample=False)
give.remove()
print("rows in the cache that a hook gave:", own.get_seq_length())
assert own.get_seq_length() == (0 if new else 7)

keys = list(model(ids, use_cache=True).keys())
print("keys of an output:", keys)
assert ("past_key_values" in keys, "cache" in keys) == (not new, new)
PY
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.2.6
for version in 5.23.0 5.24.0; do
  venv/bin/pip install --quiet --disable-pip-version-check "transformers==$version"
  venv/bin/python check.py "$version"
done
echo confirmed
