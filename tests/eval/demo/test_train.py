from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from eval.demo.training.batches import QUESTIONS, BatchSampler
from eval.demo.training.clips import FULL, View, draw_clip, draw_kept, draw_view
from eval.demo.training.evidence import answerable, cells
from eval.demo.training.losses import answer_loss, video_pass
from eval.demo.training.model import BASE_LAYERS, LAYERS, build_model
from eval.demo.training.plan import Lesson, Plan
from eval.demo.training.tokenizer import WORDS, build_tokenizer
from eval.demo.training.train import Training
from eval.demo.world import (
    BACKGROUND,
    BACKGROUNDS,
    BYSTANDER,
    CELL,
    CHANGING,
    CLOCK,
    COLOURS,
    COUNTS,
    FIRST,
    LAMP_ON,
    LIT,
    MOVER,
    QUARTERS,
    SECOND,
    SIZE,
    STEPPING_STONES,
    TASKS,
    UNLIT,
    Look,
    ask,
    draw_scene,
    layers,
    render,
)
from llava.constants import IGNORE_INDEX, IMAGE_TOKEN_INDEX
from llava.model.builder import load_pretrained_model
from tests.test_house import FILES, imported_files
from vidcom2 import Compressor, Kept

PLAN = Plan(
    vision=2,
    lessons=(
        Lesson("names", 2, {"names": 1.0}, longest=4, videos=2, rate=1e-3, decay=2),
        Lesson("letters", 2, {"choice": 1.0}, longest=4, videos=2, layers=LAYERS, rate=1e-3, decay=2),
    ),
    save_every=2,
    examined=1,
)
VIEW = View(units=4, frames=4, missing="nothing", kept=4 * 36)
VIEWS = {
    "all": VIEW,
    "grid": replace(VIEW, newlines="grid"),
    "anew": replace(VIEW, missing="tokens", kept=30),
    "original": replace(VIEW, missing="tokens", kept=30, original=True),
    "grid, original": replace(VIEW, missing="tokens", kept=30, newlines="grid", original=True),
    "edges": replace(VIEW, missing="edges", window=(4, 6), kept=4 * 24),
    "frames": replace(VIEW, frames=2, kept=2 * 36),
}


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer(0)


