"""The pictures of the pages: of every page there is one, small enough, and shown in the guide."""

import re

from docs.screens.shown import FOLDER, MAX_BYTES, SCREENS
from share_registry.ui.views.page_table import PAGES
from tests.house.tree import ROOT

GUIDE = (ROOT / "docs" / "ui.md").read_text(encoding="utf-8")


def test_every_page_has_a_picture() -> None:
    pictured = {screen.path.partition("?")[0] for screen in SCREENS.values()}
    patterns = {re.sub(r"\{\w+\}", "[^/]+", pattern) for pattern in PAGES}
    assert [each for each in patterns if not any(re.fullmatch(each, p) for p in pictured)] == []
    assert {path.stem for path in FOLDER.glob("*.png")} == SCREENS.keys()


def test_pictures_are_small_and_in_the_guide() -> None:
    shown = dict(re.findall(r"!\[(.+?)\]\(screens/([\w-]+)\.png\)", GUIDE))
    assert {name: caption for caption, name in shown.items()} == {
        name: screen.caption for name, screen in SCREENS.items()
    }
    for name in SCREENS:
        content = (FOLDER / f"{name}.png").read_bytes()
        assert content.startswith(b"\x89PNG")
        assert len(content) < MAX_BYTES, name
