"""Links that leave docs/ lead to pages of the site that show the repository.

MkDocs knows the files in docs/ only. Here every other file or folder that a page links to becomes
a page below ``source/``, and the link leads there: the site needs no network, and MkDocs checks
these links like all others. Markdown files are shown as pages, other files as code.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from website import model_pages
from website.markdown import FENCED, outside_fences

ROOT = Path(__file__).parents[1]
SHOWN = "source"
_LINK = re.compile(r"(?<=\]\()([^)\s#]+)(?=[)#])")
_LANGUAGES = {".py": "python", ".json": "json", ".yaml": "yaml", ".sh": "bash", ".sbatch": "bash"}
_NO_SEARCH = "---\nsearch:\n  exclude: true\n---\n\n"


def add_pages(files: Files, config: MkDocsConfig) -> None:
    """Add a page for each file outside docs/ that a page links to, and for those that it links."""
    waiting = [file for file in files if file.is_documentation_page()]
    while waiting:
        for target in _outside(waiting.pop()):
            page = page_of(target)
            if files.get_file_from_path(page) is None:
                added = File.generated(config, page, content=_content(target))
                files.append(added)
                waiting.append(added)


def convert_links(markdown: str, page: str) -> str:
    """Turn links to files outside docs/, or from such files, into links between pages."""
    here = _repository_path(page)

    def converted(match: re.Match[str]) -> str:
        target = _target(here, match[0])
        if target is None or (_in_docs(here) and _in_docs(target)):
            return match[0]
        return posixpath.relpath(page_of(target), posixpath.dirname(page) or ".")

    return outside_fences(markdown, lambda text: _LINK.sub(converted, text))


def page_of(path: str) -> str:
    """The page that shows a file or folder of the repository, relative to docs/."""
    if _in_docs(path):
        return posixpath.relpath(path, "docs")
    if (ROOT / path).is_dir():
        readme = (ROOT / path / "README.md").is_file()
        return f"{SHOWN}/{path}/{'README' if readme else 'index'}.md"
    return f"{SHOWN}/{path}" if path.endswith(".md") else f"{SHOWN}/{path}.md"


def _outside(file: File) -> Iterator[str]:
    """The paths outside docs/ that a page links to."""
    here = _repository_path(file.src_uri)
    for link in _LINK.findall(FENCED.sub("", model_pages.fill(file.content_string))):
        target = _target(here, link)
        if target is not None and not _in_docs(target):
            yield target


def _target(here: str, link: str) -> str | None:
    """The path in the repository that a link in a file leads to; None: not to one that exists."""
    if ":" in link:
        return None
    path = posixpath.normpath(posixpath.join(posixpath.dirname(here), unquote(link)))
    return path if (ROOT / path).exists() and not path.startswith("..") else None


def _repository_path(page: str) -> str:
    """The file that a page shows, relative to the root; for a page that lists a folder, in it."""
    return page.removeprefix(f"{SHOWN}/") if page.startswith(f"{SHOWN}/") else f"docs/{page}"


def _in_docs(path: str) -> bool:
    return path.startswith("docs/")


def _content(path: str) -> str:
    if (ROOT / path).is_dir():
        readme = ROOT / path / "README.md"
        return readme.read_text(encoding="utf-8") if readme.is_file() else _listing(path)
    text = (ROOT / path).read_text(encoding="utf-8")
    if path.endswith(".md"):
        return text
    language = _LANGUAGES.get(posixpath.splitext(path)[1], "text")
    return f"{_NO_SEARCH}# `{path}`\n\n`````{language}\n{text.rstrip()}\n`````\n"


def _listing(path: str) -> str:
    names = sorted(
        entry.name
        for entry in (ROOT / path).iterdir()
        if not entry.name.startswith((".", "__pycache__"))
    )
    return f"{_NO_SEARCH}# `{path}`\n\n" + "\n".join(f"- [{name}]({name})" for name in names) + "\n"
