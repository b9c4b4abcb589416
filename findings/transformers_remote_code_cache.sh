#!/usr/bin/env bash
# From transformers 5.24 on, generate() answers wrongly with remote code whose forward takes **kwargs: no error says so.
#
# Date: 2026-11-28.
# Versions: transformers 5.23.0 and 5.24.0, torch 2.13.0, NumPy 2.2.6.
#
# What happens:
#   The script saves a tiny random model with its code, and loads it with trust_remote_code=True. The code's forward
#   has the parameter `past_key_values`, gives it to a Qwen2Model, and takes other arguments by **kwargs.
#   5.23.0 calls it with the whole prompt and then with one token at a time, each time with the cache in
#   `past_key_values`. The answer is the one that the model gives without a cache.
#   5.24.0 gives the cache as `cache`. It goes into **kwargs, where this code does not look, and still each later call
#   has one token only. The model answers each token with nothing before it, and says other tokens than on 5.23.0.
#   Without a cache, 5.24.0 gives the answer of 5.23.0. The warnings speak of a deprecated name and not of the answer.
#
# Why it matters: Many video models come with code of their own, written for `past_key_values`. A newer transformers
#   can change their answers and scores, and nothing stops.
#
# What you can do: Compare a few answers with those of use_cache=False, or stay on the version the code was made for.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
cat > model_code.py <<'PY'
from transformers import GenerationMixin, PreTrainedModel, Qwen2Config, Qwen2Model
from transformers.modeling_outputs import CausalLMOutputWithPast
from torch import nn


class Config(Qwen2Config):
    model_type = "remote_example"


class Model(PreTrainedModel, GenerationMixin):
    config_class = Config

    def __init__(self, config):
        super().__init__(config)
        self.model = Qwen2Model(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def forward(self, input_ids, attention_mask=None, position_ids=None, past_key_values=None, use_cache=None, **kwargs):
        out = self.model(
            input_ids, attention_mask=attention_mask, position_ids=position_ids, past_key_values=past_key_values,
            use_cache=use_cache,
        )
        return CausalLMOutputWithPast(logits=self.lm_head(out[0]), past_key_values=out.past_key_values)
PY
cat > check.py <<'PY'
import sys, torch, transformers
from pathlib import Path
from transformers import AutoModelForCausalLM

print("transformers", transformers.__version__, "| torch", torch.__version__)
new = sys.argv[1] == "5.24.0"
assert transformers.__version__ == sys.argv[1]
torch.manual_seed(0)
if not Path("model/config.json").exists():
    from model_code import Config, Model
    Config.register_for_auto_class()
    Model.register_for_auto_class("AutoModelForCausalLM")
    Model(Config(
        vocab_size=50, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, bos_token_id=None, eos_token_id=None, pad_token_id=0, initializer_range=0.5,
    )).save_pretrained("model")

model = AutoModelForCausalLM.from_pretrained("model", trust_remote_code=True).eval()
assert type(model).__module__.startswith("transformers_modules.")
ids = torch.tensor([[3, 1, 4, 1, 5]])
seen = []
model.register_forward_pre_hook(
    lambda model, args, kwargs: seen.append((kwargs["input_ids"].shape[1], *(
        name for name in ("past_key_values", "cache") if kwargs.get(name) is not None
    ))),
    with_kwargs=True,
)
said = model.generate(ids, max_new_tokens=6, do_sample=False)[0, 5:].tolist()
print("tokens and cache of each call:", seen)
name = "cache" if new else "past_key_values"
assert seen == [(5, name), *[(1, name)] * 5]
whole = model.generate(ids, max_new_tokens=6, do_sample=False, use_cache=False)[0, 5:].tolist()
print("answer:", said, "| without a cache:", whole)
assert (said == whole) == (not new)

before = "right.pt"
if new:
    assert torch.load(before) == whole
else:
    torch.save(whole, before)
PY
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.2.6
for version in 5.23.0 5.24.0; do
  venv/bin/pip install --quiet --disable-pip-version-check "transformers==$version"
  HF_HOME="$work/hub" venv/bin/python check.py "$version"
done
echo confirmed
