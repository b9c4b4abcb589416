"""One file per method. Importing this package registers all of them in `vidcom2.METHODS`."""

from vidcom2.methods import (
    dense,
    dycoke,
    fastv,
    fastvid,
    frames,
    grid,
    holitom,
    norm,
    pdrop,
    pool,
    random,
    simplecluster,
    sparsevlm,
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
    "grid",
    "holitom",
    "norm",
    "pdrop",
    "pool",
    "random",
    "simplecluster",
    "sparsevlm",
    "uniform",
    "vidcom2",
    "visionzip",
]
