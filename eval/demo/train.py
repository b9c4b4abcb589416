"""Train the demo model: a tiny LLaVA-OneVision on MiniBench's world, from nothing, on two CPU cores or a GPU.

    python -m eval.demo.train OUTPUT

The lessons, each of which the next needs:
1. vision: the tower learns which object and which background cover each patch. Without it the LLM alone never
   discovers vision.
2. letters: multiple choice without a video, in the benchmarks' own prompts, the answer's word given ("The answer is
   red."). After each option's word the LLM says whether that is the answer; without this finding a word's letter stays
   at chance.
3. names: at every visual token the LLM says what is there (colour and shape, or background). Without it answers that
   hang on a few tokens out of hundreds stay at chance; it goes on, as a part of the loss, in the lessons that follow.
4. words: after a question's question mark the LLM says the answer's word.
5. options: multiple choice on videos. The LLM learns to remember the options' words, but seldom finds the right one:
   the answer's word comes up in its last layer only, too late to be looked up.
6. counts: the names now tell a lamp's number and the quarter of the video, too; without that, counting stays poor.
7. choice: new layers on top learn to find the word among the options, all others stay as they are.

Eight questions share one video: its rows go through tower and LLM once, and every question continues from their keys
and values, exactly as if it were alone.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import PreTrainedTokenizerFast

from llava.constants import DEFAULT_IMAGE_TOKEN, IGNORE_INDEX
from llava.conversation import conv_templates
from llava.model.language_model.llava_qwen import LlavaQwenConfig, LlavaQwenForCausalLM
from vidcom2.models.names import cache_of, give_cache

from .curve import training_curve
from .minibench import HELD_OUT
from .world import (
    BACKGROUNDS,
    COLOURS,
    COUNTS,
    DIRECTIONS,
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

PATCH, TOWER_WIDTH, TOWER_LAYERS, WIDTH = 8, 64, 2, 128
BASE_LAYERS, LAYERS = 5, 8  # at first, and in the end
QUESTIONS = 8  # per video
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
WORDS = (*COLOURS, *BACKGROUNDS, *SHAPES, *DIRECTIONS, *QUARTERS, *COUNTS)
"""All answers; each is one token."""
# A word with the space before it, or one digit, or one sign: so an option's letter and its word are always the same two
# tokens, whatever stands around them, and the very ones that are to be answered.
SPLIT = r" ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]|\s*[\r\n]+|\s+"

# ---- text


def mvbench_prompt(q: Question) -> str:
    options = "".join(f"({letter}) {option}\n" for letter, option in zip("ABCD", q.options, strict=True))
    return f"Question:{q.text}\nOption:\n{options}Only give the best option.\n"


def mlvu_prompt(q: Question) -> str:
    options = "\n".join(f"({letter}) {option}" for letter, option in zip("ABCD", q.options, strict=True))
    return f"{q.text}\n{options}\nOnly give the best option.\nBest option: ("


def videomme_prompt(q: Question) -> str:
    options = "\n".join(f"{letter}. {option}" for letter, option in zip("ABCD", q.options, strict=True))
    return (
        "Select the best answer to the following multiple-choice question based on the video and the subtitles. "
        "Respond with only the letter (A, B, C, or D) of the correct option.\n"
        f"{q.text}\n{options}\n\nAnswer with the option's letter from the given choices directly."
    )


CHOICES = (mvbench_prompt, mlvu_prompt, videomme_prompt)


def conversation(prompt: str) -> tuple[str, str]:
    """The chat text before and after the video's rows."""
    chat = conv_templates["qwen_1_5"].copy()
    chat.append_message(chat.roles[0], f"{DEFAULT_IMAGE_TOKEN}\n{prompt}")
    chat.append_message(chat.roles[1], None)
    before, after = chat.get_prompt().split(DEFAULT_IMAGE_TOKEN)
    return before, after


def build_tokenizer(seed: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE with merges learned from the lessons' own text."""
    rng = np.random.default_rng(seed)
    corpus = []
    for _ in range(300):
        scene = draw_scene(rng)
        for task in (*TASKS, *STEPPING_STONES):
            q = ask(scene, task, rng)
            corpus += ["".join(conversation(p(q))) for p in CHOICES] + [f"The answer is {q.answer}. "]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1024,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=[AddedToken(token, normalized=False, special=True) for token in SPECIAL],
    )
    tokenizer.train_from_iterator(corpus, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=SPECIAL[2], pad_token=SPECIAL[0], padding_side="right"
    )


