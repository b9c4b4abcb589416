#!/usr/bin/env bash
# transformers 5 saves the experts of Qwen3-VL's MoE models transposed: what it loaded from the hub's layout, it does not
# write in that layout.
#
# Date: 2026-11-28.
# Versions: transformers 4.57.1 and 5.23.0, torch 2.13.0, NumPy 2.2.6.
#
# What happens:
#   4.57.1 saves a tiny random model. As on the hub, `experts.gate_up_proj` is [experts, hidden, 2 x intermediate], and
#   `experts.down_proj` is [experts, intermediate, hidden].
#   5.23.0 loads this checkpoint, and its logits are those of 4.57.1. It keeps the matrices transposed in memory. It
#   saves the model with save_pretrained, and the matrices in the file are transposed, too: [experts, 2 x intermediate,
#   hidden] and [experts, hidden, intermediate].
#   5.23.0 loads both files. 4.57.1 cannot load the second one, not even with the config that it wrote itself: it reports
#   matrices of the wrong size. If the sizes happened to be equal, nothing could tell the layouts apart.
#
# Why it matters: Who loads a checkpoint, changes it and saves it has a file that older versions refuse. vLLM 0.32
#   expects the hub's layout, too; our tests met that, and this script does not run it.
#
# What you can do: Transpose the last two dimensions of these matrices before you give the file to other programs.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
cat > check.py <<'PY'
import sys, torch, transformers
from safetensors import safe_open
from transformers import Qwen3VLMoeConfig, Qwen3VLMoeForConditionalGeneration as Model

version, step = sys.argv[1:]
print("transformers", transformers.__version__, "| torch", torch.__version__, "|", step)
assert transformers.__version__ == version
EXPERTS, HIDDEN, INTERMEDIATE = 4, 32, 24
text = dict(
    vocab_size=64, hidden_size=HIDDEN, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2,
    num_key_value_heads=1, head_dim=16, num_experts=EXPERTS, num_experts_per_tok=2, moe_intermediate_size=INTERMEDIATE,
    rope_scaling={"rope_type": "default", "mrope_section": [2, 3, 3]},
)
vision = dict(depth=1, hidden_size=32, intermediate_size=48, out_hidden_size=HIDDEN, num_heads=2, deepstack_visual_indexes=[0])
HUB = {"gate_up_proj": [EXPERTS, HIDDEN, 2 * INTERMEDIATE], "down_proj": [EXPERTS, INTERMEDIATE, HIDDEN]}
TURNED = {name: [experts, b, a] for name, (experts, a, b) in HUB.items()}


def shapes(folder):
    with safe_open(f"{folder}/model.safetensors", "pt") as file:
        keys = [key for key in file.keys() if ".experts." in key]
        found = {key.rsplit(".", 1)[1]: list(file.get_slice(key).get_shape()) for key in keys}
    print(f"{folder}/: {found}")
    return found


def logits(model):
    with torch.no_grad():
        return model.eval()(input_ids=torch.arange(8)[None]).logits


if step == "make":
    torch.manual_seed(0)
    model = Model(Qwen3VLMoeConfig(text_config=text, vision_config=vision))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape) * 0.3)
    model.save_pretrained("first")
    torch.save(logits(model), "logits.pt")
    assert shapes("first") == HUB
elif step == "load and save":
    model = Model.from_pretrained("first")
    difference = (logits(model) - torch.load("logits.pt")).abs().max().item()
    print("largest difference of logits from 4.57.1:", f"{difference:.1e}")
    assert difference < 1e-3
    model.save_pretrained("second")
    assert shapes("second") == TURNED
    assert torch.equal(logits(Model.from_pretrained("second")), logits(model))
else:
    try:
        # With the first config: 5.23.0 writes RoPE's settings under a name that 4.57.1 does not know.
        Model.from_pretrained("second", config=Qwen3VLMoeConfig.from_pretrained("first"))
    except RuntimeError as error:
        print("RuntimeError:", " ".join(str(error).split())[:200])
        assert "size mismatch" in str(error)
    else:
        sys.exit("4.57.1 loads what 5.23.0 saved")
PY
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.2.6
install() { venv/bin/pip install --quiet --disable-pip-version-check "transformers==$1"; }
install 4.57.1
venv/bin/python check.py 4.57.1 make
install 5.23.0
venv/bin/python check.py 5.23.0 "load and save"
install 4.57.1
venv/bin/python check.py 4.57.1 "load again"
echo confirmed
