"""The palette is legible, is told apart by every kind of eye, and is one in CSS and in plots."""

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Final

import pytest

from share_registry.look.palette import (
    DARK,
    LIGHT,
    STEPS,
    Theme,
    custom_properties,
    declarations,
    step_of,
)

THEMES: Final = {"light": LIGHT, "dark": DARK}
TEXT: Final = 4.5
"""WCAG 2.2, 1.4.3."""
MARK: Final = 3.0
"""WCAG 2.2, 1.4.11."""
APART: Final = 0.08
"""In OKLab, where 0.02 is just seen side by side."""
EYES: Final = {
    "all cones": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    # Machado, Oliveira and Fernandes 2009, severity 1, on linear RGB
    "no L cones": (
        (0.152286, 1.052583, -0.204868),
        (0.114503, 0.786281, 0.099216),
        (-0.003882, -0.048116, 1.051998),
    ),
    "no M cones": (
        (0.367322, 0.860646, -0.227968),
        (0.280085, 0.672501, 0.047413),
        (-0.011820, 0.042940, 0.968881),
    ),
    "no S cones": (
        (1.255528, -0.076749, -0.178779),
        (-0.078411, 0.930809, 0.147602),
        (0.004733, 0.691367, 0.303900),
    ),
}


def _linear(colour: str) -> tuple[float, ...]:
    parts = (int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5))
    return tuple(
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    )


def _luminance(colour: str) -> float:
    red, green, blue = _linear(colour)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _contrast(colour: str, ground: str) -> float:
    low, high = sorted((_luminance(colour), _luminance(ground)))
    return (high + 0.05) / (low + 0.05)


def _perceived(colour: str, eye: str) -> tuple[float, ...]:
    """Return a colour in OKLab, as an eye sees it."""
    linear = _linear(colour)
    red, green, blue = (
        min(max(sum(weight * part for weight, part in zip(row, linear, strict=True)), 0.0), 1.0)
        for row in EYES[eye]
    )
    long = (0.4122214708 * red + 0.5363325363 * green + 0.0514459929 * blue) ** (1 / 3)
    middle = (0.2119034982 * red + 0.6806995451 * green + 0.1073969566 * blue) ** (1 / 3)
    short = (0.0883024619 * red + 0.2817188376 * green + 0.6299787005 * blue) ** (1 / 3)
    return (
        0.2104542553 * long + 0.7936177850 * middle - 0.0040720468 * short,
        1.9779984951 * long - 2.4285922050 * middle + 0.4505937099 * short,
        0.0259040371 * long + 0.7827717662 * middle - 0.8086757660 * short,
    )


def _nearest(colours: Sequence[str], eye: str) -> float:
    seen = [_perceived(colour, eye) for colour in colours]
    return min(
        math.dist(first, second) for place, first in enumerate(seen) for second in seen[:place]
    )


def _illegible(theme: Theme) -> list[str]:
    texts = ("ink", "muted", "accent", "good", "warn", "bad")
    grounds = (theme.paper, theme.panel)
    faint = [
        name
        for name in texts
        if min(_contrast(getattr(theme, name), ground) for ground in grounds) < TEXT
    ]
    faint += [
        f"series-{number}"
        for number, colour in enumerate(theme.series)
        if min(_contrast(colour, ground) for ground in grounds) < MARK
    ]
    return faint + [
        f"over-{step}"
        for step, (over, colour) in enumerate(zip(theme.over, theme.scale, strict=True))
        if _contrast(over, colour) < TEXT
    ]


@pytest.mark.parametrize("name", sorted(THEMES))
def test_texts_and_marks_have_the_contrast_of_wcag_aa(name: str) -> None:
    assert _illegible(THEMES[name]) == []


def test_a_faint_colour_is_seen() -> None:
    faint = replace(LIGHT, muted="#8f8f8f", series=("#e0c040", *LIGHT.series[1:]))
    assert _illegible(faint) == ["muted", "series-0"]


@pytest.mark.parametrize("eye", sorted(EYES))
@pytest.mark.parametrize("name", sorted(THEMES))
def test_every_eye_tells_series_and_states_apart(name: str, eye: str) -> None:
    theme = THEMES[name]
    assert _nearest(theme.series, eye) > APART
    assert _nearest((theme.good, theme.warn, theme.bad), eye) > APART


def test_red_and_green_of_one_lightness_are_seen_to_be_alike() -> None:
    assert _nearest(("#b42318", "#8a5a00"), "no M cones") < APART


@pytest.mark.parametrize("name", sorted(THEMES))
def test_the_scale_goes_away_from_the_paper_step_by_step(name: str) -> None:
    theme = THEMES[name]
    assert len(theme.scale) == len(theme.over) == STEPS
    paper, *lightness = (
        _perceived(colour, "all cones")[0] for colour in (theme.paper, *theme.scale)
    )
    away = [abs(step - paper) for step in lightness]
    assert all(further - nearer > APART / 2 for nearer, further in pairwise(away))


def test_both_themes_have_the_same_variables_and_a_page_has_both() -> None:
    light, dark = (
        {part.partition(":")[0] for part in declarations(theme).split("; ")}
        for theme in (LIGHT, DARK)
    )
    assert light == dark >= {"--paper", "--ink", "--scale-0", "--scale-8", "--series-0"}
    style = custom_properties()
    assert style.count("{") == style.count("}")
    assert style.count(LIGHT.ink) == 1
    assert style.count(DARK.ink) == 2


@pytest.mark.parametrize(
    ("value", "step"), [(-1.0, 0), (0.0, 0), (0.49, 4), (0.999, 8), (1.0, 8), (7.0, 8)]
)
def test_a_value_has_the_step_that_it_lies_in(value: float, step: int) -> None:
    assert step_of(value, 0.0, 1.0) == step


def test_equal_ends_have_one_step() -> None:
    assert step_of(3.0, 3.0, 3.0) == 0
