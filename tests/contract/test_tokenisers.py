"""The contract of all registered tokenisers; a new one is tested as soon as its module exists."""

from __future__ import annotations

import unicodedata

import pytest

from shards.tokenisers import Tokeniser, registered

CAPTIONS = {
    "English": "The man's T-shirt, 2 dogs (1,000 cats)!",
    "Hindi": "एक लाल बस",
    "Chinese": "一辆红色的公交车，T恤 2",
    "Japanese": "赤いバスが走る。",
    "Thai": "รถบัสสีแดงน้ำ",
    "Vietnamese": "Một chiếc xe buýt đỏ",
    "Persian": "می\u200cروم خانه",
    "Korean": "빨간 버스",
    "emoji": "a ❤\ufe0f 👍🏽",
    "no word": " ... ",
    "nothing": "",
}


@pytest.fixture(params=sorted(registered()))
def tokeniser(request: pytest.FixtureRequest) -> Tokeniser:
    return registered()[request.param]


@pytest.mark.parametrize("caption", CAPTIONS.values(), ids=CAPTIONS)
def test_written_captions_are_split_as_they_were_written(
    tokeniser: Tokeniser, caption: str
) -> None:
    tokens = tokeniser.split(caption)
    assert all(tokens)
    assert tokeniser.split(tokeniser.join(tokens)) == tokens


@pytest.mark.parametrize("form", ["NFC", "NFD"])
@pytest.mark.parametrize("caption", CAPTIONS.values(), ids=CAPTIONS)
def test_tokens_do_not_depend_on_the_form_of_unicode(
    tokeniser: Tokeniser, caption: str, form: str
) -> None:
    tokens = tokeniser.split(unicodedata.normalize(form, caption))  # type: ignore[arg-type]
    assert tokens == tokeniser.split(caption)
    assert all(unicodedata.is_normalized("NFC", token) for token in tokens)
