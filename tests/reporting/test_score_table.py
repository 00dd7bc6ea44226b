from capdist.reporting.table import format_markdown, format_table

ROWS = {"test": {"CIDEr": 118.24, "BLEU-4": 37.85}, "constant caption": {"CIDEr": 7.0, "seeds": 1}}
COLUMNS = ["BLEU-4", "CIDEr", "seeds"]


def test_plain_table_is_aligned():
    assert format_table(ROWS, COLUMNS).splitlines() == [
        "                  BLEU-4  CIDEr  seeds",
        "--------------------------------------",
        "test                37.9  118.2      –",
        "constant caption       –    7.0      1",
    ]


def test_markdown_table():
    assert format_markdown({"a|b": {"R": None}}, ["R"]).splitlines() == [
        r"|      |   R |",
        r"| ---- | --: |",
        r"| a\|b |   – |",
    ]
