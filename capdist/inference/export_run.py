"""A trained run as a folder for others: its model, what predicts its concepts, and a model card.

The folder is a run folder without what only training needs, so that whatever reads a run reads it.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from capdist.errors import CapdistError
from capdist.inference.exported_model import DETECTOR, MODEL, WORDS, ExportedModel, read_run
from capdist.inference.model_card import MODEL_CARD, model_card
from capdist.inference.run_folder import BEST, BEST_DETECTOR, NAMES, PROGRESS, find_checkpoint
from capdist.reporting.report.files import CONFIG, RunFiles
from shards.atomic import atomic_write, write_json, write_text
from shards.concept_predictor import PREDICTOR, PredictorFile, same_concepts
from shards.outputs import check_output_folder
from shards.predict_concepts import find_predictor

CONCEPTS = "concepts"
_DESCRIBED = ("config.json", "vocab.json")
#: The files of each checkpoint that are kept.
_KEPT = {BEST: (MODEL, *_DESCRIBED), BEST_DETECTOR: (DETECTOR, WORDS, *_DESCRIBED, PROGRESS)}


def export_run(run: Path, out: Path) -> None:
    """Write the best model of a run, and a card that describes it, into an empty folder.

    Args:
        run: a run folder.
        out: the folder to write; it is made if it is missing.

    Raises:
        CapdistError: if the run has no model, or the folder is not empty.
        ShardError: if the predictor of its concepts is damaged.
    """
    check_output_folder(out)
    if any(out.iterdir()):
        raise CapdistError(f"{out}: not empty; give a new folder")
    files, exported = RunFiles.open(run), read_run(run)
    names = {}
    for name, kept in _KEPT.items():
        if folder := find_checkpoint(run, name):
            names[name] = folder.name
            _copy(folder, out / "checkpoints" / folder.name, kept)
    write_json(out / "checkpoints" / NAMES, names)
    if predictor := _predictor(run, exported):
        with atomic_write(out / PREDICTOR) as file:
            file.write(predictor)
    _copy(run, out, (CONFIG, "versions.json"))
    if (run / CONCEPTS).is_dir():  # of the run's own detector: an evaluation reads them
        shutil.copytree(run / CONCEPTS, out / CONCEPTS)
    predicts = predictor is not None or BEST_DETECTOR in names
    write_text(out / MODEL_CARD, model_card(files, exported, predicts_concepts=predicts))


def _copy(source: Path, target: Path, names: tuple[str, ...]) -> None:
    """Copy the files that are there."""
    target.mkdir(parents=True, exist_ok=True)
    for name in names:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)


def _predictor(run: Path, exported: ExportedModel) -> bytes | None:
    """The predictor of the concepts that a model was trained on, from its run or its shards."""
    shards = exported.config.data.shards
    if "concepts" not in exported.model.needs:
        return None
    for place in (str(run), *([shards] if isinstance(shards, str) else [])):
        data = find_predictor(place)
        if data is not None and same_concepts(exported.concepts, PredictorFile.of(data).identity):
            return data
    return None
