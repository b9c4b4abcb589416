"""Answers of an engine of vLLM with the plug-in, as JSON. The engine tests start this in a process of its own.

python -m tests.vllm.answers KIND CHECKPOINT SPEC [FLAG=VALUE]...
"""

from __future__ import annotations

import json
import os
import sys

from tests.vllm import delta
from tests.vllm.asked import QWEN, TOKENS, asked_of, media, metadata, prompt


def main(kind: str, checkpoint: str, spec: str, *flags: str) -> None:
    """Print a line of JSON: for each prompt its length and the ids of its answer."""
    from vllm import LLM, SamplingParams

    options = {name: json.loads(value) for name, value in (flag.split("=", 1) for flag in flags)}
    if kind.startswith("qwen3_5") and "dtype" not in options:
        delta.install()
    options.setdefault("dtype", "float32")
    if kind in QWEN:
        options["mm_processor_kwargs"] = {"do_sample_frames": False}
    requests = []
    for asked in asked_of(kind):
        videos, images = media(kind, asked)
        told = [(video, {**metadata(video), "do_sample_frames": False}) for video in videos] if kind in QWEN else videos
        given = {"video": told, "image": images}
        requests.append({"prompt": prompt(kind, asked), "multi_modal_data": {k: v for k, v in given.items() if v}})
    images = max(asked.images for asked in asked_of(kind))
    llm = LLM(
        model=checkpoint,
        max_model_len=2048,
        enforce_eager=True,
        limit_mm_per_prompt={"video": 2, **({"image": images} if images else {})},
        hf_overrides={"vidcom2": spec},
        trust_remote_code=kind == "internvl_chat",
        **options,
    )
    settings = SamplingParams(temperature=0, max_tokens=TOKENS, ignore_eos=True)
    outputs = [*llm.generate(requests, settings), *llm.generate(requests, settings)]  # the second time from caches
    print(json.dumps([[len(one.prompt_token_ids), list(one.outputs[0].token_ids)] for one in outputs]))


if __name__ == "__main__":
    os.environ.update(
        VLLM_CPU_KVCACHE_SPACE="1", HF_HUB_OFFLINE="1", VLLM_ENABLE_V1_MULTIPROCESSING="0", VLLM_LOGGING_LEVEL="ERROR"
    )
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    main(*sys.argv[1:])
