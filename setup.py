"""capdist: distributed training of image captioning models on region features."""

from pathlib import Path

from setuptools import find_packages, setup

setup(
    name="capdist",
    version="0.1.0",
    description="Distributed, high-throughput training of image captioning models",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=["capdist*", "shards*"]),
    package_data={"capdist": ["py.typed"], "shards": ["py.typed"]},
    install_requires=[
        "numpy",
        "pillow",
        "pydantic>=2",
        "safetensors",
        "torch",
        "tqdm",
    ],
    extras_require={
        "train": [
            "deepspeed",
            "isal",
            "matplotlib",
            "numba",
            "pycocoevalcap",
            "ray",
            "simplemma",
            "tensorboard",
            "webdataset",
        ],
        "bench": ["h5py", "lmdb", "transformers"],
        # Where CUDA is of version 12: nvidia-dali-cuda120.
        "dali": ["nvidia-dali-cuda130"],
        "dev": ["import-linter", "mypy", "pytest", "pytest-xdist", "ruff", "triton", "types-tqdm"],
    },
)
