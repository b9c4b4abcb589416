"""MiniBench's editions laid out as on the hub: lmms-eval's own command line and ours find the same and score the same.

A hub dataset is a directory of its name in the working directory, which `datasets` prefers to the hub, and its videos
are where lmms-eval unpacks them, below HF_HOME. In the slow tests there is a hub, and nothing is unpacked yet.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
import yaml

from eval.benchmarks import BENCHMARKS, Benchmark
from eval.cli import main
from eval.demo.minibench import WRITERS
from eval.demo.world import TASKS
from eval.models.packaged import DEMO_MODEL
from eval.results.sample import NO_ANSWER, Sample
from eval.run.lmms import load_tasks, score, stand_in
from eval.run.store import Answers
from eval.run.worker import VideoQuestions

ROOT = Path(__file__).resolve().parents[3]
PERCENT = {"longvideobench": 100, "egoschema": 100, "perceptiontest": 100}
"""What lmms-eval's scores are to be multiplied with, where they are fractions."""


def tasks_of(name: str) -> tuple[str, ...]:
    return tuple(f"mvbench_{task}" for task in TASKS) if name == "mvbench" else BENCHMARKS[name].tasks


def declared(benchmark: Benchmark, tasks: Sequence[str]) -> list[dict[str, Any]]:
    """The tasks' settings as lmms-eval has them."""
    import lmms_eval
    from lmms_eval.tasks import TaskManager
    from lmms_eval.utils import load_yaml_config

    folder = Path(str(lmms_eval.__file__)).parent / "tasks" / benchmark.folder
    index = TaskManager(include_path=str(folder), include_defaults=False).task_index
    return [load_yaml_config(index[task]["yaml_path"], mode="simple") for task in tasks]


def videos_of(data: Path) -> Path:
    """What lmms-eval has in HF_HOME/<cache_dir> is below this."""
    return data / "video" if (data / "video").is_dir() else data


