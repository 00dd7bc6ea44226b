"""The tokens of captions, written down by hand."""

from __future__ import annotations

import re
import unicodedata

import pytest

from shards.schema import ShardError
from shards.tokenisers import CaptionText, is_word

CHARACTERS, GIVEN = CaptionText("characters"), CaptionText("given")


@pytest.mark.parametrize(
    ("caption", "tokens"),
    [
        ("The man's T-shirt, 2 dogs.", "the man's t-shirt 2 dogs"),
        ("  A 'red' ball - and 1,000 cats!\n", "a red ball and 1,000 cats"),
        ("At 5 p.m. a café; snow_man", "at 5 p.m a café snow man"),
        ("एक लाल बस", "एक लाल बस"),
        ("Một chiếc xe buýt đỏ", "một chiếc xe buýt đỏ"),
        ("A ❤\ufe0f 1\ufe0f\u20e3 \u0301", "a 1"),
        ("...", ""),
    ],
)
def test_ptb_like_keeps_words_with_their_marks(caption: str, tokens: str) -> None:
    assert " ".join(CaptionText().split(caption)) == tokens
    decomposed = unicodedata.normalize("NFD", caption)
    assert " ".join(CaptionText().split(decomposed)) == tokens


def test_ptb_like_tokens_without_marks_are_those_of_one_expression() -> None:
    text = "“A man’s T-shirt,” 3.5 m/s — isn't it… U.S. 1,000 a_b, café ½ x² naïve 5,x"
    expected = re.findall(r"[^\W_]+(?:['’./-][^\W_]+|,\d+)*", text.lower())
    assert list(CaptionText().split(text)) == expected


def test_characters_keep_their_marks_and_are_written_without_spaces() -> None:
    assert CHARACTERS.split("一辆红色 公交车。") == tuple("一辆红色公交车")
    assert CHARACTERS.split("लाल T-2") == ("ला", "ल", "t", "2")
    assert CHARACTERS.split(". \u0301a") == ("a",)
    assert CHARACTERS.join(["一", "辆"]) == "一辆"


def test_given_tokens_are_those_between_spaces() -> None:
    assert GIVEN.split(" 一辆 红色 的 公交车 , A") == ("一辆", "红色", "的", "公交车", ",", "A")
    assert GIVEN.join(["一辆", "A"]) == "一辆 A"


def test_only_english_by_the_default_uses_the_ptb_tokeniser() -> None:
    assert CaptionText().is_ptb
    assert not any(t.is_ptb for t in (GIVEN, CHARACTERS, CaptionText(language="de")))


def test_unknown_tokenisers_are_refused() -> None:
    expected = r"^x\.json: tokeniser 'bpe', expected one of characters, given, ptb-like; correct"
    with pytest.raises(ShardError, match=expected):
        CaptionText.from_json("x.json", {"tokeniser": "bpe"})
    assert CaptionText.from_json("x.json", {"name": "older"}) == CaptionText("ptb-like", "en")


def test_words_have_letters_and_marks_only() -> None:
    assert all(map(is_word, ("dog", "लाल", "ñu")))
    assert not any(map(is_word, ("t-shirt", "2", "\u0301", "")))
