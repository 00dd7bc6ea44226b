"""Links between docs/ and the rest of the repository, on the site."""

from __future__ import annotations

import pytest

from website.markdown import as_on_github

repository_files = pytest.importorskip(
    "website.repository_files", reason="needs: pip install 'capdist[docs]'", exc_type=ImportError
)


@pytest.mark.parametrize(
    ("page", "link", "expected"),
    [
        ("data.md", "../shards/formats/lmdb.py", "source/shards/formats/lmdb.py.md"),
        ("models/glied.md", "../../configs/glied.json", "../source/configs/glied.json.md"),
        ("data.md", "../shards/README.md#input-formats", "source/shards/README.md#input-formats"),
        ("data.md", "../configs/sweeps", "source/configs/sweeps/index.md"),
        ("data.md", "../tests/mutations", "source/tests/mutations/README.md"),
        ("source/CONTRIBUTING.md", "docs/report.md#gallery", "../report.md#gallery"),
        ("source/shards/README.md", "schema.py", "schema.py.md"),
        ("source/README.md", "docs/dataflow.svg", "../dataflow.svg"),
        # MkDocs resolves these, or reports that they lead nowhere.
        ("data.md", "training.md#validate", "training.md#validate"),
        ("data.md", "../no/such/file.py", "../no/such/file.py"),
        ("data.md", "https://example.org/x.py", "https://example.org/x.py"),
    ],
)
def test_links_lead_to_pages_of_the_site(page: str, link: str, expected: str) -> None:
    found = repository_files.convert_links(f"See [it]({link}).", page)
    assert found == f"See [it]({expected})."


def test_code_is_not_changed() -> None:
    code = "```python\nx = [a](../setup.py)\n```"
    assert repository_files.convert_links(code, "data.md") == code


def test_lists_and_tables_are_read_as_on_github() -> None:
    given = "- a\n  - b\n\n| `x\\|y` | a \\| b |\n\n```\n  - c\n```"
    assert as_on_github(given) == "- a\n    - b\n\n| `x|y` | a \\| b |\n\n```\n  - c\n```"


def test_what_a_block_needs_is_shown() -> None:
    assert as_on_github("<!-- needs a GPU -->") == '<p class="needs">Needs a GPU</p>'
