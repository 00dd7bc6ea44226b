"""The words of captions and concepts; the first of several synonyms is the usual one."""

from __future__ import annotations

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

#: Nouns, singular and plural, of the kinds that the hard corpus adds, by the kind they look like.
VARIANTS: dict[str, dict[str, str]] = {
    "cat": {"lion": "lions", "tiger": "tigers", "fox": "foxes"},
    "dog": {"wolf": "wolves", "bear": "bears", "goat": "goats"},
    "bird": {"duck": "ducks", "owl": "owls", "parrot": "parrots"},
    "ball": {"balloon": "balloons", "globe": "globes", "coin": "coins"},
    "moon": {"banana": "bananas", "boomerang": "boomerangs", "hook": "hooks"},
    "clock": {"compass": "compasses", "wheel": "wheels", "medal": "medals"},
    "box": {"suitcase": "suitcases", "chest": "chests", "basket": "baskets"},
    "book": {"envelope": "envelopes", "newspaper": "newspapers", "map": "maps"},
    "house": {"church": "churches", "barn": "barns", "tent": "tents"},
    "cone": {"pyramid": "pyramids", "tower": "towers", "rocket": "rockets"},
    "tree": {"bush": "bushes", "palm": "palms", "cactus": "cacti"},
    "kite": {"flag": "flags", "diamond": "diamonds", "arrow": "arrows"},
    "car": {"truck": "trucks", "bus": "buses", "van": "vans"},
    "boat": {"canoe": "canoes", "raft": "rafts", "ferry": "ferries"},
    "fish": {"shark": "sharks", "whale": "whales", "dolphin": "dolphins"},
    "flower": {"rose": "roses", "tulip": "tulips", "daisy": "daisies"},
    "mushroom": {"acorn": "acorns", "bell": "bells", "jellyfish": "jellyfish"},
    "umbrella": {"parachute": "parachutes", "hat": "hats", "helmet": "helmets"},
    "chair": {"stool": "stools", "throne": "thrones", "bench": "benches"},
    "table": {"bed": "beds", "cabinet": "cabinets", "piano": "pianos"},
    "lamp": {"lantern": "lanterns", "candle": "candles", "torch": "torches"},
    "cup": {"bottle": "bottles", "vase": "vases", "teapot": "teapots"},
    "key": {"hammer": "hammers", "spoon": "spoons", "brush": "brushes"},
    "star": {"crown": "crowns", "snowflake": "snowflakes", "gem": "gems"},
}

BASE_OF = {variant: base for base, variants in VARIANTS.items() for variant in variants}

NOUNS |= {
    kind: ((kind, plural),) for family in VARIANTS.values() for kind, plural in family.items()
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
KIND_OF = {word: kind for kind, nouns in NOUNS.items() for pair in nouns for word in pair}


def base(kind: str) -> str:
    """The kind that a variant looks like; any other kind itself."""
    return BASE_OF.get(kind, kind)
