"""python -m eval bench decode, bench preprocess: how fast videos are read, and whether the pixels are the same."""

from __future__ import annotations

import argparse
import re
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich import box
from rich.console import Console
from rich.table import Table

from llava.model.multimodal_encoder.on_device import preprocess_on_device
from llava.model.multimodal_encoder.siglip_processor import SigLipImageProcessor
from llava.video import FrameSampling, open_video, read_video, require

from ..results.files import prepare_json, write_json
from ..results.terminal import stdout
from .rounds import bench_device, in_turns, machine, require_repeats, with_mark

CPU = torch.device("cpu")
FPS = 25
SEGMENT = 10  # seconds that are encoded at a time
SEGMENTS = 3  # different ones; longer videos repeat them
DECODE_NOTES = (
    "CPU ms, ms: medians, CPU time and wall clock, of opening the file and reading the frames; all readers take turns",
    "of decord: CPU time, decord's being 1. MiB: by how much memory grew at its peak, in a fresh process",
    "same: frames that equal decord's in every pixel; max: largest difference from decord, in levels of 255",
    f"videos: H.264 (x264's defaults) at {FPS} per second, a key frame at least every {SEGMENT} s",
)
GRAIN = 2.0
"""x264 gives 640x360 0.7 Mbit/s then, and 1.0 at 4 levels. The real clip of docs/speed.md takes 0.5."""
COMPARED = ("exact", "decord", "torchcodec")
"""Readers that are measured. Raw pyav decodes all that comes before the last frame: an hour takes minutes."""
PREPROCESS_NOTES = (
    "ms: median of resizing and normalising decoded frames, until they are on the device; all lines take turns",
    "max: largest difference from exact, in levels of 255; differ: colours that do, in %",
    "torch: interpolate(bicubic, antialias) on 8-bit colours, for comparison; it runs on the CPU and is not on offer",
)


def prepare_decode(arguments: argparse.Namespace) -> Callable[[], int]:
    """Check everything; returns what makes videos, measures, prints and writes."""
    (size,) = parse_sizes("--size", arguments.size)
    if size[0] % 2 or size[1] % 2:
        raise ValueError(f"--size {arguments.size}: H.264 needs an even width and height")
    seconds = [int(part) if part.strip().isdecimal() else 0 for part in arguments.seconds.split(",")]
    if not all(second > 0 and second % SEGMENT == 0 for second in seconds):
        raise ValueError(f"--seconds {arguments.seconds!r} are not multiples of {SEGMENT}, such as 10,180,3600")
    if arguments.grain is not None and arguments.source is not None:
        raise ValueError("--grain is the drawn hills': it has no effect with --source. Leave out one of them")
    grain = GRAIN if arguments.grain is None else arguments.grain
    if not 0 <= grain <= 64:
        raise ValueError(f"--grain {grain:g} is not between 0 and 64 levels")
    sampling = FrameSampling("uniform", max_frames=arguments.frames)
    repeats = require_repeats(arguments.repeats)
    prepare_json(arguments.json)
    require("decord")
    require("pyav")  # which makes the videos
    missing = not_installed()
    if arguments.source is not None:
        with open_video(arguments.source):  # VideoError for one that cannot be read
            pass

    def finish() -> int:
        console = stdout()
        with TemporaryDirectory() as folder:
            made = source_pictures(arguments.source, size) if arguments.source else None
            segments = [
                write_segment(
                    Path(folder) / f"segment{i}.mp4",
                    pictures(size, SEGMENT * FPS, i, grain) if made is None else made(i),
                )
                for i in range(SEGMENTS)
            ]
            videos = [join(Path(folder) / f"{second}.mp4", segments, second) for second in seconds]
            results: list[dict[str, Any]] = [
                {
                    "seconds": second,
                    "bytes": video.stat().st_size,
                    "decoders": measure_decoders(video, sampling, repeats),
                }
                for second, video in zip(seconds, videos, strict=True)
            ]
        table = new_table(
            f"{sampling.max_frames} frames, {arguments.size}",
            "s",
            ("CPU ms", "of decord", "ms", "MiB", "same", "max"),
        )
        for result in results:
            for name, line in result["decoders"].items():
                cells = (
                    f"{line['median_cpu_ms']:.0f}",
                    f"{line['cpu_of_decord']:.2f}",
                    f"{line['median_ms']:.0f}",
                    f"{line['peak_mib']:.0f}",
                    str(line["same"]),
                    str(line["max"]),
                )
                table.add_row(str(result["seconds"]), name, *cells)
            table.add_section()
        missed = (f"{name}: not measured. {cause}" for name, cause in missing.items())
        show(console, table, with_mark([*DECODE_NOTES, *missed]))
        if arguments.json is not None:
            packages = {package: installed(package) for package in ("decord", "torchcodec", "av")}
            source = arguments.source.name if arguments.source else None
            drawn = {"source": source, "grain": grain if made is None else None}
            settings = {"size": arguments.size, "frames": sampling.max_frames, "repeats": repeats, **drawn}
            notes = {"notes": DECODE_NOTES, "packages": packages, "not_installed": missing}
            write_json(arguments.json, {**machine(CPU), **settings, **notes, "videos": results})
        return 0

    return finish


