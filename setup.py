import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent

# The ranges that work, for every package that is imported directly. requirements.txt is the exact set that is tested.
LLAVA = [
    "transformers>=5.17,<5.25",
    "torchvision",  # transformers' video processors import it; our code does not
    "accelerate",
    "safetensors",
    "numpy",
    "pillow",
    "einops",
    "av>=15,<19",  # the tests of llava/video pass on 15.1, 16.1, 17.1 and 18.1
]
EVAL = [
    "lmms-eval==0.7.3",  # holds PyAV below 16
    "filelock<4.3",  # lmms-eval 0.7.3 imports filelock._api, which filelock 4.3 no longer has
    "decord; sys_platform == 'linux' and platform_machine == 'x86_64'",  # there are no wheels for other machines
    "qwen-vl-utils",
    "huggingface_hub",
    "tokenizers",
    "pyyaml",
    "loguru",
    "rich",
    "tqdm",
    "matplotlib",
    "scipy",
]
WEB = ["gradio>=6.20,<7", "starlette"]
DOCS = ["mkdocs-material", "mkdocstrings[python]"]
TEST = ["pytest", "pytest-xdist", "hypothesis"]
DEV = [
    *TEST,
    "ruff",
    "mypy",
    "build",
    "pre-commit",
    "bitsandbytes; sys_platform == 'linux'",
    "playwright",  # the tests of the page, in the Chromium that is installed
    "nbclient",
    "ipykernel",
    *WEB,
    *DOCS,
]

# eval/ is installed as vidcom2_eval: a package called eval would hide, or be hidden by, anybody's eval.py.
FOLDERS = find_packages(
    include=["vidcom2", "vidcom2.*", "llava", "llava.*", "eval", "eval.*"],
    exclude=["eval.demo.training", "eval.demo.training.*"],
)
PACKAGES = [re.sub(r"^eval\b", "vidcom2_eval", folder) for folder in FOLDERS]
VERSION = re.search(r'^__version__ = "(.+)"$', (HERE / "vidcom2" / "__init__.py").read_text(encoding="utf-8"), re.M)

setup(
    name="vidcom2",
    version=VERSION[1],
    description="Video token compression for VideoLLMs (VidCom², arXiv 2505.14454) in a LLaVA-NeXT compatible tree",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.10",
    packages=PACKAGES,
    package_dir={"vidcom2_eval": "eval"},
    package_data={
        "vidcom2": ["py.typed"],
        "llava": ["py.typed"],
        "vidcom2_eval": ["py.typed"],
        "vidcom2_eval.models": ["zero3.json"],
        "vidcom2_eval.paper": ["published.json"],
        "vidcom2_eval.reports": ["page.html", "report.html"],
        "vidcom2_eval.web": ["style.css"],
        "vidcom2_eval.demo": ["model/*", "model/vision_tower/*", "llava_video/*", "llava_video/vision_tower/*"],
    },
    entry_points={
        "console_scripts": ["vidcom2 = vidcom2_eval.__main__:command"],
        "vllm.general_plugins": ["vidcom2 = vidcom2.vllm.plugin:register", "llava = llava.vllm.plugin:register"],
    },
    install_requires=["torch>=2.6"],  # enough for the operators, and for the hooks on a model that the user brings
    extras_require={
        "llava": LLAVA,
        "eval": [*LLAVA, *EVAL],
        "web": [*LLAVA, *EVAL, *WEB],
        "gpu": ["flash-attn", "deepspeed"],
        "docs": DOCS,
        "test": TEST,
        "dev": DEV,
    },
)
