"""Training steps on tiny shards, run as a rank: several runs in turn, each from the same start."""

from __future__ import annotations

import json
import sys
from itertools import chain, islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed

from capdist.batch import Batch
from capdist.config.base import ConfigError
from capdist.config.run_config import Config, parse_config
from capdist.data.batches import Batches
from capdist.data.dataset import training_batches
from capdist.data.rank_plan import Ranks
from capdist.distributed.end_process import end_process
from capdist.distributed.process_group import ProcessGroup
from capdist.engines.base import Engine, StepResult
from capdist.engines.factory import make_engine
from capdist.models.base import Dims, build
from capdist.objectives.cross_entropy import CrossEntropy
from shards.manifest import Manifest
from tests.support.shards import count_words

MODEL = {"name": "glied", "width": 16, "embedding": 8, "heads": 2, "hidden": 24, "dropout": 0.0}
LR = 0.01


def config(arguments: dict[str, Any]) -> Config:
    """One stage over the tiny shards.

    Raises:
        ConfigError: if the tree refuses the deepspeed section.
    """
    batch = {"images": 16, "micro": arguments["micro"]}
    xe = {"objective": "xe", "epochs": 1, **arguments.get("stage", {})}
    optimizer = {
        "lr": LR,
        "clip_norm": arguments.get("clip_norm", 0.0),
        "groups": arguments.get("groups", []),
    }
    described = {
        "description": "a test",
        "run": "unused",
        "engine": arguments["engine"],
        "data": {"shards": arguments["shards"], "lanes": 8, "workers": 0},
        "model": arguments.get("model", MODEL),
        "stages": [{**xe, "batch": batch, "optimizer": optimizer}],
        "deepspeed": arguments.get("deepspeed", {}),
    }
    return parse_config(described, "the config")


def make_objective(run: Config) -> CrossEntropy:
    """The tiny model, always with the same weights."""
    manifest = Manifest.load(run.data.shards)
    torch.manual_seed(1)
    words, classes = len(count_words(manifest, 1)), len(manifest.class_names)
    dims = Dims(manifest.features.dim, words, classes)
    return CrossEntropy(build(run.model, dims), run.stages[0])


def read(run: Config, ranks: Ranks) -> Batches:
    manifest = Manifest.load(run.data.shards)
    vocab, stage = count_words(manifest, 1), run.stages[0]
    grounding = "grounding" in stage.reads | make_objective(run).model.supervision
    return training_batches(manifest, run.data, stage.batch, vocab, ranks, 1, grounding=grounding)


def true_gradient(run: Config) -> dict[str, Tensor]:
    """Of the mean over all tokens of the first global batch, by autograd in one process."""
    whole = run.stages[0].batch.model_copy(update={"micro": run.stages[0].batch.images})
    alone = run.stages[0].model_copy(update={"batch": whole})
    batches = read(run.model_copy(update={"stages": (alone,)}), Ranks())
    objective = make_objective(run)
    (batch,) = next(batches.epoch(0))
    (objective(batch.to("cpu")) / batch.token_count).backward()
    parameters = objective.model.named_parameters()
    return {name: p.grad if p.grad is not None else torch.zeros_like(p) for name, p in parameters}


def seen_gradient(engine: Engine, objective: CrossEntropy) -> dict[str, Tensor]:
    """What the optimizer got in its first step, by Adam's first moment (1 - beta_1) g."""
    from deepspeed.utils import safe_get_full_optimizer_state

    optimizer: Any = engine.optimizer  # type: ignore[attr-defined]

    def master(parameter: Tensor) -> Tensor:
        # Without ZeRO, DeepSpeed keeps fp32 masters of half-precision weights in lists.
        groups = (getattr(optimizer, name, []) for name in ("fp16_groups", "fp32_groups"))
        pairs = zip(*(chain(*group) for group in groups), strict=True)
        return next((high for low, high in pairs if low is parameter), parameter)

    def moment(parameter: Tensor) -> Tensor:
        found = safe_get_full_optimizer_state(parameter, "exp_avg")
        if found is None:
            found = optimizer.state[master(parameter)]["exp_avg"]
        return found.float() / (1 - 0.9)

    return {name: moment(p) for name, p in objective.model.named_parameters()}


def furthest(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """The largest difference of an element, relative to the largest element of all."""
    largest = max(float(tensor.abs().max()) for tensor in expected.values())
    return max(float((found[n] - expected[n]).abs().max()) for n in expected) / largest


def take_steps(
    arguments: dict[str, Any], job: ProcessGroup
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The steps of ``epochs`` times the same epoch, saved and loaded where it is asked for."""
    run = config(arguments)
    objective = make_objective(run)
    load, save = arguments.get("load"), arguments.get("save")
    ranks = arguments.get("saved_by", job.ranks.world)
    elastic = ranks != job.ranks.world
    engine = make_engine(objective, run, run.stages[0], job, elastic=elastic)
    steps: list[list[Batch]] = list(read(run, job.ranks).epoch(0))
    if load:
        engine.load(Path(load), ranks)

    def step(batches: list[Batch]) -> tuple[float, StepResult]:
        """The loss over all ranks, and what the engine returns."""
        (weight,) = job.sum(sum(map(objective.weight, batches)))
        result = engine.step(batches, weight, LR)
        return job.sum(result.loss)[0], result

    results = [step(steps[0])]
    gradient = None
    if not (load or results[0][1].skipped or run.stages[0].optimizer.groups):
        gradient = furthest(seen_gradient(engine, objective), true_gradient(run))
    more = steps * arguments.get("epochs", 1)
    results += [step(batches) for batches in islice(more, 1, None)]
    if save:
        Path(save).mkdir(exist_ok=True)
        job.barrier()
        engine.save(Path(save))
        results += [step(batches) for batches in steps]
    record = {
        "losses": [loss for loss, _ in results],
        "norms": [
            result.grad_norm if result.grad_norm is None else float(result.grad_norm)
            for _, result in results
        ],
        "skipped": [result.skipped for _, result in results],
        "gradient": gradient,
    }
    return record, engine.weights()


def main() -> None:
    """Every run of the list; the first rank writes what each gave, or why it was refused."""
    arguments = json.loads(sys.argv[1])
    torch.set_num_threads(1)
    job = ProcessGroup.join(timeout_s=600)
    if "has_fp16" in arguments:
        # DeepSpeed refuses fp16 on CPUs without instructions for it. Torch computes it all the
        # same, slowly: enough to prove the loss scaler, the skipped steps and the export. What is
        # tested must not depend on the CPU.
        from deepspeed.accelerator import get_accelerator

        get_accelerator().is_fp16_supported = lambda: arguments["has_fp16"]
    given: list[Any] = []
    for run in arguments["runs"]:
        try:
            given.append(take_steps(run, job))
        except (ConfigError, ValueError) as error:
            given.append(({"refused": str(error)}, {}))
    if job.first:
        torch.save(given, arguments["out"])
    distributed.barrier()


if __name__ == "__main__":
    main()
    end_process(0)
