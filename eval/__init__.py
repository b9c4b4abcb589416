"""Measurement: runs benchmarks through lmms-eval and reports accuracy, actual visual tokens and time."""

from importlib.util import find_spec

NEEDED = (
    *("transformers", "tokenizers", "huggingface_hub", "safetensors", "numpy", "PIL", "av", "yaml", "rich"),
    "matplotlib",
)
if _missing := [module for module in NEEDED if find_spec(module) is None]:
    raise ModuleNotFoundError(f"eval needs {', '.join(_missing)}: pip install -c requirements.txt -e .[eval]")
