"""Measure what fine-tuning under a compressor wins back on the demo model: write tables into docs/finetuning.md.

    python -m eval.demo.training.finetuned

It makes the training data, runs `scripts/finetune.py` under each of COMPRESSORS, and asks all models the same
questions.
What stands between two marks in the page is replaced, and so is the JSON file. What is finished is not done again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vidcom2 import compressor

from ...benchmarks.mvbench import MVBENCH
from ...models.packaged import DEMO_MODEL, model_title
from ...reports.figures import point
from ...results.files import write_json, write_whole
from ...results.load import Run, load_run
from ...results.provenance import provenance
from ...results.stats import paired_interval
from ...results.tables import Rows, markdown_table
from ...run.distributed import World
from ...run.flags import status
from ...run.sweep import Sweep
from ..minibench import HELD_OUT, write_mvbench
from ..run import PER_TASK, config
from ..world import TASKS
from .analysis import replaced
from .conversations import write_conversations

COMPRESSORS = ("none", "vidcom2@0.15")
"""What a model is fine-tuned under. The first is a control: it has the same training, without compression."""
SETTINGS = ("none", "vidcom2@0.15")
"""What every model is asked under."""
SCRIPT = Path(__file__).parents[3] / "scripts" / "finetune.py"
PATHS = ("model", "data", "output")
"""Settings of a training that are directories of this machine."""
BEFORE = "before"
"""The demo model as it is."""
Runs = Mapping[str, Mapping[str, Run]]
"""By model and setting."""


def train(data: Path, output: Path, spec: str, flags: Sequence[str]) -> dict[str, Any]:
    """Fine-tune the demo model, if `output` has none yet. Returns what the script has written about it."""
    record = output / "finetune.json"
    if not record.exists():
        command = [sys.executable, str(SCRIPT), "--model", str(DEMO_MODEL), "--data", str(data)]
        subprocess.run([*command, "--output", str(output), "--compressor", spec, *flags], check=True)
    return json.loads(record.read_text(encoding="utf-8"))


def asked(models: Mapping[str, Path], data: Path, output: Path, world: World) -> Runs:
    """Ask all models the questions below `data` under all SETTINGS.

    Raises:
        ValueError: A question failed.
    """
    runs: dict[str, dict[str, Run]] = {}
    for name, model in models.items():
        sweep = Sweep(config(MVBENCH, data, output / name, model), [compressor(spec) for spec in SETTINGS])
        sweep.check()
        if failed := sweep.run(world):
            raise ValueError(f"{failed} questions failed: remove {output / name} and run this again")
        runs[name] = {run.compressor.spec: load_run(run.output) for run in sweep.runs}
    return runs


def difference(a: Run, b: Run) -> tuple[float, float, float]:
    """b's accuracy less a's, in percentage points, with its paired 95 % interval."""
    return paired_interval(a.scores, b.scores, a.categories, a.overall)


def comparisons(runs: Runs) -> dict[str, tuple[float, float, float]]:
    """The differences that tell what fine-tuning does, by what they are."""
    kept = SETTINGS[1]
    before, found = runs[BEFORE], {}
    for name, model in runs.items():
        if name != BEFORE:
            found[f"{kept}: fine-tuned under {name}, less before"] = difference(before[kept], model[kept])
            found[f"dense: fine-tuned under {name}, less before"] = difference(before["none"], model["none"])
    found[f"{kept}: fine-tuned under it, less under none"] = difference(runs["none"][kept], runs[kept][kept])
    for name in (BEFORE, "none", kept):
        found[f"{name}: {kept}, less dense"] = difference(runs[name]["none"], runs[name][kept])
    return found


def section(runs: Runs, losses: Mapping[str, Sequence[float]]) -> str:
    """The page's tables."""
    rows: Rows = [("fine-tuned under", "loss, first and last tenth", "dense", SETTINGS[1])]
    for name, model in runs.items():
        tenth = max(1, len(losses[name]) // 10) if name in losses else 0
        ends = [sum(part) / tenth for part in (losses[name][:tenth], losses[name][-tenth:])] if tenth else []
        cells = [f"{p.accuracy:.1f} [{p.low:.1f}, {p.high:.1f}]" for p in (point(model[spec]) for spec in SETTINGS)]
        rows.append((name, ", ".join(f"{end:.3f}" for end in ends) or "-", *cells))
    more = [("difference, points", "95 % interval")]
    more += [(f"{name}: {d:+.1f}", f"[{low:+.1f}, {high:+.1f}]") for name, (d, low, high) in comparisons(runs).items()]
    tasks = [("", *(f"{name}, {spec}" for name in runs for spec in SETTINGS))]
    for task in TASKS:
        scores = [run.summary.scores.categories[task] for model in runs.values() for run in model.values()]
        tasks.append((task, *(f"{score.accuracy:.0f}" for score in scores)))
    questions = len(runs[BEFORE]["none"].samples)
    head = f"{questions} questions of MiniBench in MVBench's schema, accuracy in percent with 95 % intervals:\n"
    return "\n".join([head, markdown_table(rows), markdown_table(more), "By task:\n", markdown_table(tasks)])


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--output", type=Path, default=Path("outputs/demo/finetune"), help="directory for all files")
    parser.add_argument("--docs", type=Path, default=Path("docs"), help="directory of the page")
    parser.add_argument("--train-per-task", type=int, default=200, help="conversations per task")
    parser.add_argument("--per-task", type=int, default=PER_TASK, help="questions per task")
    parser.add_argument("--seed", type=int, default=HELD_OUT, help="seed of the questions' scenes")
    parser.add_argument("--steps", default="100", help="of the training")
    parser.add_argument("--rate", default="3e-5", help="highest learning rate of the training")
    parser.add_argument("--processes", type=int, default=1, help="processes that share the questions")
    arguments = parser.parse_args(argv)
    page, output = arguments.docs / "finetuning.md", arguments.output
    replaced(page.read_text(encoding="utf-8"), "")  # raises now, not after the work
    data, train_data = output / "data", output / "train" / "train.json"
    if not train_data.exists():
        write_conversations(train_data.parent, arguments.train_per_task)
    write_mvbench(data, arguments.per_task, arguments.seed)
    flags = ["--steps", arguments.steps, "--rate", arguments.rate]
    records = {spec: train(train_data, output / "models" / spec, spec, flags) for spec in COMPRESSORS}
    models = {BEFORE: DEMO_MODEL, **{spec: output / "models" / spec for spec in records}}
    runs = asked(models, data, output / "runs", World((("cpu",),) * arguments.processes))
    losses = {spec: record["losses"] for spec, record in records.items()}
    made = provenance()
    content = {
        "date": made.date,
        "versions": made.versions,
        "command": made.command,
        "model": model_title(str(DEMO_MODEL)),
        "training": {spec: {k: v for k, v in r.items() if k not in PATHS} for spec, r in records.items()},
        "accuracy": {name: {spec: vars(point(run)) for spec, run in model.items()} for name, model in runs.items()},
        "differences": comparisons(runs),
    }
    write_json(arguments.docs / "benchmarks" / "finetune-demo.json", content)
    write_whole(page, replaced(page.read_text(encoding="utf-8"), section(runs, losses)))
    return status(0)


if __name__ == "__main__":
    sys.exit(main())
