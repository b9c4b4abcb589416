from pathlib import Path

from setuptools import find_packages, setup

setup(
    name="vidcom2",
    version="0.1.0",
    description="Video token compression for VideoLLMs (VidCom², arXiv 2505.14454) in a LLaVA-NeXT compatible tree",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    package_data={"eval": ["published.json", "report.html"], "eval.demo": ["model/*", "model/vision_tower/*"]},
    python_requires=">=3.10",
    packages=find_packages(include=["vidcom2", "vidcom2.*", "llava", "llava.*", "eval", "eval.*"]),
    install_requires=[
        "torch>=2.6",
        "torchvision",
        # The whole test suite passes on 5.17.0 and on 5.23.0.
        "transformers>=5.17,<5.24",
        "accelerate",
        "safetensors",
        "numpy",
        "pillow",
        "einops",
        "av>=15,<19",  # the tests of llava/video pass on 15.1, 16.1, 17.1 and 18.1
    ],
    extras_require={
        # lmms-eval 0.7.3 imports filelock._api, which filelock 4.3 has no more; its wrappers read with decord, and it
        # holds PyAV below 16.
        "eval": ["lmms-eval==0.7.3", "filelock<4.3", "decord", "qwen-vl-utils", "rich", "matplotlib"],
        "gpu": ["flash-attn", "deepspeed"],
        "dev": ["pytest", "pytest-xdist", "hypothesis", "ruff", "mypy"],
    },
)
