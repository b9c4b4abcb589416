#!/usr/bin/env bash
# Measure table 2 of the paper again (all methods on LLaVA-OneVision and LLaVA-Video); --help explains.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
reproduce 2 "$@"
