"""Reads caption files, and gives their captions tokens by the tokeniser of a build."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from shards.formats import CAPTION_FORMATS, Annotation, detect_format
from shards.progress import tracked
from shards.schema import Phrase, ShardError
from shards.tokenisers import ENGLISH, UNDETERMINED, CaptionText, nfc

_LINES_SHOWN = 20

Tokens = tuple[str, ...]


@dataclass(frozen=True)
class TokenisedCaptions:
    """The images of caption files.

    Args:
        images: with tokens, and without the captions that have none.
        text: tokeniser and language of the captions.
        left_out: captions without a word: file, image and caption, one line each.
        notes: lines to print about what may be wrong with the captions.
    """

    images: list[Annotation]
    text: CaptionText
    left_out: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read_captions(
    files: Sequence[Path], tokeniser: str, language: str | None = None
) -> TokenisedCaptions:
    """The images of caption files.

    Args:
        files: in any of the formats.
        tokeniser: its name.
        language: an ISO 639 code; None: English if most captions are in Latin letters, else
            undetermined.

    Raises:
        ShardError: if a file is not valid, or there is no such tokeniser or code.
    """
    text = CaptionText(tokeniser, ENGLISH if language is None else language).check("command line")
    formats = [(file, detect_format(CAPTION_FORMATS, file)[1]) for file in files]
    read = [(file, image) for file, format_ in formats for image in format_(file).annotations()]
    if not read:
        raise ShardError(f"{files[0]}: no images; give a file that has some")
    reading = tracked(read, len(read), title="splitting captions", unit="image", inner=True)
    split = [(file, _with_tokens(file, image, text)) for file, image in reading]
    notes: list[str] = []
    if language is None and not _mostly_latin([image for _, image in split]):
        text = replace(text, language=UNDETERMINED)
        notes.append(
            "captions: most are not in Latin letters, so that the PTB tokeniser, METEOR and SPICE "
            "do not apply; name their language with --language"
        )
    _check_split_again(split, text)
    kept = [_without_wordless(file, image) for file, image in split]
    left_out = [line for _, lines in kept for line in lines]
    notes += left_out[:_LINES_SHOWN]
    if more := len(left_out[_LINES_SHOWN:]):
        notes.append(f"{more} more captions have no word; the manifest lists them")
    notes += _one_token_warning(split, tokeniser)
    return TokenisedCaptions([image for image, _ in kept], text, left_out, notes)


def _with_tokens(file: Path, image: Annotation, text: CaptionText) -> Annotation:
    captions = tuple(nfc(caption) for caption in image.captions)
    if image.tokens and text.keeps_given:
        tokens = tuple(tuple(map(nfc, caption)) for caption in image.tokens)
        return replace(image, captions=captions, tokens=tokens)
    if image.grounding:
        raise ShardError(
            f"{file}: its phrases are positions of its own tokens, which tokeniser "
            f"{text.tokeniser} does not keep; choose --tokeniser given"
        )
    return replace(image, captions=captions, tokens=tuple(map(text.split, captions)))


def _check_split_again(split: Sequence[tuple[Path, Annotation]], text: CaptionText) -> None:
    """Refuse a file's own tokens if a caption that is written with them has others.

    Unless the PTB tokeniser splits both, final scores compare captions with these tokens.

    Raises:
        ShardError: naming the first such caption.
    """
    if text.is_ptb:
        return
    for file, image in split:
        for tokens in image.tokens:
            if (again := text.split(text.join(tokens))) != tokens:
                raise ShardError(
                    f"{file}: image {image.image_id} ({image.file_name}): tokens "
                    f"{' '.join(tokens)!r} are not those of tokeniser {text.tokeniser}, "
                    f"{' '.join(again)!r}; keep them with --tokeniser given"
                )


def _without_wordless(file: Path, image: Annotation) -> tuple[Annotation, list[str]]:
    """The image without captions that have no token, and a line for each of them."""
    kept = [number for number, tokens in enumerate(image.tokens) if tokens]
    if len(kept) == len(image.tokens):
        return image, []
    lines = [
        f"{file}: image {image.image_id} ({image.file_name}): caption {caption!r} has no word; it "
        "is left out"
        for caption, tokens in zip(image.captions, image.tokens, strict=True)
        if not tokens
    ]
    return replace(
        image,
        captions=tuple(image.captions[number] for number in kept),
        tokens=tuple(image.tokens[number] for number in kept),
        grounding=_renumbered(image.grounding, kept),
    ), lines


def _renumbered(phrases: tuple[Phrase, ...] | None, kept: list[int]) -> tuple[Phrase, ...] | None:
    if phrases is None:
        return None
    return tuple(replace(phrase, caption=kept.index(phrase.caption)) for phrase in phrases)


def _mostly_latin(images: Sequence[Annotation]) -> bool:
    """Whether at least half of the captions are mostly in Latin letters."""
    captions = [caption for image in images for caption in image.captions]
    return 2 * sum(map(_is_latin, captions)) >= len(captions)


def _is_latin(caption: str) -> bool:
    if caption.isascii():
        return True
    letters = [char for char in caption if char.isalpha()]
    latin = sum(char < "\u0250" or "\u1e00" <= char <= "\u1eff" for char in letters)
    return 2 * latin >= len(letters)


def _one_token_warning(split: Sequence[tuple[Path, Annotation]], tokeniser: str) -> list[str]:
    """A line if captions are one token, with the first of them."""
    total = sum(len(image.tokens) for _, image in split)
    single = [
        (file, image, caption)
        for file, image in split
        for caption, tokens in zip(image.captions, image.tokens, strict=True)
        if len(tokens) == 1
    ]
    if not single:
        return []
    file, image, caption = single[0]
    return [
        f"warning: {len(single)} of {total} captions are one token of tokeniser {tokeniser}; the "
        f"first is {caption!r}, {file}: image {image.image_id}; if they are sentences without "
        "spaces, choose --tokeniser characters"
    ]
