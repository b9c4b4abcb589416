#!/usr/bin/env bash
# Measure table 6 of the paper again (how frames are ranked); --help explains.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
reproduce 6 "$@"