# ---- model


def build_model(root: Path, tokenizer: PreTrainedTokenizerFast, seed: int, layers: int = BASE_LAYERS) -> Any:
    """A fresh model, its tower's config.json below `root`. Layers above the base change nothing before they learn."""
    tower = {
        "architectures": ["SiglipVisionModel"],
        "model_type": "siglip_vision_model",
        "hidden_size": TOWER_WIDTH,
        "intermediate_size": 4 * TOWER_WIDTH,
        "num_hidden_layers": TOWER_LAYERS + 1,  # LLaVA's tower stops before the last one
        "num_attention_heads": 4,
        "image_size": SIZE,
        "patch_size": PATCH,
        "hidden_act": "gelu_pytorch_tanh",
        "vision_use_head": False,
    }
    (root / "vision_tower").mkdir(parents=True, exist_ok=True)
    (root / "vision_tower" / "config.json").write_text(json.dumps(tower, indent=2) + "\n", encoding="utf-8")
    fields: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": WIDTH,
        "intermediate_size": 3 * WIDTH,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": True,
        "initializer_range": 0.04,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "mm_vision_tower": "vision_tower",
        "mm_hidden_size": TOWER_WIDTH,
        "mm_projector_type": "mlp2x_gelu",
        "mm_patch_merge_type": "spatial_unpad",
        "mm_newline_position": "one_token",
        "mm_spatial_pool_mode": "bilinear",
        "mm_spatial_pool_stride": 2,
        "mm_use_im_patch_token": False,
        "mm_use_im_start_end": False,
        "image_aspect_ratio": "pad",
        "tokenizer_model_max_length": 4096,
        "tokenizer_padding_side": "right",
    }
    config = LlavaQwenConfig(**fields)
    config._name_or_path = str(root)
    torch.manual_seed(seed)
    model = LlavaQwenForCausalLM(config)
    # At first every head looks for tokens like its own (mimetic initialisation, arXiv 2305.09828): otherwise the LLM
    # takes very long to discover that two places of a text can hold the same word.
    every: Any = model.model.layers
    for layer in every:
        layer.self_attn.q_proj.weight.data.mul_(3)
        layer.self_attn.k_proj.weight.data.copy_(layer.self_attn.q_proj.weight)
    for layer in every[BASE_LAYERS:]:
        layer.self_attn.o_proj.weight.data.zero_()
        layer.mlp.down_proj.weight.data.zero_()
    return model


# ---- data


def pixels(frames: np.ndarray, rng: np.random.Generator) -> Tensor:
    """uint8 [..., H, W, 3] -> normalised float [..., 3, H, W], with the small errors that video coding makes."""
    noisy = frames + 3 * rng.standard_normal(frames.shape, dtype=np.float32)
    return torch.from_numpy(noisy / 127.5 - 1).movedim(-1, -3)


def patch_labels(scene: Scene, frames: np.ndarray, units: np.ndarray) -> np.ndarray:
    """For the frames of these units, per patch: (which colour, which shape is on it; the background), [T, P, 3]."""
    side = SIZE // PATCH
    blocks = frames.reshape(len(frames), side, PATCH, side, PATCH, 3).transpose(0, 1, 3, 2, 4, 5)
    blocks = blocks.reshape(len(frames), side * side, PATCH * PATCH, 3)
    counts = np.stack([(blocks == np.array(rgb)).all(-1).sum(-1) for rgb in (*COLOURS.values(), LAMP_ON)], -1)
    colour = np.where(counts.max(-1) >= 8, counts.argmax(-1) + 1, 0)
    shape = np.zeros_like(colour)
    things = [scene.resting, scene.mover, scene.flashes[0][1], scene.flashes[1][1]]
    worn = [{scene.resting.colour, scene.turned}, *({thing.colour} for thing in things[1:])]
    for thing, names in zip(things, worn, strict=True):
        for name in names:
            shape[colour == list(COLOURS).index(name) + 1] = SHAPES.index(thing.shape) + 1
    back = [list(BACKGROUNDS).index(scene.backgrounds[int(unit >= scene.cut)]) for unit in units]
    background = np.broadcast_to(np.array(back)[:, None], colour.shape)
    return np.stack([colour, shape, background], -1)


