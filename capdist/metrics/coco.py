"""The COCO caption metrics; with `coco_java` and `per_image`, the only importer of pycocoevalcap.

Scores are fractions × 100, as papers print them (CIDEr 118.2, BLEU-4 37.9). pycocoevalcap's CIDEr
is CIDEr-D with the document frequencies of the split being scored and without an end token: it
differs by construction from the reward of self-critical training.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from capdist.errors import CapdistError
from capdist.metrics.coco_java import JavaError, JavaProgram, Texts
from capdist.metrics.tokenise import tokenise
from shards.atomic import atomic_write
from shards.image_ids import id_order
from shards.json_types import ImageId
from shards.progress import Progress
from shards.tokenisers import ENGLISH_TEXT, CaptionText, nfc

_BLEU = ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4")
ALL = (*_BLEU, "METEOR", "ROUGE-L", "CIDEr", "SPICE")

#: CIDEr weighs an n-gram by the images that lack it; with one image, every weight is log 1 = 0.
ONE_IMAGE = "it is undefined for one image"
_NO_TUPLES = "no caption and no reference has any"

_SPICE_MODELS = ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar")


class ScoreError(CapdistError):
    """Captions, references or a request that cannot be scored."""


@dataclass(frozen=True)
class Scores:
    """The scores of a split.

    ``values``: metric to score, × 100, SPICE's sub-categories as "SPICE Object" and so on; an
    evaluation adds F1_all and F1_loc of `capdist.metrics.grounding`.
    ``absent``: metrics that were asked for but not computed, with the reason ("PTB" is the
    tokeniser).
    ``tokeniser``: only scores with "ptb" are comparable with published ones; "plain" replaces it
    where there is no Java; else the name of the shards' tokeniser.
    """

    values: dict[str, float]
    absent: dict[str, str]
    tokeniser: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def probe(text: CaptionText = ENGLISH_TEXT) -> dict[str, str]:
    """Which of PTB (the tokeniser), METEOR and SPICE cannot run here, and why; downloads nothing.

    Args:
        text: of the captions. PTB is not missed where another tokeniser was chosen.

    Raises:
        ScoreError: if pycocoevalcap is not installed.
    """
    if not text.is_english:
        language = f"the captions' language is {text.language!r}"
        return {
            "METEOR": f"pycocoevalcap has its data for one language, 'en', but {language}",
            "SPICE": f"it parses one language, 'en', but {language}",
        }
    missing = _missing_programs()
    if not text.is_ptb:
        missing.pop("PTB", None)
    return missing


def _missing_programs() -> dict[str, str]:
    lib = _package() / "spice" / "lib"
    if shutil.which("java") is None:
        return dict.fromkeys(("PTB", "METEOR", "SPICE"), "no java on PATH; install a JRE")
    missing = [jar for jar in _SPICE_MODELS if not (lib / jar).is_file()]
    if missing:
        return {
            "SPICE": f"{' and '.join(missing)} not in pycocoevalcap's spice/lib; fetch them with "
            "'python -m pycocoevalcap.spice.get_stanford_models'"
        }
    return {}


def score(
    references: Mapping[int, Sequence[str]],
    captions: Mapping[int, str],
    *,
    text: CaptionText = ENGLISH_TEXT,
    metrics: Sequence[str] = ALL,
    timeout_s: float = 600,
) -> Scores:
    """Score raw captions against raw references, as the COCO evaluation does.

    That evaluation's tokeniser is for English. With another one (see `CaptionText.is_ptb`),
    references and captions must be tokens, joined by spaces.

    METEOR and SPICE run in parallel, and in parallel with the metrics that need no Java.

    Args:
        references: image id to its reference captions, at least one.
        captions: image id to the caption to score; the same ids.
        text: tokeniser and language of the captions.
        metrics: which of `ALL`.
        timeout_s: time limit of each Java program (tokeniser, METEOR, SPICE) in seconds. One that
            fails or times out is named in ``absent``, and the others continue.

    Raises:
        ScoreError: if the ids differ, an image has no reference, no reference has a word, or a
            metric is unknown.
    """
    if unknown := set(metrics) - set(ALL):
        raise ScoreError(f"unknown metric {', '.join(sorted(unknown))}; known: {', '.join(ALL)}")
    check_images(references, captions)
    absent = {name: why for name, why in probe(text).items() if name in ("PTB", *metrics)}
    gold, candidates, tokeniser = split_words(references, captions, text, absent, timeout_s)
    texts = [list(gold.values()), list(candidates.values())]
    with ExitStack() as stack:
        programs = {
            name: stack.enter_context(JavaProgram(name, texts, timeout_s))
            for name in ("METEOR", "SPICE")
            if name in metrics and name not in absent
        }
        bar = Progress(1 + len(programs), title="scoring captions", unit="scorer")
        stack.enter_context(bar)
        scores = _score_without_java(gold, candidates, metrics)
        bar.advance()
        for name, program in programs.items():
            try:
                scores |= program.result()
            except JavaError as error:
                absent[name] = str(error)
            bar.advance(note=name)
    undefined = [name for name, value in scores.items() if value is None]
    absent |= {name: ONE_IMAGE if name == "CIDEr" else _NO_TUPLES for name in undefined}
    order = sorted(scores, key=lambda name: (*ALL, name).index(name))
    values = {name: 100 * value for name in order if (value := scores[name]) is not None}
    return Scores(values, absent, tokeniser)


def split_words(
    references: Mapping[int, Sequence[str]],
    captions: Mapping[int, str],
    text: CaptionText,
    absent: dict[str, str],
    timeout_s: float = 600,
) -> tuple[Texts, Texts, str]:
    """References, captions (a list of one for each image) and the name of their tokeniser.

    The texts are tokens joined by spaces, by image in the order of the ids. If PTB fails, the
    reason is added to ``absent``.

    Raises:
        ScoreError: if no reference has a word.
    """
    ids = sorted(references)
    lines = [line for key in ids for line in (captions[key], *references[key])]
    tokeniser = text.tokeniser
    if text.is_ptb:
        lines, tokeniser = _tokenise(lines, absent, timeout_s)
    rest = iter(lines)
    candidates, gold = {}, {}
    for key in ids:
        candidates[key] = [next(rest)]
        gold[key] = [next(rest) for _ in references[key]]
    _check_words(gold)
    return gold, candidates, tokeniser


def cider(
    references: Mapping[int, Sequence[Sequence[str]]], captions: Mapping[int, Sequence[str]]
) -> float | None:
    """CIDEr × 100 of tokenised captions by pycocoevalcap, in this process, without Java.

    This is CIDEr-D with the document frequencies of these references and without an end token. It
    is undefined, None, for a single image, whose n-grams all have idf log 1 = 0. Training validates
    with it.

    Args:
        references: image id to its tokenised reference captions, at least one.
        captions: image id to the caption's tokens; the same ids.

    Raises:
        ScoreError: if the ids differ, an image has no reference, or no reference has a word.
    """
    each = cider_each(references, captions)
    return fmean(each.values()) if len(each) > 1 else None


def cider_each(
    references: Mapping[int, Sequence[Sequence[str]]], captions: Mapping[int, Sequence[str]]
) -> dict[int, float]:
    """CIDEr × 100 of every image, 0 if there is only one; `cider` is the mean."""
    check_images(references, captions)
    gold = {key: [" ".join(tokens) for tokens in references[key]] for key in sorted(references)}
    _check_words(gold)
    scores = _ciders(gold, {key: [" ".join(captions[key])] for key in gold})
    return {key: 100 * score for key, score in zip(gold, scores, strict=True)}


def write_results(path: Path | str, captions: Mapping[ImageId, str]) -> None:
    """Write captions as COCO results, ``[{"image_id": ..., "caption": str}]``, sorted by id.

    The write is atomic.
    """
    entries = [
        {"image_id": key, "caption": captions[key]} for key in sorted(captions, key=id_order)
    ]
    with atomic_write(Path(path)) as file:
        file.write(f"{json.dumps(entries, ensure_ascii=False, indent=0)}\n".encode())


def _package() -> Path:
    spec = importlib.util.find_spec("pycocoevalcap")
    if spec is None or not spec.submodule_search_locations:
        raise ScoreError("scoring needs pycocoevalcap; pip install pycocoevalcap")
    return Path(spec.submodule_search_locations[0])


def check_images(references: Mapping[int, Sequence[Any]], captions: Mapping[int, Any]) -> None:
    """Refuse captions and references of different images.

    Raises:
        ScoreError: naming some.
    """
    if not references:
        raise ScoreError("the references have no images; expected at least one")
    for what, ids in (
        ("images without a caption", references.keys() - captions.keys()),
        ("captions of images that are not in the references", captions.keys() - references.keys()),
        ("images with no reference caption", [key for key in references if not references[key]]),
    ):
        if ids:
            some = ", ".join(str(key) for key in sorted(ids)[:5])
            raise ScoreError(f"{what}: {some}{f' and {len(ids) - 5} more' if len(ids) > 5 else ''}")


def _check_words(references: Texts) -> None:
    if not any(caption.split() for captions in references.values() for caption in captions):
        raise ScoreError("no reference caption has a word; check the references")


def _tokenise(
    texts: Sequence[str], absent: dict[str, str], timeout_s: float
) -> tuple[list[str], str]:
    """Texts as tokens joined by spaces, by the PTB tokeniser or, without Java, a plain one."""
    lines = [" ".join(nfc(text).split()) for text in texts]  # PTB would split at line separators
    if "PTB" not in absent:
        try:
            with JavaProgram("PTB", lines, timeout_s) as program:
                return program.result(), "ptb"
        except JavaError as error:
            absent["PTB"] = str(error)
    return [tokenise(line) for line in lines], "plain"


def _score_without_java(
    gold: Texts, candidates: Texts, metrics: Sequence[str]
) -> dict[str, float | None]:
    """The metrics that need no Java, as fractions."""
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.rouge.rouge import Rouge

    scores: dict[str, float | None] = {}
    if set(_BLEU) & set(metrics):
        bleu = zip(_BLEU, Bleu(4).compute_score(gold, candidates, verbose=0)[0], strict=True)
        scores |= {name: value for name, value in bleu if name in metrics}
    if "ROUGE-L" in metrics:
        scores["ROUGE-L"] = float(Rouge().compute_score(gold, candidates)[0])
    if "CIDEr" in metrics:
        scores["CIDEr"] = fmean(_ciders(gold, candidates)) if len(gold) > 1 else None
    return scores


def _ciders(gold: Texts, candidates: Texts) -> list[float]:
    from pycocoevalcap.cider.cider import Cider

    return [float(score) for score in Cider().compute_score(gold, candidates)[1]]
