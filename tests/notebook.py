"""Run a notebook outside the checkout. `python -m tests.notebook` runs the tour and writes its outputs anew."""

from __future__ import annotations

import base64
import io
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import nbformat
from nbclient import NotebookClient
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
TOUR = ROOT / "notebooks" / "tour.ipynb"
PACKAGES = {"vidcom2": "vidcom2", "llava": "llava", "vidcom2_eval": "eval"}
"""What an installation is called, and the folder of the checkout that it comes from."""
KERNEL = "python3"


@contextmanager
def installed(folder: Path) -> Iterator[None]:
    """Make the kernel `python3` this interpreter, and have it find this checkout's packages as if they were installed.

    Args:
        folder: An empty folder, for links to the packages and for what Jupyter writes.
    """
    packages, kernel = folder / "packages", folder / "jupyter" / "kernels" / KERNEL
    packages.mkdir(parents=True)
    for name, source in PACKAGES.items():
        (packages / name).symlink_to(ROOT / source)
    kernel.mkdir(parents=True)
    start = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (kernel / "kernel.json").write_text(json.dumps({"argv": start, "display_name": "Python 3", "language": "python"}))
    settings = {
        "JUPYTER_PATH": str(folder / "jupyter"),
        "JUPYTER_RUNTIME_DIR": str(folder / "runtime"),
        "IPYTHONDIR": str(folder / "ipython"),
        "PYTHONPATH": str(packages),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    with patch.dict(os.environ, settings):
        yield


def execute(notebook: nbformat.NotebookNode, folder: Path) -> nbformat.NotebookNode:
    """Run all cells of a notebook in a folder, and write their outputs into it.

    Args:
        notebook: The notebook.
        folder: An empty folder outside the checkout.

    Raises:
        nbclient.exceptions.CellExecutionError: A cell fails.
    """
    work = folder / "work"
    work.mkdir()
    with installed(folder):
        NotebookClient(
            notebook, timeout=600, kernel_name=KERNEL, resources={"metadata": {"path": work}}, coalesce_streams=True
        ).execute()
    return notebook


def cleaned(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Take out what differs from run to run or between machines: times, versions, warnings. Shrink the pictures."""
    notebook.metadata = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": KERNEL}}
    for number, cell in enumerate(notebook.cells):
        cell.metadata, cell.id = {}, f"cell-{number}"
        if cell.cell_type == "code":
            cell.outputs = [cleaned_output(one) for one in cell.outputs if one.get("name") != "stderr"]
    return notebook


def cleaned_output(output: Any) -> Any:
    """Return an output without metadata, its picture with a palette of 128 colours, which is a third of the size."""
    if output.output_type == "stream":
        return output
    output.metadata = {}
    if picture := output.data.get("image/png"):
        small = io.BytesIO()
        Image.open(io.BytesIO(base64.b64decode(picture))).convert("RGB").quantize(128).save(small, "png", optimize=True)
        output.data["image/png"] = base64.b64encode(small.getvalue()).decode()
    return output


def printed(cell: Any) -> str:
    """Return the text that a cell printed or displayed, without warnings and progress bars."""
    shown = [one for one in cell.outputs if one.get("name") != "stderr"]
    return "\n".join(one.get("text") or one.get("data", {}).get("text/markdown") or "" for one in shown)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        nbformat.write(cleaned(execute(nbformat.read(TOUR, 4), Path(made))), TOUR)