def prepare_preprocess(arguments: argparse.Namespace) -> Callable[[], int]:
    """Check everything; returns what measures, prints and writes."""
    sizes = parse_sizes("--sizes", arguments.sizes)
    device = bench_device(arguments.device)
    for name in ("frames", "tower"):
        if getattr(arguments, name) < 1:
            raise ValueError(f"--{name} {getattr(arguments, name)} must be at least 1")
    repeats = require_repeats(arguments.repeats)
    prepare_json(arguments.json)

    def finish() -> int:
        processor = SigLipImageProcessor(size=(arguments.tower, arguments.tower))
        results: list[dict[str, Any]] = [
            {"size": f"{width}x{height}", "lines": measure_preprocessing(processor, frames, repeats, device)}
            for width, height in sizes
            for frames in [pictures((width, height), arguments.frames, 0, GRAIN)]
        ]
        title = f"{arguments.frames} frames to {arguments.tower}x{arguments.tower}, {device}"
        table = new_table(title, "size", ("ms", "frames/s", "max", "differ"))
        for result in results:
            for name, line in result["lines"].items():
                cells = (f"{line['median_ms']:.1f}", f"{line['frames_per_second']:.1f}", str(line["max"]))
                table.add_row(result["size"], name, *cells, f"{line['differ_percent']:.3f} %")
            table.add_section()
        show(stdout(), table, with_mark(PREPROCESS_NOTES))
        if arguments.json is not None:
            settings = {"frames": arguments.frames, "tower": arguments.tower, "repeats": repeats}
            notes = {"notes": PREPROCESS_NOTES, "packages": {"pillow": installed("pillow")}}
            write_json(arguments.json, {**machine(device), **settings, **notes, "sizes": results})
        return 0

    return finish


def parse_sizes(flag: str, text: str) -> list[tuple[int, int]]:
    """ "640x360,..." as [(width, height), ...]; ValueError for anything else."""
    sizes = []
    for part in text.split(","):
        found = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", part.strip())
        if found is None:
            raise ValueError(f"{flag}: {part!r} is not width x height, such as 640x360")
        sizes.append((int(found[1]), int(found[2])))
    return sizes


def not_installed() -> dict[str, str]:
    """Decoders that are not there, and why."""
    causes = {}
    for name in COMPARED:
        try:
            require(name)
        except ImportError as cause:
            causes[name] = str(cause)
    return causes


def installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def measure_decoders(video: Path, sampling: FrameSampling, repeats: int) -> dict[str, dict[str, Any]]:
    """What is known of every reader in COMPARED that is installed."""
    missing = not_installed()
    names = [name for name in COMPARED if name not in missing]
    frames = {name: read_video(video, sampling, name).frames for name in names}
    milliseconds: dict[str, list[float]] = {name: [] for name in names}
    cpu: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(repeats):
        for name in names:
            begin, begin_cpu = time.perf_counter(), time.process_time()
            read_video(video, sampling, name)
            cpu[name].append(round(1000 * (time.process_time() - begin_cpu), 3))
            milliseconds[name].append(round(1000 * (time.perf_counter() - begin), 3))
    results = {}
    for name, made in frames.items():
        difference = np.abs(made.astype(np.int16) - frames["decord"])
        results[name] = {
            **speed(milliseconds[name], len(made)),
            "cpu_milliseconds": cpu[name],
            "median_cpu_ms": statistics.median(cpu[name]),
            "cpu_of_decord": statistics.median(cpu[name]) / statistics.median(cpu["decord"]),
            "peak_mib": peak_memory(video, sampling, name),
            "same": int((difference == 0).all(axis=(1, 2, 3)).sum()),
            "max": int(difference.max()),
            "mean": float(difference.mean()),
        }
    return results


def peak_memory(video: Path, sampling: FrameSampling, reader: str) -> float:
    """MiB by which the peak of a fresh process's memory grows while it reads the frames, these included."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_growth, str(video), sampling, reader).result()


def _growth(video: str, sampling: FrameSampling, reader: str) -> float:
    require(reader)  # imports it
    before = _peak()
    read_video(video, sampling, reader)
    return _peak() - before


def _peak() -> float:
    """MiB of this process's memory at its peak; getrusage's would be that of the process that started it."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) / 1024


