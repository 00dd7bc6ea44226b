"""The hooks of MkDocs: what is done to every page before it becomes HTML."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # MkDocs loads this file without its package

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page

from website import model_pages, repository_files
from website.flow_figure import draw_flows
from website.markdown import as_on_github


def on_files(files: Files, config: MkDocsConfig) -> Files:
    repository_files.add_pages(files, config)
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    filled = model_pages.fill(markdown)
    linked = repository_files.convert_links(as_on_github(filled), page.file.src_uri)
    return draw_flows(linked)
