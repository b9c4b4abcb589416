#!/usr/bin/env bash
# Lint, types and the quick tests. Arguments go to pytest: scripts/test.sh -m slow, scripts/test.sh tests/vidcom2
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
environment eval,dev $EVAL_MODULES pytest xdist hypothesis ruff mypy mkdocs mkdocstrings
cd "$ROOT"
"$PYTHON" -m ruff check .
"$PYTHON" -m ruff format --check .
"$PYTHON" -m mypy
NO_MKDOCS_2_WARNING=1 "$PYTHON" -m mkdocs build --strict --quiet
exec "$PYTHON" -m pytest --numprocesses 2 --dist worksteal "$@"
