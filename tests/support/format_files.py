"""Writes tiny files of every format, and says what must be read from them."""

import base64
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from shards.formats import Annotation
from shards.schema import Array, Phrase

IDS = (42, 9, 391895, 64, 7, 25)
WIDTH, HEIGHT = 640, 480
DIM = 5


def regions(image_id: int, scale: float = 1.0) -> Array:
    """1 to 4 regions (R, DIM)."""
    rng = np.random.default_rng(image_id)
    return (scale * rng.normal(size=(1 + image_id % 4, DIM))).astype(np.float32)


def pixel_boxes(image_id: int) -> Array:
    """Boxes in pixels; the first is the whole image."""
    rng = np.random.default_rng(image_id + 1)
    low = rng.uniform(0, 200, (1 + image_id % 4, 2))
    boxes = np.hstack([low, low + rng.uniform(1, 200, low.shape)])
    boxes[0] = [0, 0, WIDTH, HEIGHT]
    return boxes.astype(np.float32)


def probabilities(image_id: int) -> Array:
    """Class probabilities (R, 7): the background and 6 classes."""
    rng = np.random.default_rng(image_id + 2)
    return rng.dirichlet(np.ones(7), 1 + image_id % 4).astype(np.float32)


@dataclass(frozen=True)
class WrittenFeatures:
    """Feature files: their path, their kind of boxes, and whether they have classes."""

    path: Path
    boxes: str = "pixels"
    classes: bool = False

    def normalised_boxes(self, image_id: int) -> Array:
        if self.boxes == "none":
            return np.tile(np.array([0, 0, 1, 1], np.float32), (1 + image_id % 4, 1))
        return pixel_boxes(image_id) / np.array([WIDTH, HEIGHT] * 2, np.float32)


def tsv_line(image_id: int, **changed: bytes) -> bytes:
    columns = {
        "id": b"%d" % image_id,
        "w": b"%d" % WIDTH,
        "h": b"%d" % HEIGHT,
        "n": b"%d" % len(regions(image_id)),
        "boxes": base64.b64encode(pixel_boxes(image_id).tobytes()),
        "features": base64.b64encode(regions(image_id).tobytes()),
    } | changed
    return b"\t".join(columns.values()) + b"\n"


def bottom_up_tsv(folder: Path) -> WrittenFeatures:
    path = folder / "trainval.tsv.0"
    path.write_bytes(b"".join(map(tsv_line, IDS)))
    return WrittenFeatures(path)


def lxmert_tsv(folder: Path) -> WrittenFeatures:
    def line(image_id: int) -> bytes:
        foreground = probabilities(image_id)[:, 1:]
        ids, likeliest = foreground.argmax(1).astype("<i8"), foreground.max(1)
        return b"\t".join(
            [
                f"COCO_val2014_{image_id:012d}".encode(),
                *(b"%d" % size for size in (HEIGHT, WIDTH)),
                *map(base64_of, (ids, likeliest, ids, likeliest)),
                b"%d" % len(ids),
                *map(base64_of, (pixel_boxes(image_id), regions(image_id))),
            ]
        )

    path = folder / "val2014_obj36.tsv"
    path.write_bytes(b"\n".join(map(line, IDS)))
    return WrittenFeatures(path, classes=True)


def base64_of(array: Array) -> bytes:
    return base64.b64encode(array.tobytes())


def with_geometry(image_id: int) -> Array:
    """Regions with x1, y1, x2, y2, width and height as shares, as VinVL appends them."""
    boxes = pixel_boxes(image_id) / np.array([WIDTH, HEIGHT] * 2, np.float32)
    return np.hstack([regions(image_id), boxes, boxes[:, 2:] - boxes[:, :2]])


def vinvl_tsv(folder: Path) -> WrittenFeatures:
    path = folder / "features.tsv"
    lines = [b"%d\t%d\t%s\n" % (i, len(regions(i)), base64_of(with_geometry(i))) for i in IDS]
    path.write_bytes(b"".join(lines))
    return WrittenFeatures(path, "shares")


def npy_dir(folder: Path) -> WrittenFeatures:
    path = folder / "swin_grid"
    path.mkdir()
    for image_id in IDS:
        np.save(path / f"{image_id}.npy", regions(image_id))
    return WrittenFeatures(path, "none")


