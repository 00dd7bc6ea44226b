"""Builds from captions of several languages, and from captions without a word."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shards.__main__ import main
from shards.build import BuildConfig, build
from shards.caption_tokens import read_captions
from shards.manifest import Manifest
from shards.schema import ShardError, decode_sample_json
from shards.tokenisers import CaptionText
from tests.support.format_files import SENTENCES, flickr30k_entities, write_json

HINDI, CHINESE = "एक लाल बस", "一辆红色的公交车"


def coco(folder: Path, captions: Sequence[Sequence[str]], split: str = "train") -> Path:
    """A COCO file of images 1, 2, ... with these captions, and their features."""
    images = [
        {"id": i, "file_name": f"{i}.jpg", "width": 64, "height": 48}
        for i in range(1, len(captions) + 1)
    ]
    annotations = [
        {"image_id": i, "caption": caption}
        for i, texts in enumerate(captions, 1)
        for caption in texts
    ]
    rng = np.random.default_rng(1)
    for image in images:
        np.savez(folder / f"{image['id']}.npz", x=rng.normal(size=(2, 3)).astype(np.float32))
    path = folder / f"captions_{split}.json"
    return write_json(path, {"images": images, "annotations": annotations})


def built(folder: Path, captions: Sequence[Sequence[str]], **options: Any) -> Manifest:
    config = BuildConfig(str(coco(folder, captions)), str(folder), concepts=0, **options)
    return build(config, folder / "out", workers=1)


def tokens(manifest: Manifest) -> list[tuple[tuple[str, ...], ...]]:
    return [decode_sample_json(key, data)["tokens"] for key, data in manifest.read("train", "json")]


def test_the_manifest_has_the_choice_and_older_ones_the_default(tmp_path: Path) -> None:
    manifest = built(tmp_path, [[CHINESE]], tokeniser="characters", language="zh")
    assert tokens(manifest) == [(tuple(CHINESE),)]
    assert Manifest.load(manifest.root).text == CaptionText("characters", "zh")
    path = manifest.root / "manifest.json"
    fields = json.loads(path.read_text())
    assert (fields["tokeniser"], fields["language"]) == ("characters", "zh")
    older = {name: value for name, value in fields.items() if name not in ("tokeniser", "language")}
    path.write_text(json.dumps(older))
    assert Manifest.load(manifest.root).text == CaptionText("ptb-like", "en")
    path.write_text(json.dumps({**older, "tokeniser": "bpe"}))
    with pytest.raises(ShardError, match=r"manifest\.json: tokeniser 'bpe', expected one of"):
        Manifest.load(manifest.root)


def test_captions_in_other_letters_are_not_taken_for_english(tmp_path: Path) -> None:
    found = read_captions([coco(tmp_path, [[HINDI, HINDI], ["a bus"]])], "ptb-like")
    assert found.images[0].tokens == (("एक", "लाल", "बस"),) * 2
    assert found.text == CaptionText("ptb-like", "und")
    assert "most are not in Latin letters" in found.notes[0]
    found = read_captions([coco(tmp_path, [[HINDI], ["a bus", "Một xe"]])], "given")
    assert (found.text, found.notes) == (CaptionText("given", "en"), [])


def test_sentences_of_one_token_are_warned_of(tmp_path: Path) -> None:
    file = coco(tmp_path, [["a bus", CHINESE], [CHINESE]])
    assert read_captions([file], "ptb-like", "zh").notes == [
        f"warning: 2 of 3 captions are one token of tokeniser ptb-like; the first is {CHINESE!r}, "
        f"{file}: image 1; if they are sentences without spaces, choose --tokeniser characters"
    ]
    assert read_captions([file], "characters", "zh").notes == []


def test_a_caption_without_a_word_costs_that_caption(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = built(tmp_path, [["...", "a dog"], ["a cat", "a bird"]])
    assert tokens(manifest) == [(("a", "dog"),), (("a", "cat"), ("a", "bird"))]
    line = (
        f"{tmp_path}/captions_train.json: image 1 (1.jpg): caption '...' has no word; it is left "
        "out"
    )
    assert line in capsys.readouterr().out.splitlines()
    assert Manifest.load(manifest.root).left_out == (line,)
    with pytest.raises(ShardError, match=r"image 1 \(1.jpg\): no captions"):
        built(tmp_path, [["..."], ["a cat"]])


def test_phrases_follow_their_captions(tmp_path: Path) -> None:
    path, expected = flickr30k_entities(tmp_path)
    image = expected[0].image_id
    first, second = SENTENCES.splitlines()
    (path / f"Sentences/{image}.txt").write_text(f"{first}\n!!!\n{second}\n")
    found = read_captions([path], "given").images
    assert found[0].captions == expected[0].captions
    assert found[0].tokens == expected[0].tokens
    phrases = found[0].grounding or ()
    assert [(p.caption, p.class_name) for p in phrases] == [(0, "men"), (0, "hair"), (1, "they")]
    with pytest.raises(ShardError, match="which tokeniser characters does not keep"):
        read_captions([path], "characters")


def test_unknown_choices_are_refused(tmp_path: Path) -> None:
    file = coco(tmp_path, [["a dog"]])
    with pytest.raises(ShardError, match=r"^command line: tokeniser 'bpe', expected one of ch"):
        read_captions([file], "bpe")
    with pytest.raises(ShardError, match="command line: language 'English', expected an ISO 639"):
        read_captions([file], "given", "English")


def test_the_command_line_states_tokeniser_and_language(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = coco(tmp_path, [[CHINESE]]), tmp_path / "out"
    options = ["--annotations", str(file), "--features", str(tmp_path), "--out", str(out)]
    options += ["--concepts", "0", "--workers", "1"]
    assert main(["build", *options, "--tokeniser", "characters", "--language", "zh"]) == 0
    assert "; captions characters, zh" in capsys.readouterr().out


def karpathy(folder: Path, tokens: Sequence[str]) -> Path:
    image = {"filename": "7.jpg", "imgid": 7, "split": "train"}
    sentence = {"raw": "Ein roter Bus.", "tokens": tokens}
    return write_json(folder / "set.json", {"images": [{**image, "sentences": [sentence]}]})


def test_own_tokens_that_scores_would_split_otherwise_are_refused(tmp_path: Path) -> None:
    file = karpathy(tmp_path, ["Ein", "Bus", "."])
    message = r"image 7 \(7.jpg\): tokens 'Ein Bus .' are not those of .* ptb-like, 'ein bus'; keep"
    with pytest.raises(ShardError, match=message):
        read_captions([file], "ptb-like", "de")
    for tokeniser, language in (("given", "de"), ("ptb-like", "en")):
        (image,) = read_captions([file], tokeniser, language).images
        assert image.tokens == (("Ein", "Bus", "."),)


@pytest.mark.parametrize("token", ["roter Bus", " ", "Bus "])
def test_tokens_with_spaces_are_refused(token: str, tmp_path: Path) -> None:
    with pytest.raises(ShardError, match=r"image 7.jpg: tokens .*, expected words without"):
        read_captions([karpathy(tmp_path, ["ein", token])], "given", "de")


def test_a_file_without_lines_is_named(tmp_path: Path) -> None:
    (tmp_path / "val.csv").write_text("image,caption\n")
    with pytest.raises(ShardError, match=r"val.csv: no images"):
        read_captions([tmp_path / "val.csv"], "given")
