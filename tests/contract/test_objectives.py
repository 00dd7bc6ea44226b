"""What every objective must fulfil; one is tested from the moment its file exists."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import distributed

from capdist.batch import Batch
from capdist.config.run_config import parse_config
from capdist.data.dataset import training_batches
from capdist.data.rank_plan import Ranks
from capdist.data.training_captions import TrainingCaptions
from capdist.distributed.process_group import ProcessGroup
from capdist.models.base import Dims, build
from capdist.objectives.base import StageContext, objective_of, registered
from shards.manifest import Manifest
from tests.support.resume import finish, same_run, started, steps_done, wait_for
from tests.support.runs import checkpoint, losses, records
from tests.support.shards import count_words

NAMES = list(registered())
#: Options, of whatever objective has such, that make a stage quick to run.
SMALL = {"samples": 3, "reward": {"actors": 0}, "words": 6, "hidden": 4, "folds": 2, "dropout": 0}
CROSS_ENTROPY_STEPS = 4


def stage(name: str) -> dict[str, Any]:
    known = registered()[name].Config.model_fields
    return {
        "objective": name,
        "epochs": 2,
        "batch": {"images": 16, "micro": 8},
        "optimizer": {"lr": 0.003},
        **{key: value for key, value in SMALL.items() if key in known},
    }


def write_config(folder: Path, tiny_config: dict[str, Any], name: str, **changed: Any) -> Path:
    """The objective's stage; one that trains captions comes after an epoch of cross entropy."""
    stages = [stage(name)]
    if registered()[name].Config.trains_captions:
        stages = [{**stage("xe"), "epochs": 1}, *stages]
    folder.mkdir(exist_ok=True)
    path = folder / "config.json"
    model = {**tiny_config["model"], "dropout": 0}
    described = {**tiny_config, "stages": stages, "model": model, "run": str(folder / "run")}
    path.write_text(json.dumps({**described, "decoding": {"max_words": 8}, **changed}))
    return path


def epochs(config: Path) -> tuple[str, str]:
    first = json.loads(config.read_text())["stages"][0]["epochs"]
    return "--set", f"stages.0.epochs={first}"


