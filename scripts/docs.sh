#!/usr/bin/env bash
# Build the documentation into site/, warnings as errors. Arguments go to mkdocs build.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
environment docs mkdocs material mkdocstrings
cd "$ROOT"
NO_MKDOCS_2_WARNING=1 "$PYTHON" -m mkdocs build --strict --quiet "$@"
echo "see $ROOT/site/index.html"
