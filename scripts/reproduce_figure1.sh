#!/usr/bin/env bash
# Measure figure 1 of the paper again (unique or redundant frames dropped); --help explains.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
environment eval $EVAL_MODULES
python_eval frame-drop --tasks mvbench "$@"
