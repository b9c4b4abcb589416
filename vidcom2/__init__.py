"""VidCom²: plug-and-play token compression for VideoLLMs (arXiv 2505.14454).

>>> kept = VidCom2(retention=0.25).select(features)       # features [T, M, D]
>>> with VidCom2(retention=0.25)(model) as run:           # any supported model
...     model.generate(**inputs)
>>> run.records                                           # what the LLM really saw
"""

from vidcom2.compressor import (
    METHODS,
    Attachment,
    Compressor,
    Kept,
    NotFinite,
    Ranking,
    Record,
    compressor,
    compressor_from_env,
)
from vidcom2.frames import FrameAdjustment
from vidcom2.methods.vidcom2 import Explanation, VidCom2

__version__ = "0.1.0"
__all__ = [
    "METHODS",
    "Attachment",
    "Compressor",
    "Explanation",
    "FrameAdjustment",
    "Kept",
    "NotFinite",
    "Ranking",
    "Record",
    "VidCom2",
    "compressor",
    "compressor_from_env",
]
