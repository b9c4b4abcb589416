#!/usr/bin/env bash
# Measure table 4 of the paper again (efficiency of all methods on LLaVA-OneVision, 32 frames); --help explains.
set -euo pipefail
exec bash "$(dirname "${BASH_SOURCE[0]}")/efficiency.sh" --table4 --output outputs/tables "$@"