def measure_preprocessing(
    processor: SigLipImageProcessor, frames: np.ndarray, repeats: int, device: torch.device
) -> dict[str, dict[str, Any]]:
    """frames: uint8 [T, H, W, 3]."""
    source = torch.from_numpy(frames)
    calls: dict[str, Callable[[], torch.Tensor]] = {
        "exact": lambda: processor.preprocess(frames, return_tensors="pt")["pixel_values"].to(device),
        "fast": lambda: preprocess_on_device(processor, source.to(device)),
        "torch": lambda: torch_preprocess(processor, source).to(device),
    }
    times = in_turns(calls, repeats, device)
    # Back to levels: SigLIP's pixels are 2 level / 255 - 1.
    levels = {name: ((call().cpu() + 1) * 127.5).round().to(torch.int16) for name, call in calls.items()}
    results = {}
    for name, made in levels.items():
        difference = (made - levels["exact"]).abs()
        results[name] = {
            **speed(times[name], len(frames)),
            "max": int(difference.max()),
            "differ_percent": 100 * float((difference > 0).float().mean()),
        }
    return results


def torch_preprocess(processor: SigLipImageProcessor, frames: torch.Tensor) -> torch.Tensor:
    """uint8 [T, H, W, 3] -> float32 [T, 3, S, S] with torch's own resizing."""
    resized = torch.nn.functional.interpolate(
        frames.permute(0, 3, 1, 2), size=processor.size, mode="bicubic", antialias=True
    )
    return resized * (2 / 255) - 1


def speed(milliseconds: list[float], frames: int) -> dict[str, Any]:
    median = statistics.median(milliseconds)
    return {"milliseconds": milliseconds, "median_ms": median, "frames_per_second": 1000 * frames / median}


def pictures(size: tuple[int, int], count: int, seed: int, grain: float) -> np.ndarray:
    """uint8 [count, height, width, 3]: a landscape of random hills that moves and grows brighter, under grain that is
    new in every picture (its standard deviation, in levels of 255)."""
    width, height = size
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    waves = rng.uniform(-0.1, 0.1, (6, 2)), rng.uniform(0, 7, (6, 3)), rng.uniform(-0.5, 0.5, 6)
    frames = np.empty((count, height, width, 3), dtype=np.uint8)
    for t, frame in enumerate(frames):
        hills = np.zeros((height, width, 3), dtype=np.float32)
        for (a, b), phase, pace in zip(*waves, strict=True):
            hills += np.sin((a * x + b * y + pace * t)[..., None] + phase)
        noise = rng.normal(0, grain, (height, width, 1)).astype(np.float32)
        frame[:] = np.clip(110 + 20 * hills + noise + 20 * t / count, 0, 255)
    return frames


def source_pictures(source: Path, size: tuple[int, int]) -> Callable[[int], np.ndarray]:
    """Makes uint8 [SEGMENT * FPS, height, width, 3] for a segment's number, of a video's first frames: on to their end
    and back, and so on; as they are, mirrored, or upside down."""
    with open_video(source) as video:
        _, frames = video.sample(lambda count, fps: list(range(min(count, SEGMENT * FPS))))
    resized = np.stack([np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC)) for frame in frames])
    there_and_back = [*range(len(resized)), *range(len(resized) - 2, 0, -1)]
    order = np.resize(there_and_back, SEGMENT * FPS)
    flips = (slice(None), (slice(None), slice(None), slice(None, None, -1)), (slice(None), slice(None, None, -1)))
    return lambda number: np.ascontiguousarray(resized[order][flips[number % len(flips)]])


def write_segment(path: Path, frames: np.ndarray) -> Path:
    """A video of these frames, uint8 [T, height, width, 3], that starts with a key frame."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def join(path: Path, segments: Sequence[Path], seconds: int) -> Path:
    """The segments in turn, as they are encoded, until there are so many seconds, a multiple of SEGMENT."""
    import av

    sources = [av.open(str(segment)) for segment in segments]
    try:
        with av.open(str(path), "w") as target:
            stream = target.add_stream_from_template(sources[0].streams.video[0])
            for number in range(seconds // SEGMENT):
                source = sources[number % len(sources)]
                source.seek(0)
                for packet in source.demux(video=0):
                    if packet.pts is None or packet.dts is None:  # the end
                        continue
                    shift = int(number * SEGMENT / packet.time_base)
                    packet.pts, packet.dts, packet.stream = packet.pts + shift, packet.dts + shift, stream
                    target.mux(packet)
    finally:
        for source in sources:
            source.close()
    return path


def new_table(title: str, first: str, columns: Sequence[str]) -> Table:
    table = Table(title=title, box=box.SIMPLE_HEAD, show_edge=False, padding=0)
    for column in (first, ""):
        table.add_column(column, no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def show(console: Console, table: Table, notes: Sequence[str]) -> None:
    console.print(table)
    for note in notes:
        console.print(note, markup=False, highlight=False, soft_wrap=True)
