"""One file per method. Importing this package registers all of them in `vidcom2.METHODS`."""

from vidcom2.methods import (
    dense,
    dycoke,
    evs,
    fastv,
    fastvid,
    frames,
    fresh,
    holitom,
    norm,
    pdrop,
    random,
    sparsevlm,
    uniform,
    vcast,
    vidcom2,
    visionzip,
)

__all__ = [
    "dense",
    "dycoke",
    "evs",
    "fastv",
    "fastvid",
    "frames",
    "fresh",
    "holitom",
    "norm",
    "pdrop",
    "random",
    "sparsevlm",
    "uniform",
    "vcast",
    "vidcom2",
    "visionzip",
]
