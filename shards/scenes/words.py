"""The words of captions and concepts; the first of several synonyms is the usual one."""

from __future__ import annotations

from shards.scenes.world import KINDS

#: Nouns of each kind: (singular, plural).
NOUNS: dict[str, tuple[tuple[str, str], ...]] = {
    "cat": (("cat", "cats"), ("kitten", "kittens")),
    "dog": (("dog", "dogs"), ("puppy", "puppies")),
    "bird": (("bird", "birds"),),
    "ball": (("ball", "balls"), ("sphere", "spheres")),
    "moon": (("moon", "moons"), ("crescent", "crescents")),
    "clock": (("clock", "clocks"),),
    "box": (("box", "boxes"), ("crate", "crates")),
    "book": (("book", "books"),),
    "house": (("house", "houses"), ("cottage", "cottages")),
    "cone": (("cone", "cones"),),
    "tree": (("tree", "trees"), ("pine", "pines")),
    "kite": (("kite", "kites"),),
    "car": (("car", "cars"), ("automobile", "automobiles")),
    "boat": (("boat", "boats"), ("ship", "ships")),
    "fish": (("fish", "fish"),),
    "flower": (("flower", "flowers"), ("blossom", "blossoms")),
    "mushroom": (("mushroom", "mushrooms"), ("toadstool", "toadstools")),
    "umbrella": (("umbrella", "umbrellas"), ("parasol", "parasols")),
    "chair": (("chair", "chairs"), ("seat", "seats")),
    "table": (("table", "tables"), ("desk", "desks")),
    "lamp": (("lamp", "lamps"),),
    "cup": (("cup", "cups"), ("mug", "mugs")),
    "key": (("key", "keys"),),
    "star": (("star", "stars"),),
}

COLOUR_WORDS = {
    "red": ("red", "crimson"),
    "orange": ("orange",),
    "yellow": ("yellow", "golden"),
    "green": ("green",),
    "blue": ("blue",),
    "purple": ("purple", "violet"),
    "white": ("white",),
    "black": ("black", "dark"),
}

#: There is no word for medium objects.
SIZE_WORDS = {"small": ("small", "little", "tiny"), "large": ("large", "big", "huge")}

COUNT_WORDS = {
    2: ("two", "a pair of", "a couple of"),
    3: ("three", "a trio of"),
    4: ("four", "a group of four"),
}

#: Words of each relation that `shards.scenes.relations.relation` returns, of near and of between.
RELATIONS = {
    "left": ("to the left of", "left of"),
    "right": ("to the right of", "right of"),
    "above": ("above", "over"),
    "below": ("below", "under", "beneath"),
    "on": ("on top of", "on"),
    "inside": ("inside", "in"),
    "holding": ("holding", "containing"),
    "front": ("in front of",),
    "behind": ("behind",),
    "near": ("next to", "near", "beside"),
    "between": ("between",),
}

BACKDROP_WORDS = {
    "grass": ("on the grass", "in a field", "on a lawn"),
    "beach": ("on the beach", "on the sand"),
    "floor": ("on the floor", "in a room"),
    "snow": ("in the snow", "on the ice"),
}

#: The kind that a noun names, singular or plural.
KIND_OF = {word: kind for kind in KINDS for pair in NOUNS[kind] for word in pair}
