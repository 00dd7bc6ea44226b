"""The two embedded corpora: what distinguishes the hard one from the plain one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from shards.scenes import crowd, detector, grammar
from shards.scenes.detector import Detector
from shards.scenes.grammar import Plan
from shards.scenes.layout import sample_scene
from shards.scenes.world import Scene


@dataclass(frozen=True)
class Difficulty:
    """How the scenes of a corpus are made.

    Args:
        name: of the data set.
        sample_scene: a random scene.
        plans: of its captions.
        detector: of its regions.
    """

    name: str
    sample_scene: Callable[[np.random.Generator], Scene]
    plans: tuple[Plan, ...]
    detector: Detector


PLAIN = Difficulty("scenes", sample_scene, grammar.PLANS, detector.PLAIN)
HARD = Difficulty("scenes-hard", crowd.sample_crowd, crowd.PLANS, detector.HARD)