def npz_image(folder: Path) -> WrittenFeatures:
    np.savez(folder / f"{IDS[0]}.npz", **arrays(IDS[0]))
    return WrittenFeatures(folder / f"{IDS[0]}.npz", classes=True)


def npz_by_id(folder: Path) -> WrittenFeatures:
    np.savez(folder / "all.npz", **{str(image_id): regions(image_id) for image_id in IDS})
    return WrittenFeatures(folder / "all.npz", "none")


def arrays(image_id: int) -> dict[str, Array]:
    count = len(regions(image_id))
    padded = np.vstack([regions(image_id), np.zeros((2, DIM), np.float32)])
    return {
        "features": padded,
        "boxes": pixel_boxes(image_id),
        "cls_prob": probabilities(image_id),
        "image_w": np.array([WIDTH]),
        "image_h": np.array([HEIGHT]),
        "num_boxes": np.array([count]),
    }


def npz_dir(folder: Path) -> WrittenFeatures:
    path = folder / "up_down_100"
    path.mkdir()
    for image_id in IDS:
        np.savez(path / f"{image_id}.npz", **arrays(image_id))
    return WrittenFeatures(path, classes=True)


def cocobu(folder: Path) -> WrittenFeatures:
    for part in ("att", "box", "fc"):
        (folder / f"cocobu_{part}").mkdir()
    for image_id in IDS:
        np.savez_compressed(folder / f"cocobu_att/{image_id}.npz", feat=regions(image_id))
        np.save(folder / f"cocobu_box/{image_id}.npy", pixel_boxes(image_id))
        np.save(folder / f"cocobu_fc/{image_id}.npy", regions(image_id).mean(0))
    return WrittenFeatures(folder / "cocobu_att")


def hdf5(folder: Path) -> WrittenFeatures:
    import h5py

    with h5py.File(folder / "coco_detections.hdf5", "w") as file:
        for image_id in IDS:
            file[f"{image_id}_features"] = regions(image_id)
            file[f"{image_id}_boxes"] = pixel_boxes(image_id)
            file[f"{image_id}_cls_prob"] = probabilities(image_id)
    return WrittenFeatures(folder / "coco_detections.hdf5", classes=True)


def lmdb(folder: Path) -> WrittenFeatures:
    import io

    import lmdb

    path = folder / "features_lmdb"
    with (
        lmdb.open(str(path), map_size=1 << 20) as database,
        database.begin(write=True) as transaction,
    ):
        for image_id in IDS:
            value = io.BytesIO()
            np.save(value, regions(image_id))
            transaction.put(str(image_id).encode(), value.getvalue())
    return WrittenFeatures(path, "none")


def npz_blocks(folder: Path) -> WrittenFeatures:
    """A block with those images that have two regions."""
    ids = [image_id for image_id in IDS if image_id % 4 == 1]
    feat = [regions(image_id) for image_id in ids]
    boxes = [pixel_boxes(image_id) / np.array([WIDTH, HEIGHT] * 2) for image_id in ids]
    np.savez(folder / "block.npz", imgid=ids, feat=feat, scale=np.ones(DIM), boxes=boxes)
    return WrittenFeatures(folder / "block.npz", "shares")


FEATURE_FILES: dict[str, Callable[[Path], WrittenFeatures]] = {
    write.__name__: write
    for write in (
        bottom_up_tsv,
        lxmert_tsv,
        vinvl_tsv,
        npz_dir,
        npy_dir,
        npz_image,
        npz_by_id,
        cocobu,
        hdf5,
        lmdb,
        npz_blocks,
    )
}
CAPTION, TOKENS = "A dog's T-shirt, wet.", ("a", "dog's", "t-shirt", "wet")


def annotation(image_id: int, split: str, **more: Any) -> Annotation:
    return Annotation(image_id, f"{image_id}.jpg", split, (CAPTION,), (TOKENS,), **more)


def write_json(path: Path, value: Any) -> Path:
    path.write_text(json.dumps(value))
    return path


def karpathy(folder: Path) -> tuple[Path, list[Annotation]]:
    splits = dict(zip(IDS, ("train", "restval", "val", "test", "train", "train"), strict=True))
    sentences = [{"raw": CAPTION, "tokens": list(TOKENS)}]
    images = [
        {"filename": f"{i}.jpg", "imgid": 0, "cocoid": i, "split": split, "sentences": sentences}
        for i, split in splits.items()
    ]
    path = write_json(folder / "dataset_coco.json", {"images": images})
    splits[IDS[1]] = "train"
    return path, [annotation(i, split) for i, split in splits.items()]


