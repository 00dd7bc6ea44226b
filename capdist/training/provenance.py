"""What was run, and with which versions: written before the first step."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from dataclasses import asdict, replace
from importlib import metadata
from pathlib import Path

from capdist.config.run_config import Config
from capdist.training.initial import read_origin
from capdist.vocab import Vocabulary
from shards.atomic import atomic_write, write_text
from shards.concept_predictor import PREDICTOR
from shards.manifest import Manifest

VERSIONED = ("capdist", "torch", "deepspeed", "webdataset", "pycocoevalcap", "numpy", "safetensors")


def write_provenance(config: Config, vocab: Vocabulary, manifest: Manifest) -> None:
    """Write ``config.json``, ``vocab.json`` and ``versions.json`` into the run folder."""
    folder = Path(config.run)
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "config.json", config.model_dump_json(indent=1, by_alias=True))
    vocab.save(folder / "vocab.json")
    used = {
        "python": platform.python_version(),
        **{name: _version(name) for name in VERSIONED},
        "git": _commit(),
        "command": sys.argv,
        "vocabulary": vocab.hash,
        "init": read_origin(config),
        "shards": {
            "name": manifest.name,
            **replace(manifest.features.without_scale(), extractor=None).to_json(),
            "captions": asdict(manifest.text),
            "splits": {s: manifest.split_digest(s) for s in {s.split: 0 for s in manifest.shards}},
        },
    }
    write_text(folder / "versions.json", json.dumps(used, indent=1))


def copy_predictor(run: Path, manifest: Manifest) -> None:
    """Copy the predictor of the shards' concepts into a run, to caption new images with."""
    if predictor := manifest.read_predictor():
        with atomic_write(run / PREDICTOR) as file:
            file.write(predictor)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The commit of the checkout that this file belongs to, if there is one."""
    here = Path(__file__).parent
    try:
        found = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.stdout.strip()