@dataclass(frozen=True)
class Batch:
    """pixels [B, UNITS, 3, S, S]; before [P], ids of the chat's beginning; ids, labels [B * QUESTIONS, L] of what
    follows the video, padded on the right. names [B, T*M, 2]: ids of the two words for what each visual token shows,
    and weights [B, T*M], how much each counts. asked: the task of every question."""

    pixels: Tensor
    before: Tensor
    ids: Tensor
    labels: Tensor
    names: Tensor
    weights: Tensor
    kind: str
    asked: list[str]

    def to(self, device: str) -> Batch:
        moved = {f.name: getattr(self, f.name).to(device) for f in fields(self) if f.name not in ("kind", "asked")}
        return replace(self, **moved)


class Lessons:
    """Draws batches; the same seed draws the same ones."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, seed: int):
        self.tokenizer, self.rng = tokenizer, np.random.default_rng(seed)
        self.before = tokenizer(conversation("")[0], add_special_tokens=False).input_ids
        self._cache: dict[str, list[int]] = {}
        # The ids of each label's word, by label; colours and shapes count from 1.
        labels = (("nothing", *COLOURS, "light"), ("light", *SHAPES), BACKGROUNDS, QUARTERS, COUNTS)
        self.letters = {self.text_ids(letter)[0]: letter for letter in "ABCD"}
        (self.question_mark,) = self.text_ids("?")
        self.marks = {self.text_ids(mark)[0] for mark in (")", ".")}
        self.options = {self.text_ids(f" {word}")[0] for word in WORDS}
        self.words = [np.array([self.text_ids(f" {word}")[0] for word in words]) for words in labels]

    def text_ids(self, text: str) -> list[int]:
        if text not in self._cache:
            if len(self._cache) > 200_000:
                self._cache.clear()
            self._cache[text] = self.tokenizer(text, add_special_tokens=False).input_ids
        return self._cache[text]

    def question_ids(self, q: Question, kind: str, style: Callable[[Question], str]) -> tuple[list[int], list[int]]:
        """(ids, labels) of one question with its answer.

        Learned are the answer and the end of the turn, and on the way there the answer's word after the question mark,
        and after each option's word whether that is the answer: the option's letter, or padding where it is not.
        """
        prompt, answer = style(q), q.letter
        if kind == "text":
            prompt = f"The answer is {q.answer}. {prompt}"
        ids = self.text_ids(conversation(prompt)[1])
        if kind in ("word", "names"):
            ids, answer = ids[: ids.index(self.question_mark) + 1], f" {q.answer}"
        labels = [IGNORE_INDEX] * len(ids)
        for place, one in enumerate(ids[2:-1], start=2):
            letter = self.letters.get(ids[place - 2])
            if one == self.question_mark:
                (labels[place + 1],) = self.text_ids(f" {q.answer}")
            elif letter and ids[place - 1] in self.marks and one in self.options:
                labels[place + 1] = ids[place - 2] if letter == q.letter else self.tokenizer.pad_token_id
        target = [*self.text_ids(answer), self.tokenizer.eos_token_id]
        return ids + target, labels + target

    def names(self, labels: np.ndarray, counted: bool) -> tuple[np.ndarray, np.ndarray]:
        """For the patches that pooling mostly looks at: patch labels [UNITS, P, 3] -> ids of words [T*M, 2] and how
        much each token counts [T*M].

        The words are an object's colour and shape, or the background twice; if `counted`, the background and the
        quarter, and for a lamp "light" and how often it was lit so far.
        """
        side = SIZE // PATCH
        colour, shape, background = labels.reshape(UNITS, side, side, 3)[:, ::2, ::2].reshape(UNITS, -1, 3).T
        colours, shapes, backgrounds, quarters, counts = self.words
        covered, lit = colour > 0, colour == len(COLOURS) + 1
        first = np.where(covered, colours[colour], backgrounds[background])
        second = np.where(covered, shapes[shape], backgrounds[background])
        weights = np.where(first != second, 1.0, 0.1)  # most tokens show the background, and it is soon learned
        if counted:
            number = counts[lit.any(0).cumsum() - 1]
            second = np.where(lit, number, np.where(covered, second, quarters[np.arange(UNITS) * 4 // UNITS]))
            weights = np.where(lit, 8.0, np.where(covered, 1.0, 0.1))  # there are very few lamps
        return np.stack([first, second]).transpose(2, 1, 0).reshape(-1, 2), weights.T.flatten().astype(np.float32)

    def patches(self, scenes: int, each: int) -> tuple[Tensor, Tensor]:
        """Single frames: pixels [N, 3, S, S] and patch labels [N, P, 3], N = scenes * each."""
        frames, labels = [], []
        for _ in range(scenes):
            scene = draw_scene(self.rng)
            picked = self.rng.permutation(UNITS)[:each]
            frames.append(render(scene)[picked])
            labels.append(patch_labels(scene, frames[-1], picked))
        return pixels(np.concatenate(frames), self.rng), torch.from_numpy(np.concatenate(labels))

    def batch(self, videos: int, shares: dict[str, float], counted: bool = False) -> Batch:
        """All questions of a batch are of one kind, so that lengths are alike; `shares` are the kinds' chances.

        Kinds: "choice"; "word", cut off after the question mark; "names", as "word", but only naming counts; and
        "text", multiple choice without a video, the answer's word given, any words for options. counted: see `names`.
        """
        kind = str(self.rng.choice(list(shares), p=list(shares.values())))
        style = CHOICES[self.rng.choice(len(CHOICES), p=(0.5, 0.3, 0.2))]
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
            rows += [self.question_ids(q, kind, style) for q in posed]
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


# ---- losses


def video_pass(model: Any, batch: Batch) -> tuple[Any, Tensor]:
    """The LLM on the chat's beginning and the video, if there is one: (its key-value cache, the naming loss)."""
    videos = len(batch.pixels)
    embed = model.model.embed_tokens
    before = embed(batch.before).expand(videos, -1, -1)
    if not batch.names.numel():
        return cache_of(model.model(inputs_embeds=before, use_cache=True)), torch.zeros((), device=before.device)
    features = model.encode_images(batch.pixels.flatten(0, 1))
    pooled = model.get_2dPool(features, 2).unflatten(0, (videos, UNITS)).flatten(1, 2)  # [B, T*M, D]
    newline = model.model.image_newline.expand(videos, 1, -1)
    video = model.model(inputs_embeds=torch.cat([before, pooled, newline], dim=1), use_cache=True)
    seen = video.last_hidden_state[:, len(batch.before) : -1]  # without the newline
    log_words = model.lm_head(seen).float().log_softmax(-1)
    named = -log_words.gather(-1, batch.names).mean(-1)
    return cache_of(video), (named * batch.weights).sum() / batch.weights.sum()


