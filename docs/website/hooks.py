"""Hooks of MkDocs: the site is the repository's own pages, where they lie, and pages of its code.

Every path of `mkdocs.yml` is one of the repository, so that a link between two files means the same
on a Git host and on the site. Only addresses are shorter: `docs/` is left out of them.
"""

import re
from pathlib import Path
from posixpath import basename
from typing import Any, Final

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from docs.website import code_pages, markdown
from share_registry.look.palette import DARK, LIGHT, Theme

ROOT: Final = Path(__file__).parents[2]
HOME: Final = "README.md"
WEBSITE: Final = "docs/website/"
PAGES: Final = (
    *("*.md", "docs/**/*.md", "spec/*.md", "spec/decisions/*.md", "benchmarks/*.md"),
    "share_registry/demo_data/*.md",
)
PICTURES: Final = ("docs/**/*.svg", "docs/**/*.png", "docs/*.json")
# what a page asks for by itself; a link that somebody follows is none
_REQUEST: Final = re.compile(
    r"""<(?:script|img|iframe|source|video|audio)\b[^>]*\bsrc=["']?(?:https?:)?//"""
    r"""|<link\b(?![^>]*rel=["']?canonical)[^>]*\bhref=["']?(?:https?:)?//"""
    r"""|url\(["']?(?:https?:)?//|@import\s+["'](?:https?:)?//"""
)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the pages of a folder in the place of the folder."""
    config.nav = _expand(config.nav)
    config.watch += [str(ROOT / name) for name in ("README.md", "spec", "share_registry")]
    return config


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Return what the site consists of: pages and pictures of the repository, pages of its code."""
    of_theme = [file for file in files if file.src_dir != config.docs_dir]
    matching = {path for pattern in (*PAGES, *PICTURES) for path in ROOT.glob(pattern)}
    paths = sorted(path.relative_to(ROOT).as_posix() for path in matching)
    existing = [_file(path, config) for path in paths if not path.startswith(WEBSITE)]
    pages = code_pages.pages() | {
        f"{folder}/README.md": code_pages.folder(ROOT / folder)
        for folder in ("spec/decisions", "spec/reader")
    }
    pages["assets/palette.css"] = palette_css()
    generated = [_file(path, config, content=content) for path, content in pages.items()]
    return Files([*of_theme, *existing, *generated])


def palette_css() -> str:
    """Return the colours of the project as the variables of Material for MkDocs."""
    rules = [
        ("default", LIGHT, {"primary-fg-color": LIGHT.accent, "primary-bg-color": LIGHT.paper}),
        ("slate", DARK, {"primary-fg-color": DARK.panel, "primary-bg-color": DARK.ink}),
    ]
    return "".join(
        f'[data-md-color-scheme="{scheme}"][data-md-color-primary] {{ '
        + " ".join(f"--md-{name}: {colour};" for name, colour in (header | _text(theme)).items())
        + " }\n"
        for scheme, theme, header in rules
    )


def on_page_markdown(content: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Adapt a page to the renderer, and let the home page have the whole width."""
    path = page.file.src_uri
    if path == HOME:
        page.meta["hide"] = ["navigation", "toc"]
    pages = {file.src_uri for file in files.documentation_pages()}
    return markdown.adapt(content, path=path, pages=pages)


def on_post_build(*, config: MkDocsConfig) -> None:
    """Refuse a site that asks another host for anything."""
    asking = [
        f"{path.relative_to(config.site_dir)}: {match.group()}"
        for path in sorted(Path(config.site_dir).rglob("*"))
        if path.suffix in {".html", ".css", ".svg"}
        for match in _REQUEST.finditer(path.read_text(encoding="utf-8"))
    ]
    if asking:
        raise PluginError("the site asks other hosts:\n" + "\n".join(asking))


def _text(theme: Theme) -> dict[str, str]:
    return {
        "default-bg-color": theme.paper,
        "default-fg-color": theme.ink,
        "default-fg-color--light": theme.muted,
        "typeset-a-color": theme.accent,
        "accent-fg-color": theme.good,
        "code-bg-color": theme.panel,
    }


def _file(path: str, config: MkDocsConfig, *, content: str | None = None) -> File:
    if content is None:
        file = File(path, str(ROOT), config.site_dir, use_directory_urls=False)
    else:
        file = File.generated(config, path, content=content)
    short = path.removeprefix("docs/")
    if file.is_documentation_page():
        short = short.removesuffix(".md") + ".html"
        if basename(path) == "README.md":
            short = short.removesuffix("README.html") + "index.html"
    file.dest_uri = short
    return file


def _expand(nav: Any) -> Any:
    if isinstance(nav, list):
        return [_expand(entry) for entry in nav]
    if isinstance(nav, dict):
        return {title: _expand(entry) for title, entry in nav.items()}
    if not nav.endswith("/"):
        return nav
    pages = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / nav).glob("*.md"))
    index = f"{nav}README.md"
    return [index, *(path for path in pages if path != index)]
