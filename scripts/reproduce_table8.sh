#!/usr/bin/env bash
# Measure table 8 of the paper again (weights of the two scores); --help explains.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
reproduce 8 "$@"