def answer_loss(model: Any, batch: Batch, cache: Any) -> tuple[Tensor, Tensor]:
    """Cross entropy of what is learned, and for each question whether its answer is right.

    cache: what `video_pass` gave; used up.
    """
    cache.batch_repeat_interleave(QUESTIONS)
    called = {"inputs_embeds": model.model.embed_tokens(batch.ids), "use_cache": True}
    give_cache(model.model, called, cache)
    hidden = model.model(**called).last_hidden_state
    targets = batch.labels[:, 1:]
    learned = targets != IGNORE_INDEX
    logits = model.lm_head(hidden[:, :-1][learned])
    places = torch.arange(targets.shape[1], device=targets.device)
    answer = places == (learned * places).amax(dim=1, keepdim=True) - 1  # the end of the turn comes last
    right = logits.argmax(-1)[answer[learned]] == targets[answer]
    return cross_entropy(logits.float(), targets[learned]), right


class PatchHeads(nn.Module):
    """What covers each patch: colour, shape, background; only for the first lesson."""

    def __init__(self) -> None:
        super().__init__()
        self.colour, self.shape = nn.Linear(TOWER_WIDTH, len(COLOURS) + 2), nn.Linear(TOWER_WIDTH, len(SHAPES) + 1)
        self.background = nn.Linear(TOWER_WIDTH, len(BACKGROUNDS))

    def loss(self, features: Tensor, labels: Tensor) -> tuple[Tensor, float]:
        """features [N, P, D], labels [N, P, 3] -> loss, share of covered patches with colour and shape right."""
        outs = [head(features).float() for head in (self.colour, self.shape, self.background)]
        covered = labels[..., 0] > 0
        weight = torch.where(covered, 1.0, 0.1)  # most patches are background and soon learned
        losses = [cross_entropy(out.mT, labels[..., i], reduction="none") for i, out in enumerate(outs)]
        loss = sum(((each * weight).sum() / weight.sum() for each in losses), torch.zeros(()))
        right = (outs[0].argmax(-1) == labels[..., 0]) & (outs[1].argmax(-1) == labels[..., 1])
        return loss, float(right[covered].float().mean())


# ---- lessons


