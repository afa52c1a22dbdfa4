"""The public names are listed once for type checkers and once for import; pages use no others."""

import ast
import re
from typing import Final

import share_registry as sr
from tests.house.tree import ROOT

PACKAGE: Final = "share_registry"
MODULES: Final = {"analysis", "peft", "ray", "testing", "training", "transformers"}
"""Public modules below the package, imported when they are named."""
USED: Final = re.compile(r"\bsr\.([A-Za-z]\w*)")
IMPORTED: Final = re.compile(r"^from share_registry import (.+)$", re.MULTILINE)


def _for_type_checkers(text: str) -> dict[str, str]:
    """Return name -> module of the imports below `if TYPE_CHECKING`, each re-exported."""
    blocks = (
        node
        for node in ast.parse(text).body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    )
    imports = (node for block in blocks for node in ast.walk(block))
    return {
        alias.asname: node.module
        for node in imports
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
        if alias.asname == alias.name
    }


def _used(page: str) -> set[str]:
    """Return the public names that a page uses."""
    listed = (name for names in IMPORTED.findall(page) for name in re.findall(r"\w+", names))
    return {*USED.findall(page), *listed}


def test_both_lists_of_the_package_agree() -> None:
    text = (ROOT / PACKAGE / "__init__.py").read_text(encoding="utf-8")
    assert _for_type_checkers(text) == {
        name: f"{PACKAGE}.{module}" for name, module in sr._MODULES.items()
    }
    assert sorted(sr.__all__) == sorted(sr._MODULES) == dir(sr)


def test_a_name_that_one_list_lacks_is_seen() -> None:
    text = (
        "if TYPE_CHECKING:\n    from a import B as B\n    from a import C\nfrom a import D as D\n"
    )
    assert _for_type_checkers(text) == {"B": "a"}


def test_every_public_name_is_there() -> None:
    assert [name for name in sr.__all__ if not hasattr(sr, name)] == []


def test_pages_use_public_names_only() -> None:
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    public = {*sr.__all__, *MODULES}
    unknown = {page.name: _used(page.read_text(encoding="utf-8")) - public for page in pages}
    assert {page: names for page, names in unknown.items() if names} == {}


def test_a_name_on_a_page_is_seen() -> None:
    page = "`sr.Registry.open`\nfrom share_registry import Policy, iterate\n"
    assert _used(page) == {"Registry", "Policy", "iterate"}
