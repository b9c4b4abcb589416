#!/usr/bin/env bash
# Measure figure 5 of the paper again (VidCom²'s frame budgets for other methods); --help explains.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
reproduce figure5 "$@"
