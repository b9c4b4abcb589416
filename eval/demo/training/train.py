"""Train the demo model, a tiny LLaVA-OneVision, on MiniBench's world, from nothing, on two CPU cores or a GPU.

    python -m eval.demo.training.train OUTPUT

Each lesson needs the ones before it:
1. vision: the tower learns which object and which background each patch shows. Without this lesson, the LLM alone never
   learns to see.
2. letters: multiple choice without a video, in the benchmarks' own prompts. The prompt tells the answer's word ("The
   answer is red."). After each option's word the LLM says whether that is the answer. Without this step, finding the
   letter of a word stays at chance.
3. names: at every visual token the LLM says what it shows (colour and shape, or background). Without this lesson,
   answers that depend on a few tokens out of hundreds stay at chance. Naming remains part of the loss in the following
   lessons.
4. words: after a question's question mark the LLM says the answer's word.
5. options: multiple choice on videos. The LLM learns to remember the options' words, but seldom finds the right one:
   the answer's word appears only in its last layer, too late to look it up.
6. counts: the names now also tell a lamp's number and the quarter of the video. Without this lesson, counting stays
   poor.
7. choice: new layers on top learn to find the word among the options. All other layers stay as they are.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor, nn

from ..minibench import HELD_OUT
from ..world import STEPPING_STONES, TASKS
from .batches import BatchSampler
from .curve import training_curve
from .losses import answer_loss, video_pass
from .model import BASE_LAYERS, PatchHeads, build_model
from .plan import Plan, schedule
from .tokenizer import build_tokenizer


class Training:
    """One training run. An interrupted run continues where it was last saved.

    The output directory holds training.pt (the state), curve.jsonl (one line per report) and, at the end, the
    checkpoint.

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
        if self.device == "cpu":
            self.model.set_attn_implementation("eager")  # On CPUs its backward pass is faster than SDPA's.
        # The tower learns only in the vision lesson. Without it the later steps are much faster.
        self.parameters = [p for name, p in self.model.named_parameters() if "vision_tower" not in name]
        if layers > BASE_LAYERS:
            top = (*self.model.model.layers[BASE_LAYERS:], self.model.model.norm)
            self.parameters = [parameter for module in top for parameter in module.parameters()]
        self.optimizer = torch.optim.AdamW(self.parameters, weight_decay=0.02, betas=(0.9, 0.98))

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
        self.model.config.architectures = ["LlavaQwenForCausalLM"]
        self.model.half().save_pretrained(self.output)
        self.tokenizer.save_pretrained(self.output)

    def learn_to_see(self, advance: Callable[[str], None]) -> None:
        """The vision lesson. advance: moves the progress bar by a step, with a text."""
        tower, heads = self.model.get_vision_tower(), PatchHeads().to(self.device)
        parameters = [*tower.parameters(), *heads.parameters()]
        optimizer = torch.optim.AdamW(parameters, weight_decay=0.02)
        for step in range(self.plan.vision):
            images, labels = self.batches.patches(scenes=16, each=8)
            loss, accuracy = heads.loss(tower(images.to(self.device)), labels.to(self.device))
            update(optimizer, loss, parameters, 3e-3 * schedule(step, self.plan.vision))
            advance(f"vision {accuracy:.3f}")
            if step % 50 == 49:
                self.report(lesson="vision", step=step + 1, loss=loss.item(), covered_patches_right=accuracy)

    def learn_to_answer(self, advance: Callable[[str], None]) -> None:
        """All lessons after the vision lesson. advance: moves the progress bar by a step, with a text."""
        for step in range(self.done, self.plan.steps):
            lesson = self.plan.lesson(step)
            if step == self.plan.optimiser_start(step) and step:
                self.build(lesson.layers)
            self.model.requires_grad_(False)
            for parameter in self.parameters:
                parameter.requires_grad_(True)
            batch = self.batches.batch(self.plan.videos, lesson.shares, lesson.counted).to(self.device)
            with torch.autocast(self.device, torch.bfloat16):
                cache, naming = video_pass(self.model, batch)
                answers, right = answer_loss(self.model, batch, cache)
                loss = naming if batch.kind == "names" else answers
                if batch.kind != "names" and lesson.layers == BASE_LAYERS:
                    loss = loss + 0.3 * naming
            update(self.optimizer, loss, self.parameters, self.plan.rate(step))
            self.done = step + 1
            advance(f"{lesson.name} loss {loss.item():.3f} naming {naming.item():.3f} right {right.float().mean():.3f}")
            if self.done % self.plan.save_every == 0 or self.done == self.plan.steps:
                losses = {"loss": loss.item(), "naming": naming.item()}
                self.report(lesson=lesson.name, step=self.done, **losses, **self.examine())
                self.save()

    @torch.no_grad()
    def examine(self, batches: int = 6) -> dict[str, dict[str, float]]:
        """Test the model on scenes that training does not use.

        Args:
            batches: How many batches to ask of each kind.

        Returns:
            Accuracy by kind of question ("word", "choice") and task, with "overall" over MiniBench's tasks.
        """
        sampler = BatchSampler(self.tokenizer, HELD_OUT - 1)
        scores: dict[str, dict[str, float]] = {}
        for kind in ("word", "choice"):
            right: dict[str, list[bool]] = {task: [] for task in (*TASKS, *STEPPING_STONES)}
            for _ in range(batches):
                batch = sampler.batch(self.plan.videos, {kind: 1.0}).to(self.device)
                with torch.autocast(self.device, torch.bfloat16):
                    _, answers = answer_loss(self.model, batch, video_pass(self.model, batch)[0])
                for task, answer in zip(batch.asked, answers.tolist(), strict=True):
                    right[task].append(answer)
            scores[kind] = {task: round(float(np.mean(answers)), 3) for task, answers in right.items()}
            scores[kind]["overall"] = round(float(np.mean([scores[kind][task] for task in TASKS])), 3)
        return scores

    def report(self, **entry: Any) -> None:
        """Add a line to curve.jsonl."""
        with (self.output / "curve.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps({**entry, "seconds": round(time.monotonic() - self.begin)}) + "\n")

    def save(self) -> None:
        """Write the state, from which `resume` continues."""
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "rng": self.batches.rng.bit_generator.state,
            "step": self.done,
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
        self.optimizer.load_state_dict(state["optimizer"])
        self.batches.rng.bit_generator.state = state["rng"]
        self.done = state["step"]
        return True


def update(optimizer: torch.optim.Optimizer, loss: Tensor, parameters: list[Tensor], rate: float) -> None:
    """One step of the optimiser, with gradients clipped to norm 1."""
    optimizer.param_groups[0]["lr"] = rate
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(parameters, 1.0)
    optimizer.step()


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