@dataclass(frozen=True, eq=False)
class Chosen(Compressor):
    """Keeps the tokens it is told."""

    kept: tuple[int, ...] = ()

    def _select(self, x: torch.Tensor) -> Kept:
        kept = torch.tensor(self.kept)
        return Kept(kept, torch.bincount(kept // x.shape[1], minlength=len(x)))


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
@pytest.mark.parametrize("kind", ["word", "choice"])
def test_training_sees_what_the_model_sees_when_it_answers(kind, view, tokenizer, tmp_path):
    """The loss of questions that share one clip's keys and values, with tokens missing, is that of every question by
    itself, when a compressor drops these tokens from the model's ordinary input."""
    model = build_model(tmp_path, tokenizer, seed=1).eval()
    model.config.mm_newline_position = view.newlines
    batch = BatchSampler(tokenizer, 2).batch(2, kind, view)
    with torch.no_grad():
        cache, after, _ = video_pass(model, batch)
        shared, right = answer_loss(model, batch, cache, after)
        total, count, firsts = 0.0, 0, []
        for i, (ids, labels) in enumerate(zip(batch.ids, batch.labels, strict=True)):
            length = int((labels != IGNORE_INDEX).nonzero().max()) + 1
            slot = torch.tensor([IMAGE_TOKEN_INDEX])
            alone = torch.cat([batch.before, slot, ids[:length]])[None]
            nothing = torch.full((len(batch.before) + 1,), IGNORE_INDEX)
            targets = torch.cat([nothing, labels[:length]])[None]
            video = [batch.pixels[i // QUESTIONS]]
            tokens = int((labels != IGNORE_INDEX).sum())
            if view.missing != "nothing":
                positions = "original" if view.original else "repack"
                model.compressor = Chosen(0.5, positions=positions, kept=tuple(batch.kept[i // QUESTIONS].tolist()))
            out = model(alone, labels=targets, images=video, modalities=["video"])
            total += out.loss.item() * tokens
            count += tokens
            firsts.append(bool(out.logits[0, -3].argmax() == labels[length - 2]))  # then answer and end of the turn
    assert shared.item() == pytest.approx(total / count, rel=1e-4)
    assert right.tolist() == firsts


def test_batches_are_seeded_and_well_formed(tokenizer):
    a, b, c = (BatchSampler(tokenizer, seed).batch(2, "choice", VIEW) for seed in (0, 0, 1))
    assert torch.equal(a.ids, b.ids)
    assert torch.equal(a.pixels, b.pixels)
    assert a.asked == b.asked
    assert not torch.equal(a.pixels, c.pixels)
    assert a.pixels.shape == (2, 4, 3, SIZE, SIZE)
    assert a.ids.shape == a.labels.shape == (2 * QUESTIONS, a.ids.shape[1])


@pytest.mark.parametrize("kind", ["choice", "text"])
def test_every_option_is_judged(kind, tokenizer):
    """The labels are the answer's word; after each option's word, its letter if it is the answer, else padding; the
    answer; and its end."""
    sampler, styles = BatchSampler(tokenizer, 0), set()
    for _ in range(24):
        batch = sampler.batch(1, kind, VIEW)
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
    """Names are colours that the frame has; lamps are counted; timers tell their quarter and that of the change."""
    sampler, view = BatchSampler(tokenizer, 5), replace(FULL, missing="tokens", kept=600)
    palette = {**COLOURS, **BACKGROUNDS, "light": LAMP_ON}
    for _ in range(5):
        clip = draw_clip(view, sampler.rng)
        plain = render(replace(clip.scene, look=Look((0, 0), 0, (0, 0), 0)))
        names, weights = sampler.names(clip, 36)
        named = [tuple(tokenizer.decode([word]).strip() for word in words) for words in names.tolist()]
        assert len(weights) == len(named) == 600
        lamps = [words[1] for words, shows in zip(named, clip.shows, strict=True) if shows == LIT]
        assert lamps == list(COUNTS[: len(lamps)]), "counted among those that are seen"
        for (first, second, third), shows, number in zip(named, clip.shows, clip.kept, strict=True):
            unit, (row, column) = number // 36, divmod(number % 36, 6)
            block = plain[unit, row * CELL : row * CELL + CELL, column * CELL : column * CELL + CELL]
            pictured = {name for name, rgb in palette.items() if (block == rgb).all(-1).any()}
            if shows == CLOCK:
                changed = unit >= clip.scene.cut
                assert (first, changed) == (QUARTERS[unit // 8], second == clip.scene.quarter)
            else:
                assert first in pictured
            if shows in (BACKGROUND, BYSTANDER, UNLIT):
                assert {first, second, third} <= pictured & set(BACKGROUNDS)
            if shows in (FIRST, SECOND):
                assert third == {FIRST: "first", SECOND: "second"}[shows]
            if shows == CHANGING and unit >= clip.scene.turn:
                assert (first, third) == (clip.scene.turned, clip.scene.changing.colour)
            elif shows == MOVER:
                assert third in {*BACKGROUNDS, clip.scene.direction}
            elif shows not in (FIRST, SECOND):
                assert third in pictured | {"brown", "grey", "black", "white"}


def test_answerable_is_what_is_left(tokenizer):
    """With all tokens every question is; without the one token that shows a flash, none about its time or colour."""
    rng = np.random.default_rng(2)
    for _ in range(20):
        scene = draw_scene(rng)
        seen = cells(layers(scene), CELL)
        assert set(answerable(scene, np.arange(32), seen)) == TASKS.keys() | STEPPING_STONES.keys()
        assert (seen == FIRST).sum() == (seen == SECOND).sum() == 1
        blind = np.where(seen == SECOND, -1, seen)
        lost = {"action_sequence", "action_prediction", "flashing_colour"}
        assert set(answerable(scene, np.arange(32), blind)) == (TASKS.keys() | STEPPING_STONES.keys()) - lost
        still = np.flatnonzero(np.arange(32) >= scene.cut)
        assert "scene_transition" not in answerable(scene, still, seen[still])


def test_views_are_of_many_lengths():
    rng = np.random.default_rng(0)
    views = [draw_view(rng) for _ in range(400)]
    assert {view.frames for view in views} >= {1, 2, 4, 6, 8, 12, 16, 24, 32}
    assert {view.missing for view in views} == {"nothing", "tokens", "edges"}
    assert {view.newlines for view in views} == {"one_token", "grid"}
    assert {view.original for view in views if view.missing != "nothing"} == {True, False}
    assert max(draw_view(rng, 8).frames for _ in range(100)) == 8
    for view in {view.missing: view for view in views}.values():
        clip = draw_clip(view, rng)
        assert len(clip.kept) == len(clip.shows) == view.kept
        assert len(clip.frames) == len(clip.units) == view.frames


def test_what_is_missing_never_depends_on_what_is_shown():
    """The same draws leave out the same tokens of other pictures."""
    view = replace(FULL, missing="tokens", kept=100)
    drawn = [draw_kept(view, (32, 36), np.random.default_rng(1)) for _ in range(2)]
    assert np.array_equal(*drawn)
    counts = np.bincount(np.concatenate([draw_kept(view, (32, 36), np.random.default_rng(i)) for i in range(500)]))
    assert abs(counts / 500 - 100 / 1152).max() < 0.07


def test_new_layers_change_nothing_and_then_all_learn(tokenizer, tmp_path):
    training = Training(tmp_path, 0, "cpu", PLAN)
    batch = BatchSampler(tokenizer, 1).batch(1, "word", VIEW)
    losses = []
    for layers_ in (BASE_LAYERS, LAYERS):
        training.build(layers_)
        losses.append(training.losses(batch)[1])
    assert losses[0].item() == losses[1].item()
    before = {name: tensor.clone() for name, tensor in training.model.state_dict().items()}
    training.optimisers.update(losses[1], 1e-3)
    changed = {name for name, tensor in training.model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert {name.split(".")[2] for name in changed if ".layers." in name} == set("01234567")
    assert not any("vision_tower" in name for name in changed)


def test_every_optimiser_begins_with_a_warm_up():
    plan = Plan()
    rates = [plan.rate(step) for step in range(plan.steps)]
    begins = sorted({plan.optimiser_start(step) for step in range(plan.steps)})
    assert begins[0] == 0
    assert len(begins) == sum(lesson.rate is not None for lesson in plan.lessons)
    for begin, end in zip(begins, [*begins[1:], plan.steps], strict=True):
        assert rates[begin] < 0.03 * max(rates[begin:end])
    assert rates[-1] < 0.04 * max(rates)
    assert plan.lesson(plan.steps - 1).layers == LAYERS


class Interrupted(Training):
    def save(self) -> None:
        super().save()
        raise KeyboardInterrupt


@pytest.mark.slow
def test_an_interrupted_training_goes_on_as_if_nothing_had_happened(tmp_path):
    Training(tmp_path / "whole", 3, "cpu", PLAN).run()
    for _ in ("after the vision lesson", "after the first lesson of the LLM"):
        with pytest.raises(KeyboardInterrupt):
            Interrupted(tmp_path / "parts", 3, "cpu", PLAN).run()
    Training(tmp_path / "parts", 3, "cpu", PLAN).run()

    for folder, family in (("model", "one_token"), ("llava_video", "grid")):
        path = str(tmp_path / "whole" / folder)
        _, whole, _, _ = load_pretrained_model(path, None, "llava_qwen", device_map="cpu")
        assert whole.config.mm_newline_position == family
        path = str(tmp_path / "parts" / folder)
        tokenizer, parts, _, _ = load_pretrained_model(path, None, "llava_qwen", device_map="cpu")
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
