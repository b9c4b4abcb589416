#!/usr/bin/env bash
# Measure time and memory from video file to answer, step by step, under several compressors; --help explains.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
environment eval $EVAL_MODULES
python_eval efficiency "$@"