def coco_captions(
    folder: Path, split: str = "train", ids: Sequence[int] = IDS
) -> tuple[Path, list[Annotation]]:
    images = [{"id": i, "file_name": f"{i}.jpg", "width": WIDTH, "height": HEIGHT} for i in ids]
    annotations = [{"id": 7, "image_id": i, "caption": f"{CAPTION}\n"} for i in reversed(ids)]
    path = folder / f"captions_{split}2014.json"
    write_json(path, {"info": {}, "images": images, "annotations": annotations})
    bare = annotation(0, split, width=WIDTH, height=HEIGHT)
    return path, [replace(bare, image_id=i, file_name=f"{i}.jpg", tokens=()) for i in ids]


def csv_captions(folder: Path) -> tuple[Path, list[Annotation]]:
    """Two captions of each image, which are not adjacent."""
    splits = dict(zip(IDS, ("train", "restval", "val", "test", "train", "train"), strict=True))
    lines = [f'{i}.jpg,{split},"{CAPTION}"\n' for i, split in splits.items()]
    path = folder / "captions.csv"
    path.write_text("image,split,caption\n" + "".join(2 * lines))
    splits[IDS[1]] = "train"
    twice = {"captions": (CAPTION,) * 2, "tokens": ()}
    return path, [replace(annotation(i, split), **twice) for i, split in splits.items()]


SENTENCES = """[/EN#1/people Two young Men] with [/EN#2/bodyparts/other shaggy hair] , \
in [/EN#0/notvisual it] .
[/EN#1/people They] hang out in [/EN#8/scene the yard] by [/EN#9/other a tree] !
"""
OBJECTS = """<annotation><filename>{0}.jpg</filename>
<size><width>640</width><height>480</height><depth>3</depth></size>
<object><name>1</name><name>2</name>
<bndbox><xmin>1</xmin><ymin>49</ymin><xmax>321</xmax><ymax>481</ymax></bndbox></object>
<object><name>1</name>
<bndbox><xmin>65</xmin><ymin>1</ymin><xmax>129</xmax><ymax>241</ymax></bndbox></object>
<object><name>8</name><scene>1</scene><nobndbox>0</nobndbox></object>
<object><name>9</name><scene>0</scene><nobndbox>1</nobndbox></object>
</annotation>"""
GROUNDED = Annotation(
    0,
    "",
    "",
    (
        "Two young Men with shaggy hair , in it .",
        "They hang out in the yard by a tree !",
    ),
    (
        ("two", "young", "men", "with", "shaggy", "hair", "in", "it"),
        ("they", "hang", "out", "in", "the", "yard", "by", "a", "tree"),
    ),
    WIDTH,
    HEIGHT,
    (
        Phrase(0, 0, 3, 2, "men", ((0.0, 0.1, 0.5, 1.0), (0.1, 0.0, 0.2, 0.5))),
        Phrase(0, 4, 6, 5, "hair", ((0.0, 0.1, 0.5, 1.0),)),
        Phrase(1, 0, 1, 0, "they", ((0.0, 0.1, 0.5, 1.0), (0.1, 0.0, 0.2, 0.5))),
    ),
)


def flickr30k_entities(folder: Path) -> tuple[Path, list[Annotation]]:
    path = folder / "flickr30k_entities"
    for part in ("Sentences", "Annotations"):
        (path / part).mkdir(parents=True)
    for image_id in IDS:
        (path / f"Sentences/{image_id}.txt").write_text(SENTENCES)
        (path / f"Annotations/{image_id}.xml").write_text(OBJECTS.format(image_id))
    splits = {"train": IDS[:3], "val": IDS[3:4], "test": IDS[4:]}
    for split, ids in splits.items():
        (path / f"{split}.txt").write_text("".join(f"{i}\n" for i in ids))
    return path, [
        replace(GROUNDED, image_id=i, file_name=f"{i}.jpg", split=split)
        for split, ids in splits.items()
        for i in ids
    ]


CAPTION_FILES: dict[str, Callable[[Path], tuple[Path, list[Annotation]]]] = {
    write.__name__: write for write in (karpathy, coco_captions, csv_captions, flickr30k_entities)
}
