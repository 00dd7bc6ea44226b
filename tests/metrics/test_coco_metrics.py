import json
import math
import os
import shutil
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from capdist.metrics import coco
from capdist.metrics.coco import ScoreError, cider, probe, score, write_results
from capdist.metrics.coco_java import failure, java_environment, ptb, spice_means
from capdist.metrics.tokenise import tokenise

needs_java = pytest.mark.skipif(shutil.which("java") is None, reason="no java on PATH")

REFERENCES = {1: ["a man rides a horse"], 2: ["two dogs run", "dogs run on grass"]}
CAPTIONS = {1: "a man rides a bike", 2: "dogs run"}
LIGHT = ("BLEU-1", "BLEU-2", "ROUGE-L", "CIDEr")


@pytest.fixture
def no_java(monkeypatch):
    monkeypatch.setenv("PATH", "")


def make_java(folder, monkeypatch, script):
    java = folder / "java"
    java.write_text(f"#!/bin/sh\n{script}\n")
    java.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def test_bleu_and_rouge_equal_hand_computed_values(no_java):
    values = score(REFERENCES, CAPTIONS, metrics=LIGHT).values
    # 4 of 5 and 2 of 2 words match; 7 words against the closest references' 5 + 3
    brevity = math.exp(1 - 8 / 7)
    assert values["BLEU-1"] == pytest.approx(100 * brevity * 6 / 7)
    # of 4 + 1 bigrams, 3 + 1 match
    assert values["BLEU-2"] == pytest.approx(100 * brevity * math.sqrt(6 / 7 * 4 / 5))
    # image 1: 4 of 5 both ways; image 2: all of the caption, 2 of 3 reference words at best
    f_beta = (1 + 1.2**2) * (2 / 3) / (2 / 3 + 1.2**2)
    assert values["ROUGE-L"] == pytest.approx(100 * (4 / 5 + f_beta) / 2)


def test_cider_equals_a_hand_computed_value(no_java):
    # Two images that share no n-gram: each idf is log 2, and it cancels in the cosines.
    # Image 1: 1-grams a:2 man rides bike against a:2 man rides horse: (4+1+1)/7; 2-grams 3/4;
    # 3-grams 2/3; 4-grams 1/2; equal lengths.
    first = 10 * (6 / 7 + 3 / 4 + 2 / 3 + 1 / 2) / 4
    # Image 2: one bigram against 2 and 3; 1-grams 2/sqrt(2*3), 2/sqrt(2*4); 2-grams 1/sqrt(2), ...
    three = (2 / math.sqrt(6) + 1 / math.sqrt(2)) / 4 * math.exp(-1 / 72)
    four = (2 / math.sqrt(8) + 1 / math.sqrt(3)) / 4 * math.exp(-4 / 72)
    expected = 100 * (first + 10 * (three + four) / 2) / 2
    assert score(REFERENCES, CAPTIONS, metrics=["CIDEr"]).values["CIDEr"] == pytest.approx(expected)
    split = {key: [caption.split() for caption in captions] for key, captions in REFERENCES.items()}
    words = {key: caption.split() for key, caption in reversed(CAPTIONS.items())}
    assert cider(split, words) == pytest.approx(expected)


def test_without_java_the_other_metrics_are_scored(no_java):
    scores = score(REFERENCES, CAPTIONS)
    assert scores.tokeniser == "plain"
    assert set(scores.values) == {"BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L", "CIDEr"}
    assert set(scores.absent) == {"PTB", "METEOR", "SPICE"}
    assert "no java on PATH" in probe()["METEOR"]
    assert json.loads(json.dumps(scores.to_json())) == scores.to_json()


def test_only_the_requested_metrics_are_scored(no_java):
    scores = score(REFERENCES, CAPTIONS, metrics=["BLEU-4"])
    assert set(scores.values) == {"BLEU-4"}
    assert set(scores.absent) == {"PTB"}


