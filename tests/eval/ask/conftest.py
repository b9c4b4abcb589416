from __future__ import annotations

from pathlib import Path

import pytest

from eval.ask.session import Film, Session, open_session
from eval.models import protocol_for
from eval.models.qwen_protocol import QWEN_PROTOCOLS
from llava.video import FrameSampling
from tests.eval.qwen_tiny import make_qwen

FRAMES = 6


@pytest.fixture(scope="session")
def checkpoints(onevision, llava_video, tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("qwen")
    made = {kind: make_qwen(root, kind) for kind in ("qwen2_vl", "qwen3_vl", "qwen3_5") if kind in QWEN_PROTOCOLS}
    return {"onevision": onevision, "llava_video": llava_video, **made}


@pytest.fixture(scope="session")
def session(request, checkpoints) -> Session:
    """On the checkpoint that a test's parameter names."""
    model = str(checkpoints[request.param])
    return open_session(model, protocol_for(model).sampled(FrameSampling("uniform", max_frames=FRAMES)), "cpu")


@pytest.fixture
def film(session, noise) -> Film:
    return session.watch(str(noise))
