"""The file of a sweep: which configs, with which seeds, and which of them decode together.

{"folder": "runs/ablation", "seeds": [1, 2, 3], "split": "test",
 "set": {"stages.0.epochs": 4},
 "rows": {"base": {"config": "configs/base.json"},
          "full GLIED": {"config": "configs/glied.json", "set": {"model.dropout": 0.2}},
          "full GLIED, ensemble of 3": {"ensemble": ["full GLIED"]}}}
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, model_validator

from capdist.config.base import ConfigError, Positive, Section, read_json, validate
from capdist.config.run_config import RayConfig


def _without_repetition(seeds: list[int]) -> list[int]:
    for seed in seeds:
        if seeds.count(seed) > 1:
            raise ValueError(f"{seed} is there twice; name each seed once")
    return seeds


Seeds = Annotated[list[int], Field(min_length=1), AfterValidator(_without_repetition)]


class SweepRow(Section):
    """A row of the table: a config and the values to change in it, or an ensemble."""

    config: str | None = None
    set: dict[str, Any] = Field({}, description="Values by key, as for train.py --set.")
    paper: dict[str, float] = Field({}, description="The scores in its paper, by metric.")
    against: str | None = Field(
        None, description="Another row, to which the page states the difference in CIDEr."
    )
    seeds: Seeds | None = Field(None, description="Instead of the list's.")
    init: str | None = Field(
        None,
        description="A row above, with the same seeds, with whose best weights each run begins.",
    )
    ensemble: list[str] | None = Field(
        None,
        min_length=1,
        description="Another row, whose seeds decode together; or several, one ensemble per seed.",
    )

    @model_validator(mode="after")
    def _is_of_one_kind(self) -> SweepRow:
        if (self.config is None) == (self.ensemble is None):
            raise ValueError("expected either a config or an ensemble; give one of both")
        if self.ensemble is not None and (self.set or self.seeds or self.init):
            raise ValueError(
                "an ensemble trains nothing; move set, seeds and init to its members' rows"
            )
        return self


class SweepList(Section):
    """The sweep file."""

    folder: str = Field(description="Contains a run folder for each row and seed.")
    rows: dict[str, SweepRow] = Field(min_length=1)
    seeds: Seeds = Field([1])
    split: str = Field("test", description="The split to score.")
    beam: Positive = Field(3, description="Hypotheses per image; 1 is greedy decoding.")
    grounding: bool = Field(False, description="Score the grounding of words in regions, too.")
    set: dict[str, Any] = Field(
        {}, description="Values for all rows; those of a row override them."
    )
    cpus: float = Field(1.0, gt=0, description="CPUs of one run, and its number of threads.")
    gpus: float = Field(0.0, ge=0, description="GPUs of one run.")
    ray: RayConfig = RayConfig()

    def seeds_of(self, row: str) -> list[int]:
        return self.rows[row].seeds or self.seeds


def load_list(path: Path) -> SweepList:
    """Load a sweep file, without the configs that it names.

    Raises:
        ConfigError: if it is not valid.
    """
    found = validate(SweepList, read_json(path), str(path))
    for name in found.rows:
        if "<!--" in name or not name.isprintable():
            raise ConfigError(f"{path}: rows: {name!r} can't be in a table; rename the row")
        for key, mistake in _mistakes(found, name):
            raise ConfigError(f"{path}: rows.{name}.{key}: {mistake}")
    return found


def _mistakes(found: SweepList, name: str) -> Iterator[tuple[str, str]]:
    """What a row says of other rows and is not so, with its key."""
    row, known = found.rows[name], ", ".join(found.rows)
    if row.against is not None and row.against not in found.rows:
        yield "against", f"no row {row.against!r}; known rows: {known}"
    if row.init is not None:
        above = list(takewhile(lambda other: other != name, found.rows))
        if row.init not in above or found.rows[row.init].ensemble is not None:
            trained = [other for other in above if found.rows[other].ensemble is None]
            there = ", ".join(trained) or "none"
            yield "init", f"no row {row.init!r} with a config above it; there is: {there}"
        elif found.seeds_of(row.init) != found.seeds_of(name):
            yield "init", f"row {row.init!r} has other seeds; give them the same"
    if row.ensemble is None:
        return
    for member in row.ensemble:
        if member not in found.rows:
            yield "ensemble", f"no row {member!r}; known rows: {known}"
        elif found.rows[member].ensemble is not None:
            yield "ensemble", f"{member!r} is an ensemble itself; name its members instead"
        elif row.ensemble.count(member) > 1:
            yield "ensemble", f"{member!r} is named twice; name each row once"
    seeds = [found.seeds_of(member) for member in row.ensemble]
    if len(seeds) == 1 and len(seeds[0]) == 1:
        yield "ensemble", "fewer than two runs; name more rows, or give its row more seeds"
    if any(each != seeds[0] for each in seeds):
        yield "ensemble", f"its rows have different seeds, {seeds}; give them the same"