@needs_java
def test_meteor_with_java_in_a_locale_with_decimal_commas(monkeypatch):
    monkeypatch.setenv("JAVA_TOOL_OPTIONS", "-Duser.language=de -Duser.country=DE")
    references = {1: ["Ein Café, bitte!"], 2: ["two dogs run"]}
    captions = {1: "ein café bitte", 2: "two dogs run"}
    scores = score(references, captions, metrics=["METEOR", "ROUGE-L"])
    assert scores.tokeniser == "ptb"
    assert not scores.absent
    assert scores.values == {"METEOR": pytest.approx(100), "ROUGE-L": pytest.approx(100)}


@needs_java
def test_ptb_equals_that_of_pycocoevalcap():
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    sentences = ["A man's riding, a (big) horse... don't!", "", "A café — U.S. 3.5 cats/dogs ||| x"]
    reference = PTBTokenizer().tokenize({0: [{"caption": text} for text in sentences]})
    assert ptb(sentences) == reference[0]


@needs_java
def test_line_breaks_inside_a_caption_do_not_shift_other_captions():
    references = {1: ["a\rdog\u2028runs"], 2: ["a cat"], 3: [""]}
    captions = {1: "a dog\nruns", 2: "a cat", 3: ""}
    scores = score(references, captions, metrics=["ROUGE-L", "BLEU-1"])
    assert scores.tokeniser == "ptb"
    assert scores.values == {"ROUGE-L": pytest.approx(100), "BLEU-1": pytest.approx(100)}


def test_hanging_java_is_killed_and_the_other_metrics_are_scored(tmp_path, monkeypatch):
    marker = f"/{uuid.uuid4().hex}"
    make_java(tmp_path, monkeypatch, f"sleep 600 & tail -f /dev/null {marker}")
    scores = score(REFERENCES, CAPTIONS, metrics=["METEOR", *LIGHT], timeout_s=1)
    assert scores.absent == {"PTB": "timed out after 1 s", "METEOR": "timed out after 1 s"}
    assert scores.tokeniser == "plain"
    assert set(scores.values) == set(LIGHT)
    assert (
        marker not in subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout
    )


def test_the_message_of_failing_java_is_reported(tmp_path, monkeypatch):
    make_java(tmp_path, monkeypatch, "echo 'no memory left' >&2; exit 1")
    scores = score(REFERENCES, CAPTIONS, metrics=["METEOR", "CIDEr"])
    assert set(scores.absent) == {"PTB", "METEOR"}
    assert all("java: no memory left" in why for why in scores.absent.values())
    assert set(scores.values) == {"CIDEr"}


def test_spice_models_are_not_downloaded(tmp_path, monkeypatch):
    make_java(tmp_path, monkeypatch, "exit 1")
    lib = coco._package() / "spice" / "lib"
    if any(lib.glob("*-models.jar")):
        pytest.skip(f"SPICE's models are in {lib}")
    before = sorted(lib.iterdir())
    assert "models.jar not in" in score(REFERENCES, CAPTIONS, metrics=["SPICE"]).absent["SPICE"]
    assert sorted(lib.iterdir()) == before


SPICE_FAILURE = b"""NOTE: Picked up JDK_JAVA_OPTIONS: --add-opens=...
Picked up JAVA_TOOL_OPTIONS: -Dfile.encoding=UTF-8
Could not score batched file input:
java.lang.reflect.InaccessibleObjectException: Unable to make field accessible
\tat java.base/java.lang.reflect.AccessibleObject.checkCanSetAccessible(AccessibleObject.java:354)
Traceback (most recent call last):
  File "spice.py", line 77, in compute_score
subprocess.CalledProcessError: Command '['java', '-jar', '-Xmx8G']' returned non-zero exit status 1.
"""


def test_the_message_of_a_failing_spice_is_that_of_java():
    expected = (
        "java: java.lang.reflect.InaccessibleObjectException: Unable to make field accessible"
    )
    assert failure(SPICE_FAILURE) == expected
    assert failure(SPICE_FAILURE.replace(b"Exception:", b":")).endswith("batched file input:")
    assert failure(b"Traceback:\nRuntimeError: java: no memory left\n").endswith("no memory left")