def publish(name: str, data: Path, hub: Path) -> dict[str, Any]:
    """Make the repository's directory, with dataset card and questions; returns the settings of one of its tasks."""
    configs = []
    tasks = tasks_of(name)
    for task, settings in zip(tasks, declared(BENCHMARKS[name], tasks), strict=True):
        repository, split = hub / settings["dataset_path"], settings["test_split"]
        (file,) = BENCHMARKS[name].local(task, data)["dataset_kwargs"]["data_files"].values()
        path = Path(file if isinstance(file, str) else file[0]).relative_to(data)
        (repository / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(data / path, repository / path)
        files = [{"split": split, "path": str(path)}]
        configs.append({"config_name": settings.get("dataset_name") or "default", "data_files": files})
    (repository / "README.md").write_text(f"---\n{yaml.safe_dump({'configs': configs})}---\n")
    return settings


@pytest.fixture(scope="module")
def minis(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: write(tmp_path_factory.mktemp(name), 1) for name, write in WRITERS.items()}


@pytest.fixture(scope="module")
def fetched(minis: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """hub/, to work in, and hf_home/."""
    root = tmp_path_factory.mktemp("fetched")
    for name, data in minis.items():
        settings = publish(name, data, root / "hub")
        unpacked = root / "hf_home" / settings["dataset_kwargs"]["cache_dir"]
        unpacked.mkdir(parents=True)
        for child in videos_of(data).iterdir():
            (unpacked / child.name).symlink_to(child)
    return root


@contextmanager
def offline(fetched: Path) -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HOME", str(fetched / "hf_home"))
        patch.setenv("HF_HUB_OFFLINE", "1")
        # lmms-eval asks for HF_HOME once per process. Earlier sessions may have left other files of the same relative
        # paths in the user's own cache.
        patch.setattr("lmms_eval.api.task._resolve_hf_datasets_cache_dir", lambda: str(fetched / "datasets"))
        patch.chdir(fetched / "hub")
        yield patch


# ---- the same run, by lmms-eval's command line

RUNS = {
    "llava_onevision": (DEMO_MODEL, "max_frames_num=16", "uniform:16"),
    "llava_vid": (None, "conv_template=qwen_1_5,max_frames_num=8,mm_spatial_pool_mode=average", "fps:1:max8"),
}
"""lmms-eval's model, and for it: the checkpoint, None for the tiny one; lmms-eval's arguments; our --sampling."""


@pytest.mark.parametrize(
    ("model", "names"),
    [
        ("llava_onevision", ("mvbench", "videomme", "mlvu")),
        pytest.param("llava_onevision", ("longvideobench", "egoschema", "perceptiontest"), marks=pytest.mark.slow),
        pytest.param("llava_vid", tuple(WRITERS), marks=pytest.mark.slow),
    ],
)
def test_lmms_evals_command_line_gives_the_same(model, names, llava_video, minis, fetched, tmp_path):
    checkpoint, arguments, sampling = RUNS[model]
    checkpoint = checkpoint or llava_video
    results, samples = run_lmms_eval(
        model, f"pretrained={checkpoint},{arguments},device_map=auto", names, fetched, tmp_path / "theirs"
    )
    flags = ["--model", str(checkpoint), "--sampling", sampling, "--dtype", "float16", "--device", "cpu"]
    flags += ["--compressor", "vidcom2", "--retention", "0.25"]
    scores = set()
    for name in names:
        tasks, output = tasks_of(name), tmp_path / name
        flagged = ["--tasks", ",".join(tasks), "--data", str(minis[name]), "--output", str(output), *flags]
        assert main(["run", *flagged]) == 0
        lines = [json.loads(line) for line in (output / "samples.jsonl").read_text().splitlines()]
        theirs = {key: sample for key, sample in samples.items() if key[0] in tasks}
        assert {(line["task"], line["doc_id"]) for line in lines} == set(theirs)
        assert len(lines) == len(TASKS)
        for line in lines:
            sample = theirs[line["task"], line["doc_id"]]
            assert sample["input"] in line["prompt"]
            assert line["answer"] == sample["filtered_resps"]
        assert len({line["answer"] for line in lines}) > 1

        metric = f"{BENCHMARKS[name].metric},none"
        overall = sum(results[task][metric] for task in tasks) / len(tasks) * PERCENT.get(name, 1)
        ours = json.loads((output / "results.json").read_text())
        assert ours["visual_tokens"]["after"] < 0.5 * ours["visual_tokens"]["before"]
        assert ours["scores"]["overall"] == pytest.approx(overall, abs=5.1e-4)  # LongVideoBench's has five digits
        scores.add(overall)
    assert len(scores) > 1


def run_lmms_eval(
    model: str, arguments: str, names: Sequence[str], fetched: Path, output: Path, device: str = "--device cpu"
) -> tuple[dict[str, Any], dict[tuple[str, int], dict[str, Any]]]:
    """`python -m lmms_eval` on the benchmarks, in this process, since importing it takes half a minute; its results by
    task, its samples by task and doc_id."""
    from lmms_eval.cli.dispatch import main as lmms_eval
    from loguru import logger

    tasks = [task for name in names for task in tasks_of(name)]
    command = f"--model {model} --model_args {arguments} {device} --batch_size 1"
    command += f" --tasks {','.join(tasks)} --output_path {output} --log_samples --verbosity DEBUG"
    with offline(fetched) as patch:
        patch.setenv("COMPRESSOR", "vidcom2")
        patch.setenv("R_RATIO", "0.25")
        patch.setenv("VERBOSITY", "")  # it sets that
        patch.setattr(sys, "argv", ["lmms_eval", *command.split()])
        lmms_eval()
    logger.remove()  # what it set up writes to a standard output that is soon closed
    (results,) = output.rglob("*_results.json")
    samples = {
        (task, sample["doc_id"]): sample
        for task in tasks
        for file in output.rglob(f"*_samples_{task}.jsonl")
        for sample in map(json.loads, file.read_text().splitlines())
    }
    return json.loads(results.read_text())["results"], samples


# ---- without --data


@pytest.mark.parametrize("name", ["mlvu", "videomme", "egoschema", "perceptiontest"])
def test_a_video_that_was_not_unpacked_costs_its_questions_only(name, minis, fetched, tmp_path):
    """lmms-eval's tasks for these end the process where a video is missing."""
    task, second = tasks_of(name)[0], 1
    with offline(fetched):
        tasks = load_tasks(BENCHMARKS[name], (task,), None, "llava_onevision")
    visual = tasks[task].config.doc_to_visual
    found = [Path(*visual(doc)) for doc in tasks[task].eval_docs]
    assert all(path.is_relative_to(fetched / "hf_home") for path in found)
    answered = []

    def answer(videos: list[VideoQuestions]) -> None:
        for one in videos:
            for question in one.questions:
                answered.append(one.video)
                answers.add(Sample(*question.key, one.video, question.text, "A", None, 4, 2.0, 100, 25, {}))

    answers = Answers(tmp_path, 0)
    hidden = found[second].with_suffix(".hidden")
    found[second].rename(hidden)
    try:
        with answers.open():
            model = stand_in([answers], answer, tasks, fetched / "hf_home")
            (results,) = score(model, tasks, 3, [answers])
    finally:
        hidden.rename(found[second])
    assert answered == [str(found[0]), str(found[2])]
    failure = answers.samples[task, second]
    assert failure.answer == NO_ANSWER
    assert f"{found[second]} does not exist" in str(failure.error)
    scored = {sample["doc_id"]: BENCHMARKS[name].score(sample) for sample in results["samples"][task]}
    assert set(scored) == {0, 1, 2}


# ---- a hub

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@contextmanager
def serve(root: Path) -> Iterator[str]:
    """A Hugging Face hub with a dataset repository in every root/<owner>/<name>, as far as reading them needs it."""

    class Hub(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            sent = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
            url = urlsplit(self.path)
            match unquote(url.path).strip("/").split("/"):
                case ["api", "datasets", owner, name, "revision", _]:
                    described = {"id": f"{owner}/{name}", "sha": COMMIT}
                    repository = root / owner / name
                    self.send_repository(
                        repository, lambda all: described | {"siblings": [f for f in all if "size" in f]}
                    )
                case ["api", "datasets", owner, name, "tree", _, *path]:
                    deep = parse_qs(url.query).get("recursive") == ["true"]
                    pattern = "/".join([*path, "**/*" if deep else "*"])
                    self.send_repository(root / owner / name, list, pattern)
                case ["api", "datasets", owner, name, "paths-info", _]:
                    wanted = parse_qs(sent)["paths"]
                    self.send_repository(root / owner / name, lambda files: [f for f in files if f["path"] in wanted])
                case ["datasets", owner, name, "resolve", _, *path] if root.joinpath(owner, name, *path).is_file():
                    self.send(200, root.joinpath(owner, name, *path).read_bytes())
                case _:
                    self.send(404, b"", "EntryNotFound")

        def send_repository(self, repository: Path, form: Callable[[list], Any], pattern: str = "**/*") -> None:
            files = [
                {"path": path, "rfilename": path, "oid": "0" * 40}
                | ({"type": "directory"} if file.is_dir() else {"type": "file", "size": file.stat().st_size})
                for file in sorted(repository.glob(pattern))
                for path in [str(file.relative_to(repository))]
            ]
            self.send(200, json.dumps(form(files)).encode())

        def send(self, status: int, body: bytes, error: str = "") -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("ETag", f'"{hashlib.sha1(body).hexdigest()}"')
            if error:
                self.send_header("X-Error-Code", error)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_GET = do_HEAD = do_POST = answer

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def pack(name: str, data: Path, repository: Path) -> None:
    """Put the videos into the repository: as they are, in one archive, or in parts of one."""
    videos = sorted(videos_of(data).rglob("*.mp4"))
    if name == "mvbench":
        shutil.copytree(videos_of(data), repository, dirs_exist_ok=True)
    elif name == "longvideobench":
        with tarfile.open(repository / "videos.tar", "w") as tar:
            tar.add(data / "videos", "videos")
        whole = (repository / "videos.tar").read_bytes()
        (repository / "videos.tar").unlink()
        for suffix, part in (("aa", whole[:5000]), ("ab", whole[5000:])):
            (repository / f"videos.tar.part.{suffix}").write_bytes(part)
    else:
        with zipfile.ZipFile(repository / "videos_chunked_01.zip", "w") as archive:
            for video in videos:
                archive.write(video, video.relative_to(videos_of(data)))


@pytest.mark.slow
@pytest.mark.parametrize("name", WRITERS)
def test_a_first_run_from_the_hub_and_one_offline_after_it(name, minis, onevision, tmp_path):
    """Nobody is logged in, and no HF_HOME is set."""
    settings = publish(name, minis[name], tmp_path / "hub")
    pack(name, minis[name], tmp_path / "hub" / settings["dataset_path"])
    tasks = tasks_of(name)[:2]
    command = [sys.executable, "-m", "eval", "run", "--tasks", ",".join(tasks), "--model", str(onevision)]
    command += ["--sampling", "uniform:4", "--limit", "2", "--device", "cpu"]
    theirs = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment = {**theirs, "HOME": str(tmp_path / "home"), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    with serve(tmp_path / "hub") as hub:
        run(command, tmp_path / "first", environment | {"HF_ENDPOINT": hub})
    run(command, tmp_path / "second", environment | {"HF_HUB_OFFLINE": "1"})
    first, second = (
        [json.loads(line) for line in (tmp_path / output / "samples.jsonl").read_text().splitlines()]
        for output in ("first", "second")
    )
    assert len(first) == (1 if name == "mvbench" else 2) * len(tasks)
    assert [line["error"] for line in first] == [None] * len(first)
    assert [line["answer"] for line in second] == [line["answer"] for line in first]


def run(command: list[str], output: Path, environment: dict[str, str]) -> None:
    output.mkdir()
    done = subprocess.run([*command, "--output", output], cwd=output, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
