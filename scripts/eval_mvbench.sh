#!/usr/bin/env bash
# MVBench (all 20 tasks) through lmms-eval. Environment variables or flags; flags win:
#   MODEL        --model       checkpoint directory or hub name   [lmms-lab/llava-onevision-qwen2-7b-ov]
#   COMPRESSOR   --compressor  none, or a method and its settings [vidcom2]
#   R_RATIO      --retention   share of visual tokens to keep     [0.25]
#   NUM_GPUS     --num-gpus    processes                          [all visible GPUs; 1 on CPU]
#   OUTPUT       --output      directory for the results          [outputs/mvbench/<model>/<compressor>]
#   LIMIT        --limit       questions per task                 [all]
#   ATTN         --attn        eager, sdpa, flash_attention_2     [the best installed]
#   DATA         --data        local MVBench (json/ and video/)   [the hub's]
#   --demo                     a tiny random model on a tiny MVBench, both made here: no download, no GPU
#   --tasks      some tasks only, such as mvbench_action_count,mvbench_state_change
#   --dtype, --device, --overwrite: see python -m eval run --help
# Writes results.json, samples.jsonl and table.md. Exit status: 0 done; 3 done, but some videos were unreadable (they
# are listed, and count as wrong answers); anything else failed.
set -euo pipefail
case " $* " in *" --help "* | *" -h "*) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0"; exit ;; esac
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
environment eval vidcom2 llava eval lmms_eval decord
exec "$PYTHON" -m eval run --tasks mvbench "$@"
