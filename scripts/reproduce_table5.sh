#!/usr/bin/env bash
# Measure table 5 of the paper again (how tokens are ranked); --help explains.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
reproduce 5 "$@"
