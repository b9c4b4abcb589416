"""One file per method. Importing this package registers all of them in `vidcom2.METHODS`."""

from vidcom2.methods import (
    dense,
    dycoke,
    fastv,
    fastvid,
    frames,
    gleanvid,
    holitom,
    norm,
    pdrop,
    random,
    sparsevlm,
    unicomp,
    uniform,
    vidcom2,
    visionzip,
)

__all__ = [
    "dense",
    "dycoke",
    "fastv",
    "fastvid",
    "frames",
    "gleanvid",
    "holitom",
    "norm",
    "pdrop",
    "random",
    "sparsevlm",
    "unicomp",
    "uniform",
    "vidcom2",
    "visionzip",
]
