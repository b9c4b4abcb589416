"""One file per method. Importing this package registers all of them in `vidcom2.METHODS`."""

from vidcom2.methods import (
    aot,
    dense,
    dycoke,
    fastv,
    fastvid,
    frames,
    holitom,
    norm,
    pdrop,
    random,
    sparsevlm,
    uniform,
    vidcom2,
    visionzip,
)

__all__ = [
    "aot",
    "dense",
    "dycoke",
    "fastv",
    "fastvid",
    "frames",
    "holitom",
    "norm",
    "pdrop",
    "random",
    "sparsevlm",
    "uniform",
    "vidcom2",
    "visionzip",
]