@dataclass(frozen=True)
class Lesson:
    """shares, counted: as `Lessons.batch` takes them. layers: of the LLM; with more than the base has, only those on
    top learn.

    rate, decay: where given, a new optimiser begins: the highest learning rate, and over how many steps it falls.
    """

    name: str
    steps: int
    shares: dict[str, float]
    layers: int = BASE_LAYERS
    counted: bool = True
    rate: float | None = None
    decay: int = 0


@dataclass(frozen=True)
class Plan:
    """vision: steps of the first lesson. videos: per step of the others. save_every: steps between saved states."""

    vision: int = 1500
    lessons: tuple[Lesson, ...] = (
        Lesson("letters", 500, {"text": 1.0}, counted=False, rate=1.5e-3, decay=4600),
        Lesson("names", 300, {"names": 0.8, "text": 0.2}, counted=False),
        Lesson("words", 2000, {"word": 0.9, "text": 0.1}, counted=False),
        Lesson("options", 1800, {"choice": 0.8, "word": 0.15, "text": 0.05}, counted=False),
        Lesson("counts", 450, {"word": 0.6, "choice": 0.35, "text": 0.05}, rate=1.2e-3, decay=450),
        Lesson("choice", 800, {"choice": 0.9, "text": 0.1}, layers=LAYERS, rate=2e-3, decay=800),
    )
    videos: int = 16
    save_every: int = 200

    @property
    def steps(self) -> int:
        return sum(lesson.steps for lesson in self.lessons)

    def lesson(self, step: int) -> Lesson:
        ends = np.cumsum([lesson.steps for lesson in self.lessons])
        return self.lessons[int(np.searchsorted(ends, step, side="right"))]

    def begins(self, step: int) -> int:
        """The step at which the optimiser of this one began."""
        begin, since = 0, 0
        for lesson in self.lessons:
            if lesson.rate is not None and begin <= step:
                since = begin
            begin += lesson.steps
        return since

    def rate(self, step: int) -> float:
        since = self.begins(step)
        first = self.lesson(since)
        assert first.rate is not None, "the first lesson has a rate"
        return first.rate * schedule(step - since, first.decay)


