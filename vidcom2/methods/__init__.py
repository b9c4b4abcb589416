"""One file per method. Importing the package registers them all in `vidcom2.METHODS`."""

from vidcom2.methods import (
    dycoke,
    fastv,
    fastvid,
    frames,
    holitom,
    pdrop,
    random,
    sparsevlm,
    uniform,
    vidcom2,
    visionzip,
)

__all__ = [
    "dycoke",
    "fastv",
    "fastvid",
    "frames",
    "holitom",
    "pdrop",
    "random",
    "sparsevlm",
    "uniform",
    "vidcom2",
    "visionzip",
]
