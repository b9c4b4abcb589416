"""Train the demo model, a tiny LLaVA-OneVision, on MiniBench's world, from nothing, on two CPU cores or a GPU.

    python -m eval.demo.training.train OUTPUT

Each lesson needs the ones before it:
1. vision: the tower learns which object and which background each patch shows, and where the patch is. Without this
   lesson, the LLM alone never learns to see.
2. names: at every visual token the LLM says what it shows. Without this lesson, answers that depend on a few tokens out
   of hundreds stay at chance. Naming remains part of the loss in the following lessons.
3. words: after a question's question mark the LLM says the answer's word. The clips are short.
4. longer: the same, with longer clips.
5. letters: multiple choice without a video, in the benchmarks' own prompts. The prompt tells the answer's word ("The
   answer is red."). After each option's word the LLM says whether that is the answer. Without this lesson, finding the
   letter of a word stays at chance. Before the words, it makes their lessons three times as long. Two new layers on top
   have room for it.
6. options: multiple choice on videos, of all lengths.

In every batch other frames and tokens are missing (`clips.draw_view`).
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor

from ..minibench import HELD_OUT
from ..world import STEPPING_STONES, TASKS
from .batches import Batch, BatchSampler
from .clips import FULL, draw_view
from .curve import training_curve
from .losses import answer_loss, video_pass
from .model import BASE_LAYERS, PatchHeads, build_model, write_tower_config
from .optimisers import Optimisers
from .plan import Plan, schedule
from .tokenizer import build_tokenizer

LONG = 400
"""Clips with more visual tokens are long. A batch has half as many of them. On CPUs eager attention trains faster than
SDPA on short clips, and slower on long ones."""
EXAMS = {
    "word": ("word", FULL),
    "choice": ("choice", FULL),
    "choice at 25 %": ("choice", replace(FULL, missing="tokens", kept=FULL.kept // 4)),
}
"""What a training is examined on: kind of question, and all tokens or a random quarter of them, numbered anew."""

FAMILIES = {
    "model": {"mm_newline_position": "one_token", "mm_spatial_pool_mode": "bilinear"},
    "llava_video": {"mm_newline_position": "grid", "mm_spatial_pool_mode": "average"},
}
"""By name of the directory, what a checkpoint's config says about videos: as in LLaVA-OneVision, and as in LLaVA-Video.
Both ways of pooling make the same 6x6 tokens of 12x12 patches."""


class Training:
    """One training run. An interrupted run continues where it was last saved.

    The output directory holds training.pt (the state), curve.jsonl (one line per report) and, at the end, a directory
    with the checkpoint for each of FAMILIES.

    Args:
        output: The output directory.
        seed: Seed of the weights and of the training data.
        device: "cpu" or "cuda".
        plan: The lessons.
    """

    def __init__(self, output: Path, seed: int, device: str, plan: Plan):
        output.mkdir(parents=True, exist_ok=True)
        self.output, self.device, self.plan = output, device, plan
        self.seed, self.tokenizer = seed, build_tokenizer(seed)
        self.batches = BatchSampler(self.tokenizer, seed)
        self.model: Any = None
        self.build(BASE_LAYERS)
        self.done = 0
        self.begin = time.monotonic()

    def build(self, layers: int) -> None:
        """Build a model with this many layers that keeps what was learned, and a new optimiser."""
        learned = self.model.state_dict() if self.model is not None else {}
        self.model = build_model(self.output, self.tokenizer, self.seed, layers).to(self.device)
        self.model.load_state_dict(learned, strict=False)
        # The tower learns only in the vision lesson. Without it the later steps are much faster.
        named = [(name, p) for name, p in self.model.named_parameters() if "vision_tower" not in name]
        self.optimisers = Optimisers(named)
        self.model.requires_grad_(False)
        for _, parameter in named:
            parameter.requires_grad_(True)

    def run(self) -> None:
        """Train from the start, or from the saved state if there is one, and write the checkpoint."""
        columns = [TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn()]
        with Progress(*columns) as progress:
            task = progress.add_task("", total=self.plan.vision + self.plan.steps)

            def advance(text: str) -> None:
                progress.update(task, advance=1, description=text)

            if self.resume():
                progress.update(task, completed=self.plan.vision + self.done)
            else:
                self.learn_to_see(advance)
            self.learn_to_answer(advance)
        self.export()

    def export(self) -> None:
        """Write the checkpoint, once for each of FAMILIES. The weights are the same."""
        self.model.half()
        for name, fields in FAMILIES.items():
            folder = self.output / name
            write_tower_config(folder)
            self.model.config.update({"architectures": ["LlavaQwenForCausalLM"], **fields})
            self.model.save_pretrained(folder)
            self.tokenizer.save_pretrained(folder)

    def learn_to_see(self, advance: Callable[[str], None]) -> None:
        """The vision lesson. advance: moves the progress bar by a step, with a text."""
        tower, heads = self.model.get_vision_tower(), PatchHeads().to(self.device)
        tower.requires_grad_(True)
        optimisers = Optimisers([*tower.named_parameters(), *heads.named_parameters("embed")])
        for step in range(self.plan.vision):
            images, labels = self.batches.patches(scenes=16, each=4)
            with torch.autocast(self.device, torch.bfloat16):
                features = tower(images.to(self.device))
            loss, accuracy = heads.loss(features.float(), labels.to(self.device))
            optimisers.update(loss, 6e-3 * schedule(step, self.plan.vision))
            advance(f"vision {accuracy:.3f}")
            if step % 50 == 49:
                self.report(lesson="vision", step=step + 1, loss=loss.item(), covered_patches_right=accuracy)
        tower.requires_grad_(False)
        self.save()

    def learn_to_answer(self, advance: Callable[[str], None]) -> None:
        """All lessons after the vision lesson. advance: moves the progress bar by a step, with a text."""
        for step in range(self.done, self.plan.steps):
            lesson = self.plan.lesson(step)
            if step == self.plan.optimiser_start(step) and step:
                self.build(lesson.layers)
            kind = str(self.batches.rng.choice(list(lesson.shares), p=list(lesson.shares.values())))
            view = draw_view(self.batches.rng, lesson.longest)
            videos = -(-lesson.videos // 2) if view.kept > LONG else lesson.videos
            batch = self.batches.batch(videos, kind, view).to(self.device)
            naming, answers, right = self.losses(batch)
            loss = naming if kind == "names" else answers
            if kind not in ("names", "text"):
                loss = loss + 0.3 * naming
            self.optimisers.update(loss, self.plan.rate(step))
            self.done = step + 1
            advance(f"{lesson.name} loss {loss.item():.3f} naming {naming.item():.3f} right {right.float().mean():.3f}")
            if self.done % self.plan.save_every == 0 or self.done == self.plan.steps:
                losses = {"loss": loss.item(), "naming": naming.item()}
                self.report(lesson=lesson.name, step=self.done, **losses, **self.examine())
                self.save()

    def losses(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Run the model on a batch. Returns the losses of naming and answering, and which answers are right."""
        if self.device == "cpu":
            self.model.set_attn_implementation("sdpa" if batch.view.kept > LONG else "eager")
        with torch.autocast(self.device, torch.bfloat16):
            cache, after, naming = video_pass(self.model, batch)
            answers, right = answer_loss(self.model, batch, cache, after)
        return naming, answers, right

    @torch.no_grad()
    def examine(self) -> dict[str, dict[str, float]]:
        """Test the model on scenes that training does not use.

        Returns:
            Accuracy by kind of question ("word", "choice", "choice at 25 %") and task, with "overall" over MiniBench's
            tasks.
        """
        scores: dict[str, dict[str, float]] = {}
        for name, (kind, view) in EXAMS.items():
            sampler = BatchSampler(self.tokenizer, HELD_OUT - 1)
            right: dict[str, list[bool]] = {task: [] for task in (*TASKS, *STEPPING_STONES)}
            for _ in range(self.plan.examined):
                batch = sampler.batch(8, kind, view).to(self.device)
                for task, answer in zip(batch.asked, self.losses(batch)[2].tolist(), strict=True):
                    right[task].append(answer)
            accuracies = {task: round(float(np.mean(answers)), 3) for task, answers in right.items() if answers}
            overall = float(np.mean([accuracy for task, accuracy in accuracies.items() if task in TASKS]))
            scores[name] = accuracies | {"overall": round(overall, 3)}
        return scores

    def report(self, **entry: Any) -> None:
        """Add a line to curve.jsonl."""
        with (self.output / "curve.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps({**entry, "seconds": round(time.monotonic() - self.begin)}) + "\n")

    def save(self) -> None:
        """Write the state, from which `resume` continues."""
        state = {
            "model": self.model.state_dict(),
            "optimisers": self.optimisers.state_dict(),
            "rng": self.batches.rng.bit_generator.state,
            "step": self.done,
            "seconds": time.monotonic() - self.begin,
        }
        partial = self.output / "training.partial"
        torch.save(state, partial)
        partial.replace(self.output / "training.pt")

    def resume(self) -> bool:
        """Load the saved state. Returns whether there was one."""
        file = self.output / "training.pt"
        if not file.exists():
            return False
        state = torch.load(file, weights_only=True)
        if state["step"]:
            self.build(self.plan.lesson(state["step"] - 1).layers)
        self.model.load_state_dict(state["model"])
        self.optimisers.load_state_dict(state["optimisers"])
        self.batches.rng.bit_generator.state = state["rng"]
        self.done = state["step"]
        self.begin = time.monotonic() - state["seconds"]
        return True


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="train the demo model")
    parser.add_argument("output", type=Path, help="directory for the checkpoint and the state of the training")
    parser.add_argument("--seed", type=int, default=0, help="seed of the weights and of the training data")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu or cuda")
    arguments = parser.parse_args()
    Training(arguments.output, arguments.seed, arguments.device, Plan()).run()
    training_curve(arguments.output / "curve.jsonl", arguments.output / "curve")


if __name__ == "__main__":
    main()