class Training:
    """One run in the directory `output`: the model, its optimiser, and what is needed to go on after an interruption.

    Leaves there training.pt (the state), curve.jsonl (one line per report) and at the end the checkpoint.
    """

    def __init__(self, output: Path, seed: int, device: str, plan: Plan):
        output.mkdir(parents=True, exist_ok=True)
        self.output, self.device, self.plan = output, device, plan
        self.seed, self.tokenizer = seed, build_tokenizer(seed)
        self.lessons = Lessons(self.tokenizer, seed)
        self.model: Any = None
        self.build(BASE_LAYERS)
        self.done = 0
        self.begin = time.monotonic()

    def build(self, layers: int) -> None:
        """A model of as many layers with all that is learned, and its optimiser."""
        learned = self.model.state_dict() if self.model is not None else {}
        self.model = build_model(self.output, self.tokenizer, self.seed, layers).to(self.device)
        self.model.load_state_dict(learned, strict=False)
        if self.device == "cpu":
            self.model.set_attn_implementation("eager")  # its backward pass is faster than SDPA's on CPU
        # The tower learns in its own lesson only; without it the later steps are much faster.
        self.parameters = [p for name, p in self.model.named_parameters() if "vision_tower" not in name]
        if layers > BASE_LAYERS:
            top = (*self.model.model.layers[BASE_LAYERS:], self.model.model.norm)
            self.parameters = [parameter for module in top for parameter in module.parameters()]
        self.optimizer = torch.optim.AdamW(self.parameters, weight_decay=0.02, betas=(0.9, 0.98))

    def run(self) -> None:
        columns = [TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn()]
        with Progress(*columns) as progress:
            task = progress.add_task("", total=self.plan.vision + self.plan.steps)

            def bar(text: str) -> None:
                progress.update(task, advance=1, description=text)

            if self.resume():
                progress.update(task, completed=self.plan.vision + self.done)
            else:
                self.learn_to_see(bar)
            self.learn_to_answer(bar)
        self.model.config.architectures = ["LlavaQwenForCausalLM"]
        self.model.half().save_pretrained(self.output)
        self.tokenizer.save_pretrained(self.output)

    def learn_to_see(self, bar: Callable[[str], None]) -> None:
        tower, heads = self.model.get_vision_tower(), PatchHeads().to(self.device)
        parameters = [*tower.parameters(), *heads.parameters()]
        optimizer = torch.optim.AdamW(parameters, weight_decay=0.02)
        for step in range(self.plan.vision):
            images, labels = self.lessons.patches(scenes=16, each=8)
            loss, accuracy = heads.loss(tower(images.to(self.device)), labels.to(self.device))
            update(optimizer, loss, parameters, 3e-3 * schedule(step, self.plan.vision))
            bar(f"vision {accuracy:.3f}")
            if step % 50 == 49:
                self.report(lesson="vision", step=step + 1, loss=loss.item(), covered_patches_right=accuracy)

    def learn_to_answer(self, bar: Callable[[str], None]) -> None:
        for step in range(self.done, self.plan.steps):
            lesson = self.plan.lesson(step)
            if step == self.plan.begins(step) and step:
                self.build(lesson.layers)
            self.model.requires_grad_(False)
            for parameter in self.parameters:
                parameter.requires_grad_(True)
            batch = self.lessons.batch(self.plan.videos, lesson.shares, lesson.counted).to(self.device)
            with torch.autocast(self.device, torch.bfloat16):
                cache, naming = video_pass(self.model, batch)
                answers, right = answer_loss(self.model, batch, cache)
                loss = naming if batch.kind == "names" else answers
                if batch.kind != "names" and lesson.layers == BASE_LAYERS:
                    loss = loss + 0.3 * naming
            update(self.optimizer, loss, self.parameters, self.plan.rate(step))
            self.done = step + 1
            bar(f"{lesson.name} loss {loss.item():.3f} naming {naming.item():.3f} right {right.float().mean():.3f}")
            if self.done % self.plan.save_every == 0 or self.done == self.plan.steps:
                losses = {"loss": loss.item(), "naming": naming.item()}
                self.report(lesson=lesson.name, step=self.done, **losses, **self.examine())
                self.save()

    @torch.no_grad()
    def examine(self, batches: int = 6) -> dict[str, dict[str, float]]:
        """Share of right first answer tokens on held-out scenes, per kind of question and task."""
        lessons = Lessons(self.tokenizer, HELD_OUT - 1)
        scores: dict[str, dict[str, float]] = {}
        for kind in ("word", "choice"):
            right: dict[str, list[bool]] = {task: [] for task in (*TASKS, *STEPPING_STONES)}
            for _ in range(batches):
                batch = lessons.batch(self.plan.videos, {kind: 1.0}).to(self.device)
                with torch.autocast(self.device, torch.bfloat16):
                    _, answers = answer_loss(self.model, batch, video_pass(self.model, batch)[0])
                for task, answer in zip(batch.asked, answers.tolist(), strict=True):
                    right[task].append(answer)
            scores[kind] = {task: round(float(np.mean(answers)), 3) for task, answers in right.items()}
            scores[kind]["overall"] = round(float(np.mean([scores[kind][task] for task in TASKS])), 3)
        return scores

    def report(self, **entry: Any) -> None:
        with (self.output / "curve.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps({**entry, "seconds": round(time.monotonic() - self.begin)}) + "\n")

    def save(self) -> None:
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "rng": self.lessons.rng.bit_generator.state,
            "step": self.done,
        }
        partial = self.output / "training.partial"
        torch.save(state, partial)
        partial.replace(self.output / "training.pt")

    def resume(self) -> bool:
        """Go on from training.pt; False where there is none."""
        file = self.output / "training.pt"
        if not file.exists():
            return False
        state = torch.load(file, weights_only=True)
        if state["step"]:
            self.build(self.plan.lesson(state["step"] - 1).layers)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.lessons.rng.bit_generator.state = state["rng"]
        self.done = state["step"]
        return True


def schedule(step: int, steps: int, warmup: int = 100) -> float:
    """Linear warm-up, then a cosine down to 3 %."""
    return min((step + 1) / warmup, 0.03 + 0.97 * (1 + math.cos(math.pi * step / steps)) / 2)


def update(optimizer: torch.optim.Optimizer, loss: Tensor, parameters: list[Tensor], rate: float) -> None:
    optimizer.param_groups[0]["lr"] = rate
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(parameters, 1.0)
    optimizer.step()


def main() -> None:
    parser = argparse.ArgumentParser(description="train the demo model")
    parser.add_argument("output", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    Training(arguments.output, arguments.seed, arguments.device, Plan()).run()
    training_curve(arguments.output / "curve.jsonl", arguments.output / "curve")


if __name__ == "__main__":
    main()
