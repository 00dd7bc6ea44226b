"""A few training steps on tiny shards, run as a rank by test_engine.py."""

from __future__ import annotations

import json
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from capdist.config import Config
from capdist.data.dataset import count_words, training_batches
from capdist.models.base import Dims, build
from capdist.training.engine import make_engine
from capdist.training.job import Job, end_process
from capdist.training.stages import XeObjective
from shards.index import Manifest

MODEL = {"name": "glied", "width": 16, "embedding": 8, "heads": 2, "hidden": 24, "dropout": 0.0}


def config(arguments: dict[str, Any]) -> Config:
    batch = {"images": 16, "micro": arguments["micro"]}
    optimizer = {"lr": 0.01, "clip_norm": arguments.get("clip_norm", 0.0)}
    return Config.model_validate(
        {
            "description": "a test",
            "run": "unused",
            "engine": arguments["engine"],
            "data": {"shards": arguments["shards"], "lanes": 8, "workers": 0},
            "model": MODEL,
            "stages": [{"objective": "xe", "epochs": 1, "batch": batch, "optimizer": optimizer}],
            "deepspeed": arguments.get("deepspeed", {}),
        }
    )


def main() -> None:
    """All steps of an epoch; the first rank writes losses and weights."""
    arguments = json.loads(sys.argv[1])
    torch.set_num_threads(1)
    if "fp16" in arguments.get("deepspeed", {}):
        # DeepSpeed refuses fp16 on CPUs without instructions for it. Torch computes it all the
        # same, slowly: enough to prove the loss scaler, the skipped steps and the export.
        from deepspeed.accelerator import get_accelerator

        get_accelerator().is_fp16_supported = lambda: True
    run, job = config(arguments), Job.join()
    manifest = Manifest.load(run.data.shards)
    vocab = count_words(manifest, 1)
    torch.manual_seed(1)
    model = build(run.model, Dims(manifest.features.dim, len(vocab)))
    objective = XeObjective(model, run.stages[0])
    engine = make_engine(objective, run, run.stages[0], job)
    batches = training_batches(manifest, run.data, run.stages[0].batch, vocab, job.ranks, 1)
    steps = list(batches.epoch(0))
    load, save = arguments.get("load"), arguments.get("save")
    if load:
        engine.load(Path(load))
    results = [engine.step(step, 0.01) for step in islice(steps, arguments.get("first", 0), None)]
    if save:
        Path(save).mkdir(exist_ok=True)
        job.barrier()
        engine.save(Path(save))
        more = [engine.step(step, 0.01) for step in steps]
        results += more
    weights = engine.weights()
    if job.first:
        record = {
            "losses": [result.loss for result in results],
            "norms": [result.grad_norm for result in results],
            "skipped": sum(result.skipped for result in results),
        }
        out = Path(arguments["out"])
        out.write_text(json.dumps(record))
        torch.save(weights, out.with_suffix(".pt"))
    job.leave()


if __name__ == "__main__":
    main()
    end_process(0)
