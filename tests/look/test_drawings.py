"""Drawings are well formed, speak to screen readers, and are harmless whatever they draw."""

import re
from collections.abc import Callable
from typing import Final
from xml.etree import ElementTree

import pytest

from share_registry.look.lineage_graph import lineage_graph
from share_registry.look.module_map import bits_map, change_map, directions_map, error_map
from share_registry.look.retention_map import retention_map
from share_registry.look.sparkline import sparkline
from share_registry.look.spectrum_map import spectrum_map
from share_registry.look.stylesheet import page_style
from share_registry.look.svg import ending, number, width_of
from share_registry.look.timeline import timeline
from share_registry.values.commits import Log
from tests.look import samples
from tests.look.samples import EVIL, NOT_LOOKS

MERGE: Final = (
    ("both@v1", f"{EVIL}@v2", "merged, 0.5"),
    ("both@v1", "gone@v1", "derived"),
    (f"{EVIL}@v2", f"{EVIL}@v1", "version"),
)
DRAWINGS: Final[dict[str, Callable[[], str]]] = {
    "bits": lambda: bits_map(samples.report({f"layers.0.{EVIL}": 0.1, EVIL: 0.2})),
    "bits of none": lambda: bits_map(samples.report({})),
    "changes": lambda: change_map({f"layers.0.{EVIL}": 0.5, EVIL: 1.0}),
    "directions": lambda: directions_map([samples.spectrum(f"layers.0.{EVIL}")]),
    "errors": lambda: error_map(samples.report({f"layers.{n}.{EVIL}": 0.1 for n in range(90)})),
    "lineage": lambda: lineage_graph(samples.lineage("both@v1", MERGE)),
    "lineage of one": lambda: lineage_graph(samples.lineage("cola@v1", [])),
    "lineage with links": lambda: lineage_graph(
        samples.lineage("both@v1", MERGE), link=lambda ref: f"/{ref}?a=1&b={EVIL}"
    ),
    "metric": lambda: retention_map(samples.retention(3, metric=EVIL)),
    "retention": lambda: retention_map(samples.retention(4, name=EVIL)),
    "retention of none": lambda: retention_map(samples.retention(0)),
    "sparkline": lambda: sparkline([samples.task_version(v, name=EVIL) for v in (1, 2)]),
    "sparkline of none": lambda: sparkline([]),
    "spectra": lambda: spectrum_map([samples.spectrum(f"layers.0.{EVIL}")], "a"),
    "spectra of none": lambda: spectrum_map([], "b"),
    "timeline": lambda: timeline(samples.history(EVIL)),
    "timeline of none": lambda: timeline(Log(commits=())),
    "timeline with links": lambda: timeline(samples.history(), link=lambda ref: f"#{ref}"),
}
CLASS: Final = re.compile(r"\.([a-z][a-z0-9-]*)")
"""Classes that say which drawing it is, for whoever places it."""


@pytest.mark.parametrize("name", sorted(DRAWINGS))
def test_a_drawing_is_well_formed_and_has_a_name_and_a_description(name: str) -> None:
    root = ElementTree.fromstring(DRAWINGS[name]())
    assert root.tag == "svg"
    assert root.get("role") == ("group" if "links" in name else "img")
    title, description = root[0], root[1]
    assert (title.tag, description.tag) == ("title", "desc")
    assert title.text
    assert description.text
    assert float(root.get("width") or 0) > 0 < float(root.get("height") or 0)
    assert root.get("viewBox") == f"0 0 {root.get('width')} {root.get('height')}"


@pytest.mark.parametrize("name", sorted(DRAWINGS))
def test_no_text_becomes_markup_a_style_or_a_request(name: str) -> None:
    drawn = DRAWINGS[name]()
    elements = [*ElementTree.fromstring(drawn).iter()]
    assert {element.tag for element in elements} <= {
        *("svg", "title", "desc", "g", "a", "text", "tspan", "rect", "circle", "path"),
    }
    attributes = {key for element in elements for key in element.attrib}
    assert attributes <= {
        *("class", "role", "viewBox", "width", "height", "href", "transform"),
        *("x", "y", "dx", "d", "cx", "cy", "r", "rx"),
    }
    assert "url(" not in drawn
    assert all(letter.isprintable() for letter in drawn)
    if "links" not in name:
        assert "href" not in drawn


@pytest.mark.parametrize("name", sorted(DRAWINGS))
def test_a_drawing_is_the_same_every_time(name: str) -> None:
    assert DRAWINGS[name]() == DRAWINGS[name]()


@pytest.mark.parametrize("name", sorted(DRAWINGS))
def test_the_stylesheet_has_every_look_that_a_drawing_uses(name: str) -> None:
    used = {
        look
        for element in ElementTree.fromstring(DRAWINGS[name]()).iter()
        for look in (element.get("class") or "").split()
    }
    assert used - NOT_LOOKS - {*CLASS.findall(page_style())} == set()


@pytest.mark.parametrize("name", sorted(DRAWINGS))
def test_nothing_is_drawn_beside_the_picture(name: str) -> None:
    root = ElementTree.fromstring(DRAWINGS[name]())
    width, height = float(root.get("width") or 0), float(root.get("height") or 0)
    for element in root.iter():
        x = float(element.get("x") or element.get("cx") or 0)
        y = float(element.get("y") or element.get("cy") or 0)
        assert -1 <= x <= width, ElementTree.tostring(element)
        assert -1 <= y <= height, ElementTree.tostring(element)
        if element.tag == "rect":
            assert x + float(element.get("width") or 0) <= width + 1
            assert y + float(element.get("height") or 0) <= height + 1


@pytest.mark.parametrize(
    ("value", "written"), [(0, "0"), (-0.001, "0"), (1.5, "1.5"), (-0.25, "-0.25"), (100.0, "100")]
)
def test_coordinates_are_short(value: float, written: str) -> None:
    assert number(value) == written


def test_a_name_that_does_not_fit_keeps_its_end() -> None:
    name = "a" * 40 + "-v2"
    short = ending(name, 60)
    assert short.startswith("…")
    assert short.endswith("-v2")
    assert width_of(short) <= 60
    assert ending("cola", 60) == "cola"
    assert width_of("模型") > width_of("ab")
