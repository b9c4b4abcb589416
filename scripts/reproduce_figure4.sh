#!/usr/bin/env bash
# Measure figure 4 of the paper again (Qwen2-VL); --help explains.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
reproduce figure4 "$@"
