#!/usr/bin/env bash
# Lint, types and the quick tests, also those of vLLM, in an environment of its own. Arguments go to pytest and are for
# one of the two environments: scripts/test.sh -m slow, scripts/test.sh tests/vidcom2, scripts/test.sh tests/vllm -m slow
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
cd "$ROOT"

# test_vllm ARGUMENT...: run the tests of vLLM.
test_vllm() {
    environment_vllm eval,test $EVAL_MODULES pytest xdist hypothesis
    OMP_NUM_THREADS=1 "$PYTHON" -m pytest --numprocesses 2 --dist worksteal "$@"
}

case " $* " in *" tests/vllm"*) test_vllm "$@"; exit ;; esac
environment eval,dev $EVAL_MODULES pytest xdist hypothesis ruff mypy mkdocs mkdocstrings gradio playwright nbclient ipykernel
"$PYTHON" -m ruff check .
"$PYTHON" -m ruff format --check .
"$PYTHON" -m mypy
NO_MKDOCS_2_WARNING=1 "$PYTHON" -m mkdocs build --strict --quiet
"$PYTHON" -m pytest --numprocesses 2 --dist worksteal "$@"
if [ $# = 0 ] && [ "$(uname -sm)" = "Linux x86_64" ]; then
    test_vllm tests/vllm
fi
