"""Public reports on what models are told of time, and on what a score is called.

docs/known-reports.md says what the reporters saw.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from eval.benchmarks.mlvu import MLVU_DEV
from eval.models.qwen import QwenEngine
from eval.results.sample import STAGES, Sample
from eval.results.schema import RunSettings
from eval.results.summary import join_samples, print_summary, summarise, write_results
from tests.odd_videos import encode, noisy_frames
from tests.reports.conftest import FRAMES
from vidcom2 import VidCom2, compressor

# ---- 10: FlashVID 7, lmms-eval 1065, 533, 534, 435


def test_flashvid_7_mlvu_has_both_means_and_its_split(tmp_path, capsys):
    """Six plotQA questions, half of them right, and two needle questions, both right: 75 over types, 62.5 over all."""
    targets = [("plotQA", "A", right) for right in (True, False) * 3] + [("needle", "B", True)] * 2
    logged, ours = [], []
    for i, (kind, answer, right) in enumerate(targets):
        said = answer if right else "D"
        doc = {"video_name": f"{i}.mp4", "question": "What?", "answer": answer, "task_type": kind}
        logged.append(
            {"doc_id": i, "filtered_resps": [said], **MLVU_DEV.harness_utils().mlvu_process_results(doc, [said])}
        )
        ours.append(
            Sample("mlvu_dev", i, f"{i}.mp4", "prompt", said, None, 4, 2.0, 100, 25, dict.fromkeys(STAGES, 0.5))
        )
    told = RunSettings({"model": "m", "compressor": "c", "sampling": "s", "dtype": "d", "attention": "a"}, processes=1)
    lines = join_samples(MLVU_DEV, {"mlvu_dev": logged}, ours)
    summary = summarise(MLVU_DEV, lines, told)
    assert (summary.scores.macro, summary.scores.micro) == (75, 62.5)
    write_results(tmp_path, summary, lines)
    written = json.loads((tmp_path / "results.json").read_text())
    assert (written["scores"]["macro"], written["scores"]["micro"]) == (75, 62.5)
    assert {line["task"] for line in map(json.loads, (tmp_path / "samples.jsonl").read_text().splitlines())} == {
        "mlvu_dev"
    }
    print_summary(Console(width=200), summary)
    printed = capsys.readouterr().out
    assert "overall: macro average, mean over categories; micro average, over all questions: 62.5" in printed


# ---- 11: lmms-eval 1260, 1393, Qwen3-VL 1031. 12: lmms-eval 1244, 1404


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("clips")
    for name, ticks in TICKS.items():
        encode(folder / f"{name}.mp4", noisy_frames(len(ticks)), ticks=ticks, reordered=0)
    return {name: folder / f"{name}.mp4" for name in TICKS}


TICKS = {
    "half a second": range(0, 120, 10),
    "10 seconds": range(0, 2400, 10),
    "an hour": range(0, 240 * 3600, 2400),
    "uneven": [*range(0, 240, 10), *range(240, 4800, 480)],
}
"""When each frame of a clip is shown, in 1/240 s. The hour has a frame every 10 s, the first two clips 24 a second."""
LENGTHS = {"half a second": 0.5, "10 seconds": 10, "an hour": 3600}


def processed(engine: QwenEngine, path: Path) -> Any:
    """The model's inputs for a question."""
    return engine._prepare(engine.see(engine.read(str(path))), "When?")[1]


@pytest.mark.parametrize("name", LENGTHS)
def test_lmms_eval_1260_qwen2_5_is_told_the_sampled_rate(name, clips, engine_of):
    """Seconds of a step are those of two sampled frames, and not those of two frames of the file."""
    engine = engine_of("qwen2_5_vl")
    inputs = processed(engine, clips[name])
    step = 2 * LENGTHS[name] / FRAMES
    assert inputs["video_grid_thw"][0, 0] == FRAMES // 2
    assert [float(seconds) for seconds in inputs["second_per_grid_ts"]] == pytest.approx([step], rel=0.01)
    positions, _ = engine.model.model.get_rope_index(
        inputs["input_ids"], inputs["mm_token_type_ids"], None, inputs["video_grid_thw"],
        second_per_grid_ts=inputs["second_per_grid_ts"], attention_mask=inputs["attention_mask"],
    )  # fmt: skip
    times = positions[0, 0][inputs["input_ids"][0] == engine.model.config.video_token_id]
    rate = engine.model.config.vision_config.tokens_per_second
    expected = [int(i * rate * step) for i in range(FRAMES // 2)]
    assert (times - times[0]).unique().tolist() == pytest.approx(sorted(set(expected)), abs=0.01 * max(expected) + 1)
    assert (times.diff() >= 0).all()


@pytest.mark.parametrize("name", [*LENGTHS, "uneven"])
@pytest.mark.parametrize("compressed", [False, True])
def test_lmms_eval_1244_qwen3_is_told_when_its_frames_are_shown(name, compressed, clips, engine_of):
    """Each step has one stamp, at the middle of its two frames. Dropping tokens drops none of the text between them."""
    engine = engine_of("qwen3_vl")
    inputs = processed(engine, clips[name])
    ids = inputs["input_ids"][0]
    stamps = [float(stamp) for stamp in re.findall(r"<([\d.]+) seconds>", engine.processor.decode(ids))]
    last = len(TICKS[name]) - 1
    shown = [TICKS[name][round(i * last / (FRAMES - 1))] / 240 for i in range(FRAMES)]
    middles = [(a + b) / 2 for a, b in zip(shown[::2], shown[1::2], strict=True)]
    assert stamps == pytest.approx(middles, abs=0.0501)
    words = ids[ids != engine.model.config.video_token_id]
    expected = engine.model.get_input_embeddings()(words)
    seen: list[torch.Tensor] = []
    lm = engine.model.model.language_model
    handle = lm.layers[0].register_forward_pre_hook(lambda _, args: seen.append(args[0][0].clone()))
    method = VidCom2(0.25) if compressed else compressor("none")
    with method(engine.model) as run, torch.no_grad():
        engine.model.generate(**inputs, max_new_tokens=1, do_sample=False)
    handle.remove()
    patches = int((ids == engine.model.config.video_token_id).sum())
    kept = sum(run.records[0].frames_after) if compressed else patches
    assert len(seen[0]) == len(words) + kept
    assert (kept < patches / 2) == compressed
    rows = iter(seen[0])
    assert all(any(torch.equal(row, word) for row in rows) for word in expected)


def test_qwen3_vl_1031_no_two_steps_share_a_time(clips, engine_of):
    """Of half a second at 24 frames per second, which is far above two a second."""
    inputs = processed(engine_of("qwen2_5_vl"), clips["half a second"])
    assert float(inputs["second_per_grid_ts"][0]) == pytest.approx(1 / 6, rel=0.01)
    engine = engine_of("qwen3_vl")
    text = engine.processor.decode(processed(engine, clips["half a second"])["input_ids"][0])
    stamps = re.findall(r"<([\d.]+) seconds>", text)
    assert len(set(stamps)) == len(stamps) == FRAMES // 2
