"""Engines of vLLM with the plug-in: greedy answers are, token for token, those of our hooks and of the llava tree.

These need vLLM, which has an environment of its own: ENGINE=vllm makes .venv-vllm, and then
`.venv-vllm/bin/python -m pytest tests/vllm` runs them; -m slow runs the rest. Elsewhere they are skipped.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from itertools import product
from pathlib import Path

import pytest

from eval.models.packaged import DEMO_MODELS
from tests.vllm import tiny, tiny_internvl
from tests.vllm.asked import KINDS, asked_of

pytestmark = pytest.mark.skipif(find_spec("vllm") is None, reason="needs vLLM")

METHODS = (
    *("vidcom2@0.25", "vidcom2.released@0.25", "random@0.25", "uniform@0.25", "dycoke@0.5", "visionzip@0.25"),
    *("evs@0.25", "vcast@0.25"),
)
SOME = (
    *(("qwen3_vl", spec) for spec in ("simplecluster@0.25", "pool.time@0.25", "fresh@0.25")),
    *(("llava_onevision", spec) for spec in ("fresh@0.25", "aot@0.25", "gleanvid@0.25")),
    *(("internvl", spec) for spec in ("unicomp@0.25", "flashvid@0.25")),
    *(("qwen2_vl", "pool.time@0.1"), ("internvl_chat", "grid@0.25")),
)
"""Methods that serve like one above, each with one or two kinds: those that merge, and those that look at the grid."""
QUICK = {("llava_onevision", "vidcom2@0.25"), ("qwen3_vl", "vidcom2@0.25"), ("llava_ov", "vidcom2@0.25")}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tiny")


def checkpoint(kind: str, root: Path) -> Path:
    """A checkpoint of a kind."""
    if kind in ("llava_ov", "llava_video"):
        return DEMO_MODELS["llava-onevision" if kind == "llava_ov" else "llava-video"]
    path = root / kind
    make = tiny_internvl.internvl_chat if kind == "internvl_chat" else getattr(tiny, kind, None)
    return path if path.exists() else make(path)


def served(kind: str, path: Path, spec: str, *flags: str, env: dict[str, str] | None = None) -> list[list]:
    """What `answers.py` prints."""
    command = [sys.executable, "-m", "tests.vllm.answers", kind, str(path), spec, *flags]
    clean = {name: value for name, value in os.environ.items() if name not in ("COMPRESSOR", "R_RATIO")}
    done = subprocess.run(command, capture_output=True, text=True, env=clean | (env or {}))
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


def parameters() -> list:
    """Every kind with every one of METHODS, and SOME. What takes long altogether is slow."""
    return [
        pytest.param(kind, spec, marks=[] if (kind, spec) in QUICK else pytest.mark.slow)
        for kind, spec in (*product(KINDS, ("none", *METHODS)), *SOME)
    ]


@pytest.mark.parametrize(("kind", "spec"), parameters())
def test_answers(kind, spec, checkpoints):
    from tests.vllm.references import answers

    path = checkpoint(kind, checkpoints)
    expected = answers(kind, path, spec)
    got = served(kind, path, spec)
    assert [ids for _, ids in got] == [*expected, *expected]
    if spec != "none":
        assert len({tuple(ids) for ids in expected}) > 1, "the answers say something"


@pytest.mark.slow
@pytest.mark.parametrize("kind", [kind for kind in KINDS if len(asked_of(kind)) > 2])
def test_chunks_through_the_middle_of_a_video(kind, checkpoints):
    path = checkpoint(kind, checkpoints)
    whole = served(kind, path, "vidcom2@0.25")
    chunked = served(kind, path, "vidcom2@0.25", "max_num_batched_tokens=96", "max_num_seqs=4")
    assert chunked == whole


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["qwen3_5", "qwen3_5_moe"])
def test_delta_nets_without_cached_prefixes(kind, checkpoints):
    """By default the second round starts from cached states, which `test_answers` compares."""
    path = checkpoint(kind, checkpoints)
    assert served(kind, path, "vidcom2@0.25", "enable_prefix_caching=false") == served(kind, path, "vidcom2@0.25")


@pytest.mark.slow
def test_the_delta_nets_of_vllm_itself(tmp_path):
    """They are bfloat16 on CPUs, and their heads as wide as the released ones. So only first tokens are compared."""
    from tests.vllm.references import answers

    path = tiny.qwen(tmp_path / "qwen3_5", "qwen3_5", linear_key_head_dim=128, linear_value_head_dim=128)
    expected = answers("qwen3_5", path, "vidcom2@0.25")
    got = served("qwen3_5", path, "vidcom2@0.25", 'dtype="bfloat16"')
    assert [ids[0] for _, ids in got] == [ids[0] for ids in (*expected, *expected)]


@pytest.mark.slow
def test_delta_nets_in_float32_are_refused_on_cpus(checkpoints):
    path = checkpoint("qwen3_5", checkpoints)
    with pytest.raises(AssertionError, match="--dtype float32: vLLM's gated delta nets on CPUs are bfloat16 only"):
        served("qwen3_5", path, "vidcom2@0.25", 'dtype="float32"')
