"""lmms-eval's own command line on MVBench's tasks, in the two ways that send vLLM real videos; both compress."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from eval.demo.minibench import write_mvbench
from eval.demo.world import TASKS
from tests.eval.run.test_lmms_cli import publish, run_lmms_eval, videos_of
from tests.vllm import tiny
from tests.vllm.test_server import server

pytestmark = [pytest.mark.skipif(find_spec("vllm") is None, reason="needs vLLM"), pytest.mark.slow]

FRAMES = 8


@pytest.fixture(scope="module")
def fetched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MVBench's mini data as on the hub: hub/, to work in, and hf_home/."""
    root, data = tmp_path_factory.mktemp("fetched"), write_mvbench(tmp_path_factory.mktemp("mini"), 1)
    settings = publish("mvbench", data, root / "hub")
    unpacked = root / "hf_home" / settings["dataset_kwargs"]["cache_dir"]
    unpacked.mkdir(parents=True)
    for child in videos_of(data).iterdir():
        (unpacked / child.name).symlink_to(child)
    return root


def test_vllm_generate(fetched, tmp_path, monkeypatch):
    """COMPRESSOR in front of --model vllm_generate: a quarter of the tokens of the videos that lmms-eval sends.

    Of Qwen's models, lmms-eval 0.7.3 sends what vLLM 0.32 wants to Qwen3-VL only.
    """
    import vllm
    from transformers import AutoProcessor

    calls: list[tuple[list[dict[str, Any]], list[Any]]] = []
    generate = vllm.LLM.generate

    def recorded(self: Any, requests: Any, *args: Any, **kwargs: Any) -> Any:
        outputs = generate(self, requests, *args, **kwargs)
        calls.append((requests, outputs))
        return outputs

    monkeypatch.setattr(vllm.LLM, "generate", recorded)
    for name, value in {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "1"}.items():
        monkeypatch.setenv(name, value)
    path = tiny.qwen3_vl(tmp_path / "qwen3_vl")
    arguments = f"model={path},nframes={FRAMES},dtype=float32,max_model_len=4096,enforce_eager=True,max_new_tokens=4"
    results, samples = run_lmms_eval("vllm_generate", arguments, ("mvbench",), fetched, tmp_path / "out", device="")
    assert len(samples) == len(TASKS)
    assert all(f"mvbench_{task}" in results for task in TASKS)
    processor = AutoProcessor.from_pretrained(path)
    asked = [pair for requests, outputs in calls for pair in zip(requests, outputs, strict=True)]
    assert len(asked) == len(TASKS)
    for request, output in asked:
        (video,) = request["multi_modal_data"]["video"]
        frames = video[0] if isinstance(video, tuple) else video
        (grid,) = processor.video_processor([frames], do_sample_frames=False, return_tensors="pt")["video_grid_thw"]
        whole = int(grid.prod()) // 4
        assert output.prompt_token_ids.count(processor.video_token_id) == round(whole / 4)


def test_openai(fetched, tmp_path):
    """lmms-eval's client against scripts/serve.sh: the server reads the videos, and none fails."""
    with server("vidcom2@0.25", fetched.parent, tmp_path / "log", "--trust-request-mm-kwargs") as client:
        arguments = f"model_version=demo,base_url={client.base_url},api_key=none,pass_video_url=True"
        arguments += ",max_frames_num=32,max_retries=1,timeout=120"
        results, samples = run_lmms_eval("openai", arguments, ("mvbench",), fetched, tmp_path / "out", device="")
    assert len(samples) == len(TASKS)
    assert not [sample for sample in samples.values() if "LMMS_EVAL_REQUEST_FAILED" in str(sample["filtered_resps"])]
    scores = [results[f"mvbench_{task}"]["mvbench_accuracy,none"] for task in TASKS]
    assert sum(scores) >= len(TASKS) / 2 * 100, "the demo model answers, so it has seen the videos"
