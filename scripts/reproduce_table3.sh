#!/usr/bin/env bash
# Measure table 3 of the paper again (EgoSchema and Perception Test); --help explains.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
reproduce 3 "$@"