STORE = """
import org.nustaq.serialization.FSTConfiguration;
public class Store {
  public static void main(String[] arguments) {
    java.util.HashMap<String, Integer> stored = new java.util.HashMap<>();
    stored.put("dog", 1);
    FSTConfiguration.createDefaultConfiguration().asByteArray(stored);
    System.out.println("stored");
  }
}
"""


@needs_java
def test_java_lets_spice_store_its_parses(tmp_path):
    compilers = subprocess.run(["java", "--list-modules"], capture_output=True, text=True).stdout
    if "jdk.compiler@" not in compilers:
        pytest.skip("no Java compiler, or Java 8, which needs no options")
    (tmp_path / "Store.java").write_text(STORE)
    command = ["java", "-cp", f"{coco._package()}/spice/lib/*", str(tmp_path / "Store.java")]
    found = subprocess.run(command, capture_output=True, text=True, env=java_environment())
    assert found.stdout == "stored\n", found.stderr


def test_spice_categories_are_means_over_the_images_where_they_are_defined():
    undefined = float("nan")
    names = ["All", "Object", "Relation", "Attribute", "Color", "Cardinality", "Size"]
    one = [0.2, 0.4, 0.0, undefined, 1.0, undefined, 0.5]
    two = [0.4, 0.8, undefined, undefined, 0.0, 0.25, 0.5]
    images = [{name: {"f": f} for name, f in zip(names, fs, strict=True)} for fs in (one, two)]
    means = spice_means(images)
    assert means.pop("SPICE Attribute") is None
    assert means == {
        "SPICE": pytest.approx(0.3),
        "SPICE Object": pytest.approx(0.6),
        "SPICE Relation": 0.0,
        "SPICE Color": 0.5,
        "SPICE Count": 0.25,
        "SPICE Size": 0.5,
    }


def test_plain_tokeniser():
    text = "The MAN's dog, \"Rex\": 3.5 m (1,000 cm) -- isn't it... a t-shirt? éa,b 。"
    assert tokenise(text) == "the man's dog rex 3.5 m ( 1,000 cm ) isn't it a t-shirt éa b 。"
    assert tokenise(" . ") == ""


@pytest.mark.parametrize(
    ("references", "captions", "message"),
    [
        ({1: ["a"], 2: ["b"]}, {1: "a"}, "images without a caption: 2"),
        ({1: ["a"]}, {1: "a", 5: "b"}, "not in the references: 5"),
        ({1: ["a"], 3: []}, {1: "a", 3: "b"}, "no reference caption: 3"),
        ({}, {}, "the references have no images"),
        ({1: ["."]}, {1: "a"}, "no reference caption has a word"),
        ({key: ["a"] for key in range(9)}, {}, "0, 1, 2, 3, 4 and 4 more"),
    ],
)
def test_mismatched_images_are_refused(no_java, references, captions, message):
    with pytest.raises(ScoreError, match=message):
        score(references, captions)
    with pytest.raises(ScoreError, match=message.replace("has a word", "has")):
        cider(
            {key: [tokenise(text).split() for text in texts] for key, texts in references.items()},
            {key: caption.split() for key, caption in captions.items()},
        )


def test_unknown_metric_is_refused():
    with pytest.raises(ScoreError, match="unknown metric BLEU; known: BLEU-1"):
        score(REFERENCES, CAPTIONS, metrics=["BLEU"])


def test_results_round_trip_sorted_by_image(tmp_path):
    path = tmp_path / "results.json"
    write_results(path, {30: "un café", 4: 'a "dog"'})
    assert json.loads(path.read_text(encoding="utf-8")) == [
        {"image_id": 4, "caption": 'a "dog"'},
        {"image_id": 30, "caption": "un café"},
    ]
    assert [file.name for file in tmp_path.iterdir()] == ["results.json"]


def test_metrics_import_neither_torch_nor_pycocoevalcap():
    code = (
        "import sys, capdist.metrics.coco, capdist.metrics.constant; "
        "print(sorted({'torch', 'ray', 'deepspeed', 'pycocoevalcap'} & set(sys.modules)))"
    )
    root = Path(coco.__file__).parents[2]
    result = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert result.stdout == "[]\n", result.stderr
