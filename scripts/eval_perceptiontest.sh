#!/usr/bin/env bash
# Evaluate a VideoLLM on perceptiontest; --help explains.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
evaluate perceptiontest "$@"
