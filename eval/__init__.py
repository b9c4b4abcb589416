"""Measurement: evaluates models on benchmarks through lmms-eval, with accuracy, visual tokens and time.

The folder is `eval` in a checkout (`python -m eval`). It is installed as `vidcom2_eval`, with the command `vidcom2`.
"""

from importlib.util import find_spec

NEEDED = (
    *("transformers", "tokenizers", "huggingface_hub", "safetensors", "numpy", "PIL", "av", "yaml", "rich"),
    *("matplotlib", "scipy"),
)
if _missing := [module for module in NEEDED if find_spec(module) is None]:
    _install = "-c requirements.txt -e .[eval]" if __name__ == "eval" else "'vidcom2[eval]'"
    raise ModuleNotFoundError(f"{__name__} needs {', '.join(_missing)}: pip install {_install}")
