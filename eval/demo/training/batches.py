"""Training data: videos and questions as tensors, with what the model should say at each token."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from llava.constants import IGNORE_INDEX

from ..world import (
    BACKGROUNDS,
    COLOURS,
    COUNTS,
    LAMP_ON,
    QUARTERS,
    SHAPES,
    SIZE,
    STEPPING_STONES,
    TASKS,
    UNITS,
    Question,
    Scene,
    ask,
    draw_scene,
    render,
)
from .model import PATCH
from .tokenizer import PROMPTS, WORDS, conversation

QUESTIONS = 8
"""Questions on each video."""


def pixels(frames: np.ndarray, rng: np.random.Generator) -> Tensor:
    """Normalise frames and add small errors like those of video coding.

    Args:
        frames: RGB frames, uint8 [..., H, W, 3].
        rng: Draws the errors.

    Returns:
        float32 [..., 3, H, W], mostly within [-1, 1].
    """
    noisy = frames + 3 * rng.standard_normal(frames.shape, dtype=np.float32)
    return torch.from_numpy(noisy / 127.5 - 1).movedim(-1, -3)


def patch_labels(scene: Scene, frames: np.ndarray, units: np.ndarray) -> np.ndarray:
    """Say what each patch shows.

    Args:
        scene: The scene.
        frames: Some of its pictures, uint8 [T, SIZE, SIZE, 3].
        units: The unit of time of each, int [T].

    Returns:
        Numbers [T, P, 3] of colour, shape and background of every patch. Colour 0 and shape 0 mean no object; the last
        colour is the lamp's light, which has no shape.
    """
    side = SIZE // PATCH
    blocks = frames.reshape(len(frames), side, PATCH, side, PATCH, 3).transpose(0, 1, 3, 2, 4, 5)
    blocks = blocks.reshape(len(frames), side * side, PATCH * PATCH, 3)
    counts = np.stack([(blocks == np.array(rgb)).all(-1).sum(-1) for rgb in (*COLOURS.values(), LAMP_ON)], -1)
    colour = np.where(counts.max(-1) >= 8, counts.argmax(-1) + 1, 0)
    shape = np.zeros_like(colour)
    things = [scene.resting, scene.mover, scene.flashes[0][1], scene.flashes[1][1]]
    colours = [{scene.resting.colour, scene.turned}, *({thing.colour} for thing in things[1:])]
    for thing, names in zip(things, colours, strict=True):
        for name in names:
            shape[colour == list(COLOURS).index(name) + 1] = SHAPES.index(thing.shape) + 1
    back = [list(BACKGROUNDS).index(scene.backgrounds[int(unit >= scene.cut)]) for unit in units]
    background = np.broadcast_to(np.array(back)[:, None], colour.shape)
    return np.stack([colour, shape, background], -1)


@dataclass(frozen=True)
class Batch:
    """B videos with QUESTIONS questions each, all of one kind.

    Attributes:
        pixels: Frames, float32 [B, UNITS, 3, SIZE, SIZE].
        before: Token ids of the chat before the video, int64 [P].
        ids: Token ids after the video, int64 [B * QUESTIONS, L], padded on the right.
        labels: What should follow: the token id at each place, or IGNORE_INDEX; shaped like `ids`.
        names: Ids of the two words that name what each visual token shows, int64 [B, T * M, 2].
        weights: How much each of these counts in the loss, float32 [B, T * M].
        kind: As `BatchSampler.batch` describes it.
        asked: The task of every question.
    """

    pixels: Tensor
    before: Tensor
    ids: Tensor
    labels: Tensor
    names: Tensor
    weights: Tensor
    kind: str
    asked: list[str]

    def to(self, device: str) -> Batch:
        """The same batch on another device."""
        moved = {f.name: getattr(self, f.name).to(device) for f in fields(self) if f.name not in ("kind", "asked")}
        return replace(self, **moved)


class BatchSampler:
    """Draws batches at random. The same seed draws the same batches.

    Args:
        tokenizer: The model's tokenizer.
        seed: Seed of scenes, questions and noise.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, seed: int):
        self.tokenizer, self.rng = tokenizer, np.random.default_rng(seed)
        self.before = tokenizer(conversation("")[0], add_special_tokens=False).input_ids
        self._ids: dict[str, list[int]] = {}
        self.letters = {self.text_ids(letter)[0]: letter for letter in "ABCD"}
        (self.question_mark,) = self.text_ids("?")
        self.marks = {self.text_ids(mark)[0] for mark in (")", ".")}
        self.options = {self.text_ids(f" {word}")[0] for word in WORDS}
        # The id of each label's word, by label. Colours and shapes count from 1.
        labels = (("nothing", *COLOURS, "light"), ("light", *SHAPES), BACKGROUNDS, QUARTERS, COUNTS)
        self.words = [np.array([self.text_ids(f" {word}")[0] for word in words]) for words in labels]

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
                (labels[at + 1],) = self.text_ids(f" {q.answer}")
            elif letter and ids[at - 1] in self.marks and one in self.options:
                labels[at + 1] = ids[at - 2] if letter == q.letter else self.tokenizer.pad_token_id
        target = [*self.text_ids(answer), self.tokenizer.eos_token_id]
        return ids + target, labels + target

    def names(self, labels: np.ndarray, counted: bool) -> tuple[np.ndarray, np.ndarray]:
        """Name what each visual token shows. A visual token is named after the patch that pooling weights most.

        The two words are an object's colour and shape, or the background twice. If `counted`, they are the background
        and the quarter of the video and, for a lamp, "light" and how often it was lit so far.

        Args:
            labels: What `patch_labels` gives for all units, [UNITS, P, 3].
            counted: See above.

        Returns:
            Ids of the words [T * M, 2], and how much each token counts in the loss [T * M].
        """
        side = SIZE // PATCH
        colour, shape, background = labels.reshape(UNITS, side, side, 3)[:, ::2, ::2].reshape(UNITS, -1, 3).T
        colours, shapes, backgrounds, quarters, counts = self.words
        covered, lit = colour > 0, colour == len(COLOURS) + 1
        first = np.where(covered, colours[colour], backgrounds[background])
        second = np.where(covered, shapes[shape], backgrounds[background])
        weights = np.where(first != second, 1.0, 0.1)  # Most tokens show the background, which is soon learned.
        if counted:
            number = counts[lit.any(0).cumsum() - 1]
            second = np.where(lit, number, np.where(covered, second, quarters[np.arange(UNITS) * 4 // UNITS]))
            weights = np.where(lit, 8.0, np.where(covered, 1.0, 0.1))  # Lamps are rare.
        return np.stack([first, second]).transpose(2, 1, 0).reshape(-1, 2), weights.T.flatten().astype(np.float32)

    def patches(self, scenes: int, each: int) -> tuple[Tensor, Tensor]:
        """Draw single frames for the vision lesson.

        Args:
            scenes: Number of scenes.
            each: Frames of each.

        Returns:
            Pixels [N, 3, SIZE, SIZE] and patch labels [N, P, 3], where N = scenes * each.
        """
        frames, labels = [], []
        for _ in range(scenes):
            scene = draw_scene(self.rng)
            picked = self.rng.permutation(UNITS)[:each]
            frames.append(render(scene)[picked])
            labels.append(patch_labels(scene, frames[-1], picked))
        return pixels(np.concatenate(frames), self.rng), torch.from_numpy(np.concatenate(labels))

    def batch(self, videos: int, shares: dict[str, float], counted: bool = False) -> Batch:
        """Draw a batch. All its questions are of one kind, so that their lengths are similar.

        Kinds: "choice", multiple choice; "word", which ends at the question mark and is answered by a word; "names",
        the same, but the loss is only that of naming; and "text", multiple choice without a video, where the prompt
        tells the answer's word and the options are any words.

        Args:
            videos: Number of videos B.
            shares: Probability of each kind.
            counted: As in `names`.
        """
        kind = str(self.rng.choice(list(shares), p=list(shares.values())))
        prompt = PROMPTS[self.rng.choice(len(PROMPTS), p=(0.5, 0.3, 0.2))]
        frames, names, weights, rows, asked = [], [], [], [], []
        for _ in range(videos):
            scene = draw_scene(self.rng)
            asked += self.rng.permutation([*TASKS, *STEPPING_STONES])[:QUESTIONS].tolist()
            posed = [ask(scene, task, self.rng) for task in asked[-QUESTIONS:]]
            if kind == "text":
                options = [self.rng.permutation(WORDS)[:4].tolist() for _ in posed]
                answers = self.rng.integers(4, size=len(posed))
                posed = [replace(q, options=o, answer=o[a]) for q, o, a in zip(posed, options, answers, strict=True)]
                frames.append(np.empty((0, SIZE, SIZE, 3), dtype=np.uint8))
                named = np.empty((0, 2), dtype=np.int64), np.empty(0, dtype=np.float32)
            else:
                frames.append(render(scene))
                named = self.names(patch_labels(scene, frames[-1], np.arange(UNITS)), counted)
            names.append(named[0])
            weights.append(named[1])
            rows += [self.question_ids(q, kind, prompt) for q in posed]
        length = max(len(ids) for ids, _ in rows)
        ids = [one + [self.tokenizer.pad_token_id] * (length - len(one)) for one, _ in rows]
        labels = [target + [IGNORE_INDEX] * (length - len(target)) for _, target in rows]
        return Batch(
            pixels(np.stack(frames), self.rng),
            torch.tensor(self.before),
            torch.tensor(ids),
            torch.tensor(labels),
            torch.from_numpy(np.stack(names)),
            torch.from_numpy(np.stack(weights)),
            kind,
            asked,
        )
