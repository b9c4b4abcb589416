"""VidCom²: plug-and-play token compression for VideoLLMs (arXiv 2505.14454).

>>> kept = VidCom2(retention=0.25).select(features)       # features [T, M, D]
>>> with VidCom2(retention=0.25)(model) as run:           # any supported model
...     model.generate(**inputs)
>>> run.records                                           # what the LLM really saw
"""

from vidcom2.attachment import Attachment
from vidcom2.by_hand import ImpossibleBudgets
from vidcom2.compressor import Compressor, Kept
from vidcom2.features import NotFinite
from vidcom2.frame_adjustment import FrameAdjustment
from vidcom2.inside import InsideLLM
from vidcom2.keep import Keep
from vidcom2.methods.dense import Dense
from vidcom2.methods.vidcom2 import Explanation, VidCom2
from vidcom2.models.transformers import Layout
from vidcom2.plugins import PluginError
from vidcom2.ranking import Ranking
from vidcom2.records import Record
from vidcom2.specs import METHODS, all_methods, compressor, compressor_from_env, method_names, register

# The only place of the version; setup.py reads this line.
__version__ = "0.1.0"

__all__ = [
    "METHODS",
    "Attachment",
    "Compressor",
    "Dense",
    "Explanation",
    "FrameAdjustment",
    "ImpossibleBudgets",
    "InsideLLM",
    "Keep",
    "Kept",
    "Layout",
    "NotFinite",
    "PluginError",
    "Ranking",
    "Record",
    "VidCom2",
    "all_methods",
    "compressor",
    "compressor_from_env",
    "method_names",
    "register",
]
