import numpy as np
import pytest

from shards.scenes.layout import sample_scene
from shards.scenes.relations import between, near, relation
from shards.scenes.shapes import SHAPES
from shards.scenes.world import KINDS, SIDE, Box, Entity, Scene, visible_shares


def entity(*boxes: Box, kind: str = "star", depth: int = 0) -> Entity:
    return Entity(kind, "red", "small", boxes, depth)


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [sample_scene(np.random.default_rng(number)) for number in range(300)]


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        (entity((10, 50, 30, 70)), entity((60, 55, 90, 85)), "left"),
        (entity((100, 50, 120, 70)), entity((60, 55, 90, 85)), "right"),
        (entity((60, 10, 80, 30)), entity((60, 55, 90, 85)), "above"),
        (entity((60, 100, 80, 120)), entity((60, 55, 90, 85)), "below"),
        (entity((60, 35, 80, 55)), entity((50, 55, 90, 85), kind="table"), "on"),
        (entity((60, 35, 80, 55)), entity((50, 55, 90, 85), kind="moon"), "above"),
        (entity((50, 55, 90, 85), kind="table"), entity((60, 35, 80, 55)), "below"),
        (entity((60, 40, 80, 60)), entity((50, 50, 90, 90), kind="box", depth=1), "inside"),
        (entity((50, 50, 90, 90), kind="box", depth=1), entity((60, 40, 80, 60)), "holding"),
        (entity((60, 40, 80, 60), depth=2), entity((50, 50, 90, 90), kind="box"), "front"),
        (entity((60, 40, 80, 60)), entity((50, 50, 90, 90), depth=1), "behind"),
    ],
)
def test_relations_follow_from_boxes_and_depth(a: Entity, b: Entity, expected: str) -> None:
    assert relation(a, b) == expected


def test_near_allows_fourteen_pixels_along_each_axis() -> None:
    box = entity((50, 50, 70, 70))
    assert near(box, entity((84, 50, 90, 60)))
    assert not near(box, entity((85, 50, 90, 60)))
    assert not near(box, entity((72, 100, 90, 120)))


def test_between_needs_one_neighbour_on_each_side() -> None:
    middle, left, right = (entity((x, 50, x + 20, 70)) for x in (60, 20, 100))
    assert between(middle, left, right)
    assert between(middle, right, left)
    assert not between(left, middle, right)
    assert not between(middle, left, entity((60, 100, 80, 120)))


def test_visible_shares_by_hand() -> None:
    back = entity((0, 0, 10, 10), (20, 0, 30, 10), depth=0)
    front = entity((5, 0, 15, 5), depth=1)
    assert visible_shares([front, back]) == [0.75, 1.0, 1.0]


def test_saliency_equals_hand_computed_values() -> None:
    middle = entity((70, 70, 90, 90))
    assert middle.saliency() == 20
    assert entity((60, 70, 80, 90), (80, 70, 100, 90)).saliency() == pytest.approx(20 * 2**0.5)
    assert entity((70, 70, 90, 90), kind="table").saliency() == 8
    # 50 of 113.1 pixels from the centre to a corner.
    assert entity((120, 70, 140, 90)).saliency() == pytest.approx(
        20 * (1 - 0.5 * 50 / 113.137), 1e-4
    )


def test_scenes_are_valid(scenes: list[Scene]) -> None:
    for scene in scenes:
        kinds = [entity.kind for entity in scene.entities]
        boxes = np.array([box for _, box in scene.objects()])
        assert len(set(kinds)) == len(kinds)
        assert 2 <= len(boxes) <= 6
        assert boxes.min() >= 0
        assert boxes.max() <= SIDE
        assert min(visible_shares(scene.entities)) >= 0.4
        for more, less in zip(scene.entities, scene.entities[1:], strict=False):
            assert more.saliency() >= 1.1 * less.saliency()


def test_every_relation_kind_colour_and_count_occurs(scenes: list[Scene]) -> None:
    relations = {relation(*scene.entities[:2]) for scene in scenes}
    entities = [entity for scene in scenes for entity in scene.entities]
    assert len(relations) == 9
    assert any(len(s.entities) > 2 and between(*s.entities[:3]) for s in scenes)
    assert {entity.kind for entity in entities} == set(KINDS) == set(SHAPES)
    assert len({entity.colour for entity in entities}) == 8
    assert {len(entity.boxes) for entity in entities} == {1, 2, 3, 4}
