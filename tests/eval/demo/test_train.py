from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from eval.demo.training.batches import QUESTIONS, BatchSampler, patch_labels
from eval.demo.training.losses import answer_loss, video_pass
from eval.demo.training.model import BASE_LAYERS, LAYERS, build_model
from eval.demo.training.plan import Lesson, Plan
from eval.demo.training.tokenizer import WORDS, build_tokenizer
from eval.demo.training.train import Training
from eval.demo.world import (
    BACKGROUNDS,
    COLOURS,
    COUNTS,
    LAMP_ON,
    QUARTERS,
    SIZE,
    STEPPING_STONES,
    TASKS,
    UNITS,
    ask,
    draw_scene,
    render,
)
from llava.constants import IGNORE_INDEX, IMAGE_TOKEN_INDEX
from llava.model.builder import load_pretrained_model
from tests.test_house import FILES, imported_files

PLAN = Plan(
    vision=2,
    lessons=(
        Lesson("names", 2, {"names": 1.0}, rate=1e-3, decay=2),
        Lesson("letters", 2, {"choice": 1.0}, layers=LAYERS, rate=1e-3, decay=2),
    ),
    videos=2,
    save_every=2,
)


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer(0)


@pytest.mark.parametrize("kind", ["word", "choice"])
def test_sharing_a_video_equals_asking_alone(kind, tokenizer, tmp_path):
    """The loss of questions that share one video's keys and values is that of every question by itself."""
    model = build_model(tmp_path, tokenizer, seed=1).eval()
    batch = BatchSampler(tokenizer, 2).batch(2, {kind: 1.0})
    with torch.no_grad():
        shared, right = answer_loss(model, batch, video_pass(model, batch)[0])
        total, count, firsts = 0.0, 0, []
        for i, (ids, labels) in enumerate(zip(batch.ids, batch.labels, strict=True)):
            length = int((labels != IGNORE_INDEX).nonzero().max()) + 1
            slot = torch.tensor([IMAGE_TOKEN_INDEX])
            alone = torch.cat([batch.before, slot, ids[:length]])[None]
            nothing = torch.full((len(batch.before) + 1,), IGNORE_INDEX)
            targets = torch.cat([nothing, labels[:length]])[None]
            video = [batch.pixels[i // QUESTIONS]]
            tokens = int((labels != IGNORE_INDEX).sum())
            total += model(alone, labels=targets, images=video, modalities=["video"]).loss.item() * tokens
            count += tokens
            logits = model(alone, images=video, modalities=["video"]).logits[0, -3]  # then answer and end of the turn
            firsts.append(bool(logits.argmax() == labels[length - 2]))
    assert shared.item() == pytest.approx(total / count, rel=1e-4)
    assert right.tolist() == firsts


def test_batches_are_seeded_and_well_formed(tokenizer):
    a, b, c = (BatchSampler(tokenizer, seed).batch(2, {"choice": 1.0}) for seed in (0, 0, 1))
    assert torch.equal(a.ids, b.ids)
    assert torch.equal(a.pixels, b.pixels)
    assert a.asked == b.asked
    assert not torch.equal(a.pixels, c.pixels)
    assert a.pixels.shape == (2, UNITS, 3, SIZE, SIZE)
    assert a.ids.shape == a.labels.shape == (2 * QUESTIONS, a.ids.shape[1])


@pytest.mark.parametrize("kind", ["choice", "text"])
def test_every_option_is_judged(kind, tokenizer):
    """The labels are the answer's word; after each option's word, its letter if it is the answer, else padding; the
    answer; and its end."""
    sampler, styles = BatchSampler(tokenizer, 0), set()
    for _ in range(24):
        batch = sampler.batch(1, {kind: 1.0})
        for ids, labels in zip(batch.ids, batch.labels, strict=True):
            word, *judged, answer, end = labels[labels != IGNORE_INDEX].tolist()
            assert end == tokenizer.eos_token_id
            letter = tokenizer.decode([answer])
            assert [tokenizer.decode([label]) for label in judged] == [
                option if option == letter else "<|endoftext|>" for option in "ABCD"
            ]
            text = tokenizer.decode(ids)
            styles.add("Best option: (" in text)
            assert re.search(rf"{letter}[).]{tokenizer.decode([word])}\n", text)
            assert (f"The answer is{tokenizer.decode([word])}." in text) == (kind == "text")
    assert styles == {True, False}


def test_every_answer_is_one_token(tokenizer):
    ids = [tokenizer(f" {word}", add_special_tokens=False).input_ids for word in WORDS]
    assert {len(one) for one in ids} == {1}
    assert len({one[0] for one in ids}) == len(WORDS)
    rng = np.random.default_rng(3)
    for task in (*TASKS, *STEPPING_STONES):
        assert set(ask(draw_scene(rng), task, rng).options) <= set(WORDS)


def test_names_are_what_the_pixels_show(tokenizer):
    """Names are colours of the frame and its background. If counted, they tell the quarter and a lamp's number too."""
    sampler = BatchSampler(tokenizer, 5)
    scene = draw_scene(np.random.default_rng(5))
    frames = render(scene)
    palette = {**COLOURS, **BACKGROUNDS, "light": LAMP_ON}
    for counted in (False, True):
        names, weights = sampler.names(patch_labels(scene, frames, np.arange(UNITS)), counted)
        named = [[tokenizer.decode([word]).strip() for word in pair] for pair in names.tolist()]
        lit = 0
        for unit, frame in enumerate(frames):
            shown = {name for name, rgb in palette.items() if (frame == rgb).all(-1).any()}
            words = named[unit * 16 : unit * 16 + 16]
            lit += "light" in shown
            (background,) = shown & set(BACKGROUNDS)
            assert {first for first, _ in words} <= shown
            assert [background, list(QUARTERS)[unit // 4] if counted else background] in words
            lamp = [COUNTS[lit - 1] if counted else "light"] if "light" in shown else []
            assert [second for first, second in words if first == "light"] == lamp
        assert lit == len(scene.lit)
        assert len(weights) == len(named) == UNITS * 16


def test_new_layers_change_nothing_and_then_learn_alone(tokenizer, tmp_path):
    training = Training(tmp_path, 0, "cpu", PLAN)
    batch = BatchSampler(tokenizer, 1).batch(1, {"word": 1.0})
    losses = []
    for layers in (BASE_LAYERS, LAYERS):
        training.build(layers)
        loss, _ = answer_loss(training.model, batch, video_pass(training.model, batch)[0])
        losses.append(loss.item())
    assert losses[0] == losses[1]
    before = {name: tensor.clone() for name, tensor in training.model.state_dict().items()}
    loss.backward()
    training.optimizer.step()
    changed = {name for name, tensor in training.model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert {name.split(".")[2] for name in changed if name != "model.norm.weight"} == {"5", "6", "7"}


def test_every_optimiser_begins_with_a_warm_up():
    rates = [Plan().rate(step) for step in range(Plan().steps)]
    begins = [0, 4600, 5050]
    steps = (0, 4599, 4600, 5049, 5050, 5849)
    assert [Plan().optimiser_start(step) for step in steps] == [0, 0, 4600, 4600, 5050, 5050]
    for begin, end in zip(begins, [*begins[1:], Plan().steps], strict=True):
        assert rates[begin] < 0.02 * max(rates[begin:end])
        assert rates[end - 1] < 0.04 * max(rates[begin:end])
    assert Plan().lesson(Plan().steps - 1).layers == LAYERS


class Interrupted(Training):
    def save(self) -> None:
        super().save()
        raise KeyboardInterrupt


def test_an_interrupted_training_goes_on_as_if_nothing_had_happened(tmp_path):
    Training(tmp_path / "whole", 3, "cpu", PLAN).run()
    interrupted = Interrupted(tmp_path / "parts", 3, "cpu", PLAN)
    with pytest.raises(KeyboardInterrupt):
        interrupted.run()
    Training(tmp_path / "parts", 3, "cpu", PLAN).run()

    _, whole, _, _ = load_pretrained_model(str(tmp_path / "whole"), None, "llava_qwen", device_map="cpu")
    tokenizer, parts, _, _ = load_pretrained_model(str(tmp_path / "parts"), None, "llava_qwen", device_map="cpu")
    assert tokenizer.decode(tokenizer("Which colour?").input_ids) == "Which colour?"
    for (name, a), b in zip(whole.named_parameters(), parts.parameters(), strict=True):
        assert torch.equal(a, b), name
    reports = [json.loads(line) for line in (tmp_path / "parts" / "curve.jsonl").read_text().splitlines()]
    assert [(r["lesson"], r["step"]) for r in reports] == [("names", 2), ("letters", 4)]
    assert set(reports[-1]["choice"]) >= {"overall", "action_count"}


def test_nothing_outside_imports_the_training():
    """The installed package leaves it out."""
    folder = Path("eval/demo/training")
    others = [path for path in FILES if folder not in path.parents]
    assert len(others) < len(FILES)
    assert [path for path in others if any(folder in used.parents for used in imported_files(path))] == []
