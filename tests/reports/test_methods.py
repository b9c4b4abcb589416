"""Public reports on methods: settings that nothing reads, short videos, state of an earlier sample, batches.

docs/known-reports.md says what the reporters saw.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from eval.demo.encode import write_video
from eval.models.base import Engine
from eval.models.canary import CanaryError, require_sound
from eval.results.sample import Answer
from tests.eval.qwen_tiny import IDS
from tests.odd_videos import noisy_frames
from tests.reports.conftest import LLAVA, QWEN
from tests.vidcom2.hf_tiny import batch, prompt, text, tiny, video
from vidcom2 import METHODS, compressor
from vidcom2.models import hooks

BEFORE = sorted(name for name, method in METHODS.items() if method.stage == "before LLM" and name != "none")
INSIDE = {"fastv": "fastv@0.6:k=1", "pdrop": "pdrop@0.7", "sparsevlm": "sparsevlm@0.6"}
WORDY = {"max_new_tokens": 4, "do_sample": False}


def features(frames: int, tokens: int = 16, seed: int = 0) -> Tensor:
    """Scenes of five frames, float [T, M, 24]."""
    generator = torch.Generator().manual_seed(seed)
    scenes = torch.randn(-(-frames // 5), tokens, 24, generator=generator).repeat_interleave(5, 0)[:frames]
    return scenes + 0.3 * torch.randn(frames, tokens, 24, generator=generator)


# ---- 8: DyCoke 6


@pytest.mark.parametrize(
    ("spec", "other"),
    [
        *[(f"{name}@0.25", f"{name}@0.5") for name in BEFORE],
        ("dycoke.released:merging=0.7", "dycoke.released:merging=0.3"),
        ("fastvid@0.25", "fastvid@0.25:segments=2"),
        ("fastvid@0.25", "fastvid@0.25:stride=2"),
        ("fastvid@0.25", "fastvid@0.25:centre_weight=0.0"),
        ("frames@0.25", "frames@0.25:drop=unique"),
        ("holitom@0.25", "holitom@0.25:tau=0.2"),
        ("random@0.25", "random@0.25:seed=1"),
        ("vidcom2.released@0.25", "vidcom2.released@0.25:channels=0.1"),
        ("vidcom2@0.25", "vidcom2@0.25:tau=1.0"),
        ("vidcom2@0.25", "vidcom2@0.25:frame_score=max"),
        ("vidcom2@0.25", "vidcom2@0.25:frame_weight=0.0"),
        ("vidcom2@0.25", "vidcom2@0.25:rounding=exact"),
        ("vidcom2@0.25", "vidcom2@0.25:similarity=gaussian"),
        ("vidcom2@0.25", "vidcom2@0.25:window=2"),
        ("vidcom2@0.25", "vidcom2@0.25:sign=1"),
        ("vidcom2@0.25", "vidcom2@0.25:video_weight=0.0"),
        ("visionzip@0.25", "visionzip@0.25:dominant=0.2"),
        ("visionzip@0.25", "visionzip@0.25:merge=0"),
    ],
)
def test_dycoke_6_a_setting_changes_what_is_kept(spec, other):
    x = features(12)
    kept, changed = compressor(spec).select(x), compressor(other).select(x)
    same = torch.equal(kept.index, changed.index)
    assert not (same and torch.equal(kept.apply(x), changed.apply(x)))


@pytest.mark.parametrize("name", ["none", *BEFORE, *INSIDE])
def test_dycoke_6_a_setting_that_nothing_reads_is_an_error(name):
    with pytest.raises(ValueError, match="kv_ratio"):
        compressor(f"{name}@0.5:kv_ratio=0.3" if name != "none" else "none:kv_ratio=0.3")


@pytest.mark.parametrize("spec", ["vidcom2@0.25:channels=0.1", "vidcom2@0.25:frame_score=uniform:tau=1.0"])
def test_dycoke_6_a_setting_that_has_no_effect_beside_the_others_is_an_error(spec):
    with pytest.raises(ValueError, match="changes nothing"):
        compressor(spec)


@pytest.mark.parametrize(("spec", "other"), [("fastv@0.6:k=1", "fastv@0.6:k=2"), (INSIDE["pdrop"], "pdrop@0.9")])
def test_dycoke_6_settings_reach_the_layers(spec, other):
    """Rows that each layer of the language model really sees."""
    model, seen = tiny("qwen2_vl", layers=4), []
    inputs = batch([prompt("qwen2_vl", text(3), video(4, 4, 4), text(3))])
    for one in (spec, other):
        seen.append([])
        with compressor(one)(model):
            handles = [
                layer.register_forward_pre_hook(lambda _, args: seen[-1].append(args[0].shape[1]))
                for layer in model.model.language_model.layers
            ]
            model.generate(**inputs, max_new_tokens=1, do_sample=False)
            for handle in handles:
                handle.remove()
    assert len(seen[0]) == len(seen[1]) == 4
    assert seen[0] != seen[1]
    assert all(rows[-1] < rows[0] for rows in seen)


def test_dycoke_6_a_method_that_does_not_run_stops_the_evaluation(monkeypatch):
    """As if a release of transformers no longer called the part that the hooks are on."""
    monkeypatch.setattr(hooks.Hooks, "called", property(lambda self: None))
    with pytest.raises(CanaryError, match="does not drop the tokens that it chose"):
        require_sound.__wrapped__("qwen2_vl", inside=False)


# ---- 9: FastVID 5


@pytest.mark.parametrize("name", BEFORE)
def test_fastvid_5_any_number_of_frames_at_any_ratio(name):
    tokens = 16
    for frames in (1, 2, 3, 31, 33):
        x = features(frames, tokens)
        for retention in (1 / tokens, 0.1, 0.5):
            kept = compressor(name, retention=retention).select(x)
            assert int(kept.budgets.sum()) == len(kept.index) == len(kept.apply(x)) >= 1
            assert len(kept.budgets) == frames
            assert kept.index.diff().gt(0).all()


def test_fastvid_5_its_own_case():
    """Frames of 196 tokens at a tenth, 32 of them and a number that is no multiple of its segments."""
    for frames in (32, 31, 9):
        kept = compressor("fastvid@0.1").select(features(frames, 196))
        assert len(kept.index) / (frames * 196) == pytest.approx(0.1, abs=0.02)


@pytest.mark.parametrize("name", BEFORE)
def test_fastvid_5_nothing_of_an_earlier_video_is_left(name):
    method = compressor(name, retention=0.25)
    videos = [features(32, 16), features(3, 9, seed=1), features(7, 25, seed=2)]
    alone = [compressor(name, retention=0.25).select(x) for x in videos]
    for i in (0, 1, 2, 0, 2, 1):
        again = method.select(videos[i])
        assert torch.equal(again.index, alone[i].index)
        assert torch.equal(again.apply(videos[i]), alone[i].apply(videos[i]))


# ---- 14: lmms-eval 635, 236, 648, transformers 34824, 36100, Qwen3-VL 1463, 1956


def told(answer: Any) -> Answer:
    """All but the times."""
    return dataclasses.replace(answer, seconds={})


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> list[str]:
    """Of different lengths and sizes."""
    folder = tmp_path_factory.mktemp("videos")
    for i, (frames, width) in enumerate([(24, 64), (40, 52)]):
        write_video(folder / f"{i}.mp4", noisy_frames(frames)[:, :, :width], 8)
    return [str(folder / f"{i}.mp4") for i in range(2)]


@pytest.mark.parametrize("kind", [*LLAVA, *QWEN])
def test_lmms_eval_635_a_batch_answers_as_each_alone(kind, engine_of, videos):
    """Every method, in one engine one after the other. So nothing of an earlier method or video is left, either."""
    engine: Engine = engine_of(kind)
    seen = [engine.see(engine.read(file)) for file in videos]
    asked = list(zip(seen, ("What?", "Which of these is it, and why?\nA. one\nB. another"), strict=True))
    generation = WORDY | ({"eos_token_id": IDS["im_end"]} if kind in LLAVA else {})
    texts = set()
    specs = [f"{name}@0.3" for name in BEFORE] if kind in ("onevision", "qwen2_5_vl") else ["vidcom2@0.3"]
    for spec in ("none", *specs, INSIDE["fastv"], INSIDE["sparsevlm"]):
        method = compressor(spec)
        alone = [engine.answer(one, question, generation, method) for one, question in asked]
        together = engine.answer_all(asked, generation, method)
        assert list(map(told, together)) == list(map(told, alone)), spec
        assert method.drops == any(answer.records[0].tokens_after < answer.records[0].tokens_before for answer in alone)
        texts |= {answer.text for answer in alone}
    assert len(texts) > 1
