"""The site has every page, verb and public name, and asks no other host for anything.

`make docs` builds it, where a link that leads nowhere, a page that is not in the navigation and a
docstring that cannot be read are errors.
"""

from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from mkdocs.config.defaults import MkDocsConfig

import share_registry
from docs.website import code_pages
from docs.website.hooks import _REQUEST, HOME, PAGES, WEBSITE, on_config
from docs.website.markdown import adapt
from share_registry.cli.main import commands
from tests.house.tree import ROOT, files, name


def _settings() -> dict[str, Any]:
    settings = yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), yaml.BaseLoader)
    assert isinstance(settings, dict)
    return settings


def _paths(nav: Any) -> Iterator[str]:
    if isinstance(nav, str):
        yield nav
    else:
        for entry in nav.values() if isinstance(nav, dict) else nav:
            yield from _paths(entry)


def test_every_verb_has_a_section_with_its_options() -> None:
    page = code_pages.pages()["docs/reference/commands.md"]
    sections = {line.lstrip("# ") for line in page.splitlines() if line.startswith("###")}
    assert set(commands()) | {"db upgrade"} <= sections
    assert "| `--expected VERSION` | Version that must be the task's latest" in page
    assert page.count("`--json`") == 1


def test_every_public_name_is_on_one_page() -> None:
    api = "\n".join(
        page for path, page in code_pages.pages().items() if not path.endswith("commands.md")
    )
    shown = [line.removeprefix("::: ") for line in api.splitlines() if line.startswith(":::")]
    places = {
        public: f"share_registry.{module}.{public}"
        for public, module in share_registry._MODULES.items()
    }
    times = {
        public: sum(place == part or place.startswith(f"{part}.") for part in shown)
        for public, place in places.items()
    }
    assert times == dict.fromkeys(share_registry.__all__, 1)


def test_every_page_of_the_repository_is_on_the_site() -> None:
    pages = {name(path) for pattern in PAGES for path in ROOT.glob(pattern)}
    assert HOME in pages
    assert {
        name(path)
        for path in files()
        if path.suffix == ".md" and path.relative_to(ROOT).parts[0] not in {"tests", "findings"}
    } <= pages


def test_every_page_is_in_the_navigation_of_mkdocs_yml() -> None:
    config = MkDocsConfig()
    config.load_dict(_settings())
    listed = set(_paths(on_config(config).nav))
    pages = {name(path) for pattern in PAGES for path in ROOT.glob(pattern)}
    assert {page for page in pages - listed if not page.startswith(WEBSITE)} == set()


def test_the_version_of_every_tool_of_the_site_is_pinned() -> None:
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    for tool in ("mkdocs", "mkdocs-material", "mkdocstrings", "mkdocstrings-python", "griffelib"):
        assert f"\n{tool}==" in pins


def test_the_site_loads_no_font_and_no_script_of_another_host() -> None:
    settings = _settings()
    assert settings["theme"]["font"] == "false"
    assert not any("//" in script for script in settings["extra"]["polyfills"])


@pytest.mark.parametrize(
    ("planted", "asks"),
    [
        ('<script async src="https://cdn.example/x.js">', True),
        ("<img alt='' src=//cdn.example/x.png>", True),
        ('<link rel="stylesheet" href="https://fonts.example/css">', True),
        ("body { background: url(https://cdn.example/x.png) }", True),
        ('@import "//fonts.example/css";', True),
        ('<a href="https://example.com">', False),
        ('<script src="../assets/x.js">', False),
        ("url(data:image/png;base64,AA==)", False),
    ],
)
def test_a_planted_request_to_another_host_is_seen(planted: str, asks: bool) -> None:
    assert (_REQUEST.search(planted) is not None) == asks


@pytest.mark.parametrize(
    ("page", "adapted"),
    [
        ("- a\n  b\n- c\n  - d\n    e", "- a\n    b\n- c\n    - d\n        e"),
        (
            "1. a\n\n   ```python\n   if x:\n       - y\n   ```\n\nb",
            "1. a\n\n    ```python\n    if x:\n        - y\n    ```\n\nb",
        ),
        ("see [x](reader/) and [y](other/)", "see [x](reader/README.md) and [y](other/)"),
        ("text\nof two lines\n| a |\n| - |", "text\nof two lines\n\n| a |\n| - |"),
        ("- a\nlazy\n\n- b", "- a\n    lazy\n\n- b"),
        ("```text\n- a\n  - b\n```", "```text\n- a\n  - b\n```"),
        ("<!-- prints -->\n```text\n1\n```", "``` { .text .output }\n1\n```"),
    ],
)
def test_a_page_is_adapted_to_the_renderer(page: str, adapted: str) -> None:
    assert adapt(page, path="spec/README.md", pages={"spec/reader/README.md"}) == adapted
