"""Parses captions from their tokens, and compares what they say with the scene."""

import re

import numpy as np
import pytest

from shards.scenes.draw import PAINT
from shards.scenes.grammar import PLANS, Caption, make_captions, to_sentence
from shards.scenes.layout import sample_scene
from shards.scenes.words import COLOUR_WORDS, KIND_OF, SIZE_WORDS
from shards.scenes.world import SIDE, Box, Entity, Scene
from shards.schema import Phrase

CaptionedScenes = list[tuple[Scene, list[Caption]]]

COUNTS = {
    "a pair of": 2, "a couple of": 2, "two": 2, "a trio of": 3, "three": 3,
    "a group of four": 4, "four": 4, "an": 1, "a": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def captioned_scenes() -> CaptionedScenes:
    return [
        (scene, make_captions(scene, np.random.default_rng((number, 1)), PLANS))
        for number in range(400)
        for scene in [sample_scene(np.random.default_rng((number, 0)))]
    ]


def bounds(entity: Entity) -> Box:
    boxes = np.array(entity.boxes)
    x1, y1 = boxes[:, :2].min(axis=0)
    x2, y2 = boxes[:, 2:].max(axis=0)
    return int(x1), int(y1), int(x2), int(y2)


def mentioned(scene: Scene, phrase: Phrase) -> Entity:
    (entity,) = [entity for entity in scene.entities if entity.kind == phrase.class_name]
    return entity


def overlap(a: Box, b: Box) -> bool:
    return min(a[2], b[2]) > max(a[0], b[0]) and min(a[3], b[3]) > max(a[1], b[1])


def holds(words: str, a: Entity, b: Entity) -> bool:
    """Whether a stated relation is true, computed from pixel boxes and painting order."""
    p, q = bounds(a), bounds(b)
    dx, dy = (p[0] + p[2] - q[0] - q[2]) / 2, (p[1] + p[3] - q[1] - q[3]) / 2
    gap = max(p[0] - q[2], q[0] - p[2], p[1] - q[3], q[1] - p[3])
    if words in ("inside", "in"):
        return b.kind in ("box", "cup") and overlap(p, q) and q[0] <= p[0] and p[2] <= q[2]
    if words in ("holding", "containing"):
        return holds("inside", b, a)
    if words in ("on", "on top of"):
        return abs(p[3] - q[1]) <= 2 and q[0] <= (p[0] + p[2]) / 2 <= q[2]
    return {
        "left of": -dx >= abs(dy) and dx < 0,
        "right of": dx >= abs(dy),
        "above": -dy > abs(dx),
        "below": dy > abs(dx) or holds("on", b, a),
        "in front of": overlap(p, q) and a.depth > b.depth,
        "behind": overlap(p, q) and a.depth < b.depth,
        "near": gap <= 14,
        "and": True,
    }[words]


CANONICAL = {
    "to the left of": "left of", "to the right of": "right of", "over": "above",
    "under": "below", "beneath": "below", "next to": "near", "beside": "near",
}  # fmt: skip


def test_stated_counts_colours_and_sizes_are_true(captioned_scenes: CaptionedScenes) -> None:
    for scene, captions in captioned_scenes:
        for caption in captions:
            for phrase in caption.phrases:
                entity = mentioned(scene, phrase)
                words = " ".join(caption.tokens[phrase.start : phrase.end])
                count = next(n for text, n in COUNTS.items() if words.startswith(text + " "))
                assert count == len(entity.boxes), words
                for adjective in words.split()[:-1]:
                    for colour, synonyms in COLOUR_WORDS.items():
                        assert adjective not in synonyms or entity.colour == colour
                    for size, synonyms in SIZE_WORDS.items():
                        assert adjective not in synonyms or entity.size == size


def test_stated_relations_are_true(captioned_scenes: CaptionedScenes) -> None:
    relations = set()
    for scene, captions in captioned_scenes:
        for caption in captions:
            first, second, *others = caption.phrases
            words = " ".join(caption.tokens[first.end : second.start])
            a, b = mentioned(scene, first), mentioned(scene, second)
            relations.add(words)
            if words == "between":
                c = mentioned(scene, others[0])
                assert {holds("left of", a, b), holds("left of", a, c)} == {True, False}
                assert {holds("right of", a, b), holds("right of", a, c)} == {True, False}
            else:
                assert holds(CANONICAL.get(words, words), a, b), caption.tokens
    assert len(relations) == 22


def test_grounding_has_the_boxes_of_the_mentioned_objects(
    captioned_scenes: CaptionedScenes,
) -> None:
    for scene, captions in captioned_scenes:
        for number, caption in enumerate(captions):
            assert len(caption.phrases) >= 2
            for phrase in caption.phrases:
                boxes = {
                    box for e in scene.entities if e.kind == phrase.class_name for box in e.boxes
                }
                assert {tuple(round(edge * SIDE) for edge in box) for box in phrase.boxes} == boxes
                assert KIND_OF[caption.tokens[phrase.head]] == phrase.class_name
                assert phrase.start <= phrase.head < phrase.end
                assert phrase.caption == number


def test_every_noun_is_the_head_of_a_phrase(captioned_scenes: CaptionedScenes) -> None:
    for _, captions in captioned_scenes:
        for caption in captions:
            heads = {phrase.head for phrase in caption.phrases}
            assert heads == {i for i, word in enumerate(caption.tokens) if word in KIND_OF}


def test_captions_are_about_the_most_salient_entities(
    captioned_scenes: CaptionedScenes,
) -> None:
    first = 0
    for scene, captions in captioned_scenes:
        most_salient = {entity.kind for entity in scene.entities[:2]}
        for caption in captions:
            between = "between" in caption.tokens
            assert between or {phrase.class_name for phrase in caption.phrases[:2]} == most_salient
            first += caption.phrases[0].class_name == scene.entities[0].kind
    assert 0.85 < first / (5 * len(captioned_scenes)) < 1


def test_caption_lengths_and_vocabulary(captioned_scenes: CaptionedScenes) -> None:
    tokens = [caption.tokens for _, captions in captioned_scenes for caption in captions]
    assert all(len(captions) == 5 for _, captions in captioned_scenes)
    assert all(re.fullmatch("[a-z]+", word) for caption in tokens for word in caption)
    assert 8 <= np.mean([len(caption) for caption in tokens]) <= 14
    assert min(len(caption) for caption in tokens) >= 8
    assert 120 <= len({word for caption in tokens for word in caption}) <= 180
    assert to_sentence(("a", "red", "ball")) == "A red ball."


def test_usual_synonyms_are_more_frequent(captioned_scenes: CaptionedScenes) -> None:
    tokens = [
        word for _, captions in captioned_scenes for caption in captions for word in caption.tokens
    ]
    assert tokens.count("red") > 1.5 * tokens.count("crimson") > 0
    assert set(PAINT) == set(COLOUR_WORDS)
