from pathlib import Path

from setuptools import find_packages, setup

# What works, and what is imported directly; requirements.txt is the exact set that is tested.
LLAVA = [
    "transformers>=5.17,<5.25",
    "torchvision",  # imported by transformers' video processors, not by us
    "accelerate",
    "safetensors",
    "numpy",
    "pillow",
    "einops",
    "av>=15,<19",  # the tests of llava/video pass on 15.1, 16.1, 17.1 and 18.1
]
EVAL = [
    "lmms-eval==0.7.3",  # holds PyAV below 16
    "filelock<4.3",  # lmms-eval 0.7.3 imports filelock._api, which filelock 4.3 has no more
    "decord; sys_platform == 'linux' and platform_machine == 'x86_64'",  # no wheels for other machines
    "qwen-vl-utils",
    "huggingface_hub",
    "tokenizers",
    "pyyaml",
    "loguru",
    "rich",
    "tqdm",
    "matplotlib",
]

setup(
    name="vidcom2",
    version="0.1.0",
    description="Video token compression for VideoLLMs (VidCom², arXiv 2505.14454) in a LLaVA-NeXT compatible tree",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    package_data={
        "eval.models": ["zero3.json"],
        "eval.paper": ["published.json"],
        "eval.reports": ["report.html"],
        "eval.demo": ["model/*", "model/vision_tower/*"],
    },
    python_requires=">=3.10",
    packages=find_packages(include=["vidcom2", "vidcom2.*", "llava", "llava.*", "eval", "eval.*"]),
    install_requires=["torch>=2.6"],  # the operators, and the hooks for models that the user brings
    extras_require={
        "llava": LLAVA,
        "eval": [*LLAVA, *EVAL],
        "gpu": ["flash-attn", "deepspeed"],
        "dev": ["pytest", "pytest-xdist", "hypothesis", "ruff", "mypy", "bitsandbytes; sys_platform == 'linux'"],
    },
)
