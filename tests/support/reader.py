"""The folder of a reader who follows the documentation, with tiny files of all names in it."""

from __future__ import annotations

import shutil
from pathlib import Path

from shards.manifest import Manifest
from tests.support.command_runs import run
from tests.support.documentation import ROOT
from tests.support.format_files import (
    IDS,
    bottom_up_tsv,
    coco_captions,
    cocobu,
    csv_captions,
    flickr30k_entities,
    hdf5,
    karpathy,
    lmdb,
    lxmert_tsv,
    npy_dir,
    npz_by_id,
    npz_dir,
    vinvl_tsv,
    write_json,
)
from tests.support.photographs import IDS as PHOTOGRAPH_IDS
from tests.support.photographs import QUARTERS, photograph, write_photographs
from tests.support.shards import tiny_sample

#: Photographs by names of the documentation.
PHOTOGRAPHS = ("photo.jpg", "other.png", "photos/1022454332_6af2c1449a.jpg")
PHOTOGRAPHS += ("photos/103106960_e8a41d64f8.jpg",)


def furnish(folder: Path, scenes: Manifest) -> None:
    """Write everything but shards of photographs, and runs, which commands make."""
    for name in ("configs", "launcher"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "corpus").mkdir()
    names = "".join(f"{name}\n" for name in scenes.class_names)
    (folder / "flickr30k_class_name.txt").write_text(names)
    for name in ("scenes", "small", "coco", "flickr8k", "other"):
        shutil.copytree(scenes.root, folder / "corpus" / name)
    for name in ("data", "feature", "trainval", "mscoco_imgfeat", "annotations", "vinvl"):
        (folder / name).mkdir()
    (folder / "flickr8k").mkdir()
    for name in ("photos", "flickr8k/images"):
        write_photographs(folder / name)
    photograph(7).save(folder / "flickr8k/images/7.jpg")
    for number, name in enumerate(PHOTOGRAPHS):
        photograph(number).save(folder / name)
    _captions(folder)
    _features(folder)


def _captions(folder: Path) -> None:
    dataset = karpathy(folder)[0]
    for name in ("dataset.json", "dataset_flickr8k.json"):
        shutil.copy(dataset, folder / name)
    csv_captions(folder)
    flickr30k_entities(folder)
    for split, ids in (("train", IDS[:4]), ("val", IDS[4:])):
        coco_captions(folder / "annotations", split, ids)
        chinese = folder / f"captions_{split}2024.json"
        shutil.copy(folder / f"annotations/captions_{split}2014.json", chinese)
    images = []
    for number in PHOTOGRAPH_IDS:
        split = {PHOTOGRAPH_IDS[-1]: "test", PHOTOGRAPH_IDS[-2]: "val"}.get(number, "train")
        captions = tiny_sample(number).tokens
        sentences = [{"raw": " ".join(words), "tokens": list(words)} for words in captions]
        names = {"filename": f"{number}.png", "cocoid": number}
        images.append({**names, "split": split, "sentences": sentences})
    write_json(folder / "captions.json", {"images": images})
    new = [{"id": n, "file_name": f"{n}.png", "width": 32, "height": 24} for n in PHOTOGRAPH_IDS]
    write_json(folder / "image_info_test.json", {"images": new})


def _features(folder: Path) -> None:
    for write, made, wanted in (
        (bottom_up_tsv, "trainval.tsv.0", "trainval/karpathy_train.tsv.0"),
        (npz_dir, "up_down_100", "feature/up_down_100"),
        (npz_dir, "up_down_100", "flickr30k_up_down_36"),
        (npz_dir, "up_down_100", "features"),
        (npz_dir, "up_down_100", "up_down_100"),
        (hdf5, "coco_detections.hdf5", "coco_detections.hdf5"),
        (lxmert_tsv, "val2014_obj36.tsv", "mscoco_imgfeat/val2014_obj36.tsv"),
        (vinvl_tsv, "features.tsv", "vinvl/train/features.tsv"),
        (npy_dir, "swin_grid", "swin_grid"),
        (lmdb, "features_lmdb", "data/cocobu_att.lmdb"),
        (bottom_up_tsv, "trainval.tsv.0", "flickr30k_36.tsv"),
        (npz_by_id, "all.npz", "features_all.npz"),
    ):
        write(folder)
        (folder / wanted).parent.mkdir(exist_ok=True)
        (folder / made).rename(folder / wanted)
    cocobu(folder / "data")
    files = ["--annotations", str(folder / "dataset_coco.json"), "--features"]
    out = ["--concepts", "0", "--workers", "1", "--out", str(folder / "corpus/from_files")]
    assert run("shards", ["build", *files, str(folder / "features"), *out]) == 0
    (folder / "objects_vocab.txt").write_text("".join(f"class {n}\n" for n in range(6)))
    write_json(folder / "words.json", {"photo.jpg": [["red", "blue"]]})


def stand_ins(folder: Path) -> None:
    """What the pages get from elsewhere: runs by other names, results, and new images."""
    runs = folder / "runs"
    assert run("capdist", ["evaluate", "--run", str(runs / "glied"), "--split", "test"]) == 0
    copies = dict.fromkeys(("base", "updown", "flickr30k_ss_updown", "small"), "glied")
    copies |= {"X": "flickr8k_detector", **dict.fromkeys(("a", "b", "c", "flickr8k"), "mine")}
    for name, source in copies.items():
        shutil.copytree(runs / source, runs / name)
    for name, split in (("captions.json", "val"), ("a.json", "test"), ("b.json", "test")):
        given = ["--run", "runs/glied", "--shards", "corpus/coco", "--split", split]
        assert run("capdist", ["caption", *given, "--out", name]) == 0
    given = ["--run", "runs/glied", "--shards", "corpus/coco", "--n-best", "2"]
    assert run("capdist", ["caption", *given, "--out", "n_best.json"]) == 0
    photos = ["--images", "photos", "--backbone", QUARTERS]
    assert run("shards", ["extract", *photos, "--out", "new", "--workers", "1"]) == 0
    images = ["--annotations", "image_info_test.json", "--features", "new/*.npz"]
    made_by = ["--feature-name", QUARTERS, "--concepts-from", "runs/mine"]
    out = ["--workers", "1", "--out", "corpus/new"]
    assert run("shards", ["build", *images, *made_by, *out]) == 0
