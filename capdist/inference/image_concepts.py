"""Concepts of new images, from what predicted those that a model was trained on.

That is the detector of the model's run (stage ``mil``), or the predictor of a build, of which the
run has a copy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from capdist.config.base import ConfigError
from capdist.inference.concept_prediction import Detector
from capdist.inference.exported_model import ExportedModel
from capdist.inference.run_folder import BEST_DETECTOR, find_checkpoint
from shards.concept_predictor import PredictorFile, parse_predictor, same_concepts
from shards.concepts import Concepts
from shards.predict_concepts import REMEDY, find_predictor
from shards.schema import Sample

#: The concepts of some images, best first.
ImageConcepts = Callable[[Sequence[Sample]], list[Concepts]]


def open_image_concepts(run: Path, exported: ExportedModel, given: str | None) -> ImageConcepts:
    """What predicts a model's concepts.

    Args:
        run: of the model.
        exported: the model.
        given: folder of a run or of shards that has the detector or predictor; None: the run's,
            or that of the shards it was trained on.

    Raises:
        ConfigError: if there is none, or it is not that of the model's concepts.
        ShardError: if its file is damaged.
    """
    if given is not None:
        places = [given]
    else:
        shards = exported.config.data.shards
        places = [str(run), *([shards] if isinstance(shards, str) else [])]
    for place in places:
        if found := _find(place):
            identity, predict = found
            if same_concepts(exported.concepts, identity):
                return predict
            raise ConfigError(
                f"{place}: predicts the concepts of detector {identity}, but the model of {run} "
                f"was trained on those of {exported.concepts or 'the tars'}; give the folder that "
                "has that one: --concepts-from DIR"
            )
    raise ConfigError(
        f"{', '.join(places)}: no concept detector or predictor, whose concepts model "
        f"{exported.config.model.name!r} needs; give the run or the shards that have it: "
        f"--concepts-from DIR; {REMEDY}"
    )


def _find(place: str) -> tuple[str, ImageConcepts] | None:
    """The identity of the detector or predictor of a run or of shards, and what it predicts."""
    if find_checkpoint(Path(place), BEST_DETECTOR):
        detector = Detector.open(Path(place))
        return detector.digest, detector.predict
    data = find_predictor(place)
    if data is None:
        return None
    predictor = parse_predictor(place, data)
    identity = PredictorFile.of(data).identity
    return identity, lambda samples: [predictor(sample.regions) for sample in samples]