@pytest.fixture(scope="module", params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def whole(name: str, tiny_config: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run on one rank that nothing interrupted."""
    path = write_config(tmp_path_factory.mktemp(name) / "whole", tiny_config, name)
    finish(path, *epochs(path))
    return path.parent / "run"


def weights(run: Path) -> dict[str, torch.Tensor]:
    last = checkpoint(run, "last")
    (file,) = last.glob("*.safetensors")
    return load_file(file)


def rewards(run: Path) -> list[float]:
    return [record["reward"] for record in records(run) if "reward" in record]


def test_resume_in_mid_stage_is_bit_exact_after_sigkill(
    whole: Path, name: str, tiny_config: dict[str, Any], tmp_path: Path
) -> None:
    path = write_config(tmp_path, tiny_config, name)
    before = CROSS_ENTROPY_STEPS if registered()[name].Config.trains_captions else 0
    # In the second epoch: the best checkpoint may no longer be the one that the stage began with.
    with started(path, *epochs(path)) as (rank,):
        wait_for(lambda: steps_done(tmp_path / "run") >= before + 6, rank)
    finish(path, *epochs(path), "--resume", "auto")
    best = registered()[name].best_name
    same_run(tmp_path / "run", whole, best)


@pytest.mark.parametrize(("engine", "world"), [("torch", 2), ("deepspeed", 1)])
def test_ranks_and_engines_train_the_same(
    whole: Path, name: str, tiny_config: dict[str, Any], tmp_path: Path, engine: str, world: int
) -> None:
    # ZeRO 3 is the stage that changes what a forward pass outside the engine sees of the weights.
    zero = {"zero_optimization": {"stage": 3}}
    path = write_config(tmp_path, tiny_config, name, engine=engine, deepspeed=zero)
    finish(path, *epochs(path), world=world)
    run = tmp_path / "run"
    assert losses(run) == pytest.approx(losses(whole), rel=1e-4, abs=1e-5)
    assert rewards(run) == pytest.approx(rewards(whole), rel=1e-5)
    expected = weights(whole)
    for key, weight in weights(run).items():
        # The gradient of a key's bias is zero but for rounding, which Adam scales up.
        if not key.endswith("key.bias"):
            torch.testing.assert_close(weight, expected[key], rtol=1e-3, atol=1e-4)


@pytest.fixture
def group() -> Iterator[ProcessGroup]:
    store = distributed.HashStore()
    distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield ProcessGroup(Ranks(), torch.device("cpu"))
    distributed.destroy_process_group()


def make_context(
    tiny: Manifest, tiny_config: dict[str, Any], group: ProcessGroup, name: str, run: Path
) -> StageContext:
    config = parse_config(
        {**tiny_config, "run": str(run), "stages": [stage(name)]}, "the test's config"
    )
    vocab = count_words(tiny, 1)
    torch.manual_seed(3)
    model = build(config.model, Dims(tiny.features.dim, len(vocab)))
    return StageContext(config, "stages.0", tiny, vocab, group, model)


def test_gradient_equals_finite_differences(
    name: str,
    tiny: Manifest,
    tiny_config: dict[str, Any],
    group: ProcessGroup,
    tmp_path: Path,
) -> None:
    context = make_context(tiny, tiny_config, group, name, tmp_path)
    config = context.config
    captions = TrainingCaptions.read(tiny, config.data)
    batches = training_batches(
        tiny,
        config.data,
        config.stages[0].batch,
        context.vocab,
        group.ranks,
        config.seed,
        reference_ids=captions.reference_ids if config.stages[0].reads_references else None,
    )
    with objective_of(config.stages[0]).build(config.stages[0], context) as (objective, _):
        objective.begin_epoch(0)
        # Away from the point where the policy is its own reference, and captions are all alike.
        with torch.no_grad():
            for parameter in objective.parameters():
                parameter += 0.1 * torch.randn_like(parameter)
        drawn = objective.prepare(next(batches.steps(0, 0)).batches, 0, group.device)
        batch = drawn[0].to(group.device)
        objective.zero_grad()
        objective.eval()
        objective(batch).backward()
        pairs = [(p, p.grad) for p in objective.parameters() if p.grad is not None]
        norm = torch.cat([gradient.flatten() for _, gradient in pairs]).norm()
        assert norm > 0

        def loss_at(step: float) -> float:
            with torch.no_grad():
                for parameter, gradient in pairs:
                    parameter += step * gradient / norm
                loss = float(objective(batch))
                for parameter, gradient in pairs:
                    parameter -= step * gradient / norm
            return loss

        # Along the gradient itself the derivative is its norm: a missing or doubled term shows.
        step = 1e-2
        slope = (loss_at(step) - loss_at(-step)) / (2 * step)
        assert slope == pytest.approx(float(norm), rel=0.02)


def test_a_placeholder_batch_has_no_weight_and_no_gradient(
    name: str,
    tiny: Manifest,
    tiny_config: dict[str, Any],
    group: ProcessGroup,
    tmp_path: Path,
) -> None:

    context = make_context(tiny, tiny_config, group, name, tmp_path)
    (section,) = context.config.stages
    with objective_of(section).build(section, context) as (objective, _):
        objective.begin_epoch(0)
        (batch,) = objective.prepare([Batch.empty(tiny.features.dim)], 0, group.device)
        assert objective.weight(batch) == 0
        loss = objective(batch)
        loss.backward()
    gradients = chain.from_iterable(
        p.grad.flatten().tolist() for p in objective.parameters() if p.grad is not None
    )
    assert (float(loss), any(gradients)) == (0.0, False)
