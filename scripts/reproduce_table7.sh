#!/usr/bin/env bash
# Measure table 7 of the paper again (frames per window); --help explains.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
reproduce 7 "$@"
