"""Training data: clips and questions as tensors, with what the model should say at each token."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from llava.constants import IGNORE_INDEX

from ..world import (
    BACKGROUNDS,
    BYSTANDER,
    CHANGING,
    CLOCK,
    COLOURS,
    COUNTS,
    FIRST,
    LIT,
    MOVER,
    QUARTERS,
    SECOND,
    SHAPES,
    SIZE,
    UNLIT,
    Question,
    Scene,
    ask,
    draw_scene,
    layers,
    mover_corner,
    render,
)
from .clips import Clip, View, draw_clip
from .evidence import MOVED, cells
from .model import PATCH
from .tokenizer import PROMPTS, WORDS, conversation

QUESTIONS = 8
"""Questions on each clip."""
NOISE = 1 << 22
"""Numbers in the bank of noise: drawing new ones for every pixel would take longer than the model."""


class Noise:
    """Small errors like those of video coding, taken from random places of a bank.

    Args:
        rng: Draws the bank and the places.
    """

    def __init__(self, rng: np.random.Generator):
        self.rng, self.bank = rng, np.random.default_rng(0).standard_normal(NOISE, dtype=np.float32) * 3

    def pixels(self, frames: np.ndarray) -> Tensor:
        """Normalise frames and add noise: uint8 [..., H, W, 3] -> float32 [..., 3, H, W], mostly within [-1, 1]."""
        noisy = frames.astype(np.float32)
        for picture in noisy.reshape(-1, *frames.shape[-3:]):
            begin = self.rng.integers(NOISE - picture.size)
            picture += self.bank[begin : begin + picture.size].reshape(picture.shape)
        return torch.from_numpy(noisy / 127.5 - 1).movedim(-1, -3)


def looks(scene: Scene, units: np.ndarray, shows: np.ndarray) -> np.ndarray:
    """Say what colour, shape and background each token shows.

    Args:
        scene: The scene.
        units: The unit of time of each token, int [K].
        shows: What it shows, int [K], one of BACKGROUND to CLOCK.

    Returns:
        Numbers [K, 3]. Colour 0 and shape 0 mean no object. After the colours come the lit lamp, the unlit lamp, the
        timer in each quarter and the bystanders.
    """
    colour = np.zeros((9, scene.units), dtype=np.int64)
    lamp, number = len(COLOURS) + 1, {name: i + 1 for i, name in enumerate(COLOURS)}
    every = np.arange(scene.units)
    colour[CHANGING] = np.where(every < scene.turn, number[scene.changing.colour], number[scene.turned])
    colour[MOVER], colour[BYSTANDER] = number[scene.mover.colour], lamp + 6
    colour[FIRST], colour[SECOND] = (number[thing.colour] for _, thing in scene.flashes)
    colour[LIT], colour[UNLIT], colour[CLOCK] = lamp, lamp + 1, lamp + 2 + every * 4 // scene.units
    shape = np.zeros(9, dtype=np.int64)
    shapes = (scene.crowd, scene.changing.shape, scene.mover.shape, *(thing.shape for _, thing in scene.flashes))
    shape[[BYSTANDER, CHANGING, MOVER, FIRST, SECOND]] = [SHAPES.index(name) + 1 for name in shapes]
    both = np.array([list(BACKGROUNDS).index(name) for name in scene.backgrounds])
    return np.stack([colour[shows, units], shape[shows], both[(units >= scene.cut).astype(int)]], -1)


@dataclass(frozen=True)
class Batch:
    """B clips with QUESTIONS questions each, all of one kind.

    Attributes:
        pixels: Frames, float32 [B, T, 3, SIZE, SIZE].
        view: What the clips have in common.
        kept: Numbers of the visual tokens that are seen, int64 [B, K], in the flattened T·M.
        before: Token ids of the chat before the video, int64 [P].
        ids: Token ids after the video, int64 [B * QUESTIONS, L], padded on the right.
        labels: What should follow: the token id at each place, or IGNORE_INDEX; shaped like `ids`.
        names: Ids of the three words that name what each visual token shows, int64 [B, K, 3].
        weights: How much each of these counts in the loss, float32 [B, K].
        kind: As `BatchSampler.batch` describes it.
        asked: The task of every question.
    """

    pixels: Tensor
    view: View
    kept: Tensor
    before: Tensor
    ids: Tensor
    labels: Tensor
    names: Tensor
    weights: Tensor
    kind: str
    asked: list[str]

    def to(self, device: str) -> Batch:
        """The same batch on another device."""
        values: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        moved = {name: value.to(device) for name, value in values.items() if isinstance(value, Tensor)}
        return Batch(**values | moved)


class BatchSampler:
    """Draws batches at random. The same seed draws the same batches.

    Args:
        tokenizer: The model's tokenizer.
        seed: Seed of scenes, questions and noise.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, seed: int):
        self.tokenizer, self.rng = tokenizer, np.random.default_rng(seed)
        self.noise = Noise(self.rng)
        self.before = tokenizer(conversation("")[0], add_special_tokens=False).input_ids
        self._ids: dict[str, list[int]] = {}
        self.letters = {self.text_ids(letter)[0]: letter for letter in "ABCD"}
        (self.question_mark,) = self.text_ids("?")
        self.marks = {self.text_ids(mark)[0] for mark in (")", ".")}
        self.options = {self.text_ids(f" {word}")[0] for word in WORDS}

    def word(self, text: str) -> int:
        """The id of a word that is one token."""
        return self.text_ids(f" {text}")[0]

    def text_ids(self, text: str) -> list[int]:
        """Token ids of a text. They are cached."""
        if text not in self._ids:
            if len(self._ids) > 200_000:
                self._ids.clear()
            self._ids[text] = self.tokenizer(text, add_special_tokens=False).input_ids
        return self._ids[text]

    def question_ids(self, q: Question, kind: str, prompt: Callable[[Question], str]) -> tuple[list[int], list[int]]:
        """Make ids and labels of one question with its answer.

        The labels are the answer and the end of the turn. On the way there the model also learns the answer's word
        after the question mark and, after each option's word, whether that is the answer: the option's letter if it is,
        else padding.

        Args:
            q: The question.
            kind: The batch's kind.
            prompt: Makes the prompt.
        """
        text, answer = prompt(q), q.letter
        if kind == "text":
            text = f"The answer is {q.answer}. {text}"
        ids = self.text_ids(conversation(text)[1])
        if kind in ("word", "names"):
            ids, answer = ids[: ids.index(self.question_mark) + 1], f" {q.answer}"
        labels = [IGNORE_INDEX] * len(ids)
        for at, one in enumerate(ids[2:-1], start=2):
            letter = self.letters.get(ids[at - 2])
            if one == self.question_mark:
                labels[at + 1] = self.word(q.answer)
            elif letter and ids[at - 1] in self.marks and one in self.options:
                labels[at + 1] = ids[at - 2] if letter == q.letter else self.tokenizer.pad_token_id
        target = [*self.text_ids(answer), self.tokenizer.eos_token_id]
        return ids + target, labels + target

    def names(self, clip: Clip, per_frame: int) -> tuple[np.ndarray, np.ndarray]:
        """Name what each visual token shows, in three words.

        The first two are an object's colour and shape; "light" and how often a lit lamp was seen so far; a timer's
        quarter and, once the background has changed, the quarter in which it did; or the background. A bystander and an
        unlit lamp are part of the scenery: all three words are that of the background that shows around them.
        The last is the direction of the mover, once it was seen to move; which of the flashes it is; the first colour
        of an object that has changed its colour; or the background.

        Args:
            clip: The clip.
            per_frame: Tokens per frame M.

        Returns:
            Ids of the words [K, 3], and how much each token counts in the loss [K].
        """
        units = clip.units[clip.kept // per_frame]
        colour, shape, background = looks(clip.scene, units, clip.shows).T
        third = np.array([self.word(word) for word in BACKGROUNDS])[background]
        first, second = third.copy(), third.copy()
        weights = np.full(len(third), 0.1, dtype=np.float32)  # Most tokens show the background, which is soon learned.
        thing = (shape > 0) & (clip.shows != BYSTANDER)
        second[thing] = np.array([self.word(word) for word in SHAPES])[shape[thing] - 1]
        first[thing] = np.array([self.word(word) for word in COLOURS])[colour[thing] - 1]
        lit = clip.shows == LIT
        counts = np.array([self.word(word) for word in COUNTS])
        first[lit], second[lit] = self.word("light"), counts[np.arange(lit.sum())]
        clock = clip.shows == CLOCK
        first[clock] = np.array([self.word(word) for word in QUARTERS])[units[clock] * 4 // clip.scene.units]
        second[clock & (units >= clip.scene.cut)] = self.word(clip.scene.quarter)
        mover = np.flatnonzero(clip.shows == MOVER)
        if len(mover):
            first_seen = mover_corner(clip.scene, units[mover[0]])
            ways = [np.subtract(mover_corner(clip.scene, unit), first_seen) for unit in units[mover]]
            third[mover[np.abs(ways).max(1) >= MOVED]] = self.word(clip.scene.direction)
        third[clip.shows == FIRST], third[clip.shows == SECOND] = self.word("first"), self.word("second")
        third[(clip.shows == CHANGING) & (units >= clip.scene.turn)] = self.word(clip.scene.changing.colour)
        weights[thing | clock] = 1
        weights[np.isin(clip.shows, (FIRST, SECOND, LIT))] = 5  # They are rare.
        return np.stack([first, second, third], -1), weights

    def patches(self, scenes: int, each: int) -> tuple[Tensor, Tensor]:
        """Draw single frames for the vision lesson.

        Args:
            scenes: Number of scenes.
            each: Frames of each.

        Returns:
            Pixels [N, 3, SIZE, SIZE] and what `looks` says of each patch, [N, P, 3], where N = scenes * each.
        """
        frames, labels = [], []
        for _ in range(scenes):
            scene = draw_scene(self.rng)
            picked = np.union1d(self.rng.permutation(scene.units)[:each], [f[0] for f in scene.flashes])[:each]
            shown = layers(scene)
            shows = cells(shown[picked], PATCH)
            units = np.broadcast_to(picked[:, None], shows.shape)
            frames.append(render(scene, shown)[picked])
            labels.append(looks(scene, units.flatten(), shows.flatten()).reshape(*shows.shape, 3))
        return self.noise.pixels(np.concatenate(frames)), torch.from_numpy(np.concatenate(labels))

    def batch(self, videos: int, kind: str, view: View) -> Batch:
        """Draw a batch.

        Args:
            videos: Number of clips B.
            kind: "choice", multiple choice; "word", which ends at the question mark and is answered by a word; "names",
                the same, but the loss is only that of naming; or "text", multiple choice without a video, where the
                prompt tells the answer's word and the options are any words.
            view: What the clips have in common.
        """
        prompt = PROMPTS[self.rng.choice(len(PROMPTS), p=(0.5, 0.3, 0.2))]
        clips, rows, asked = [], [], []
        for _ in range(videos):
            clip = draw_clip(view, self.rng)
            known = clip.answerable
            asked += self.rng.permutation(known * (1 + QUESTIONS // len(known)))[:QUESTIONS].tolist()
            posed = [ask(clip.scene, task, self.rng) for task in asked[-QUESTIONS:]]
            if kind == "text":
                options = [self.rng.permutation(WORDS)[:4].tolist() for _ in posed]
                answers = self.rng.integers(4, size=len(posed))
                posed = [replace(q, options=o, answer=o[a]) for q, o, a in zip(posed, options, answers, strict=True)]
            else:
                clips.append(clip)
            rows += [self.question_ids(q, kind, prompt) for q in posed]
        per_frame = (SIZE // view.cell) ** 2
        named = [self.names(clip, per_frame) for clip in clips]
        length = -(-max(len(ids) for ids, _ in rows) // 8) * 8  # Few different shapes are faster.
        ids = [one + [self.tokenizer.pad_token_id] * (length - len(one)) for one, _ in rows]
        labels = [target + [IGNORE_INDEX] * (length - len(target)) for _, target in rows]
        empty = np.empty((videos, 0), dtype=np.int64)
        return Batch(
            self.noise.pixels(np.stack([clip.frames for clip in clips])) if clips else torch.empty(videos, 0),
            view,
            torch.from_numpy(np.stack([clip.kept for clip in clips]) if clips else empty),
            torch.tensor(self.before),
            torch.tensor(ids),
            torch.tensor(labels),
            torch.from_numpy(np.stack([names for names, _ in named]) if clips else empty),
            torch.from_numpy(np.stack([weights for _, weights in named]) if clips else empty),
            kind,
            asked,
        )
