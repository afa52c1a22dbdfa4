"""The picture of the README.

What it shows is measured: three versions of one task are committed to a temporary registry, and the
bars are the bytes that each version stores, one bar for each adapted module.
"""

import tempfile
from typing import Final

import share_registry as sr
from docs.pictures.drawing import MARGIN, arrow, box, kilobytes, svg, text
from share_registry.cli.demo import DATA

VERSIONS: Final = ("v1", "v2", "v3")

_WIDTH, _HEIGHT = 880, 404
_CARD_WIDTH, _CARD_HEIGHT, _CARD_TOP, _CARD_STEP = 224, 190, 86, 304
_BAR_LENGTH, _BAR_STEP, _BAR_HEIGHT = 192, 11, 7
_PILL_TOP, _PILL_WIDTH, _PILL_HEIGHT = 308, 96, 28


def commit_versions() -> list[sr.AdapterReport]:
    """Commit three versions of a task that ships with the project; return their reports."""
    with (
        tempfile.TemporaryDirectory() as directory,
        sr.Registry.open(directory) as registry,
    ):
        commits = [registry.commit(DATA / "wn-pos-gloss" / name, task="x") for name in VERSIONS]
    return [commit.report for commit in commits if commit.report is not None]


def draw(reports: list[sr.AdapterReport]) -> str:
    """Return the picture as SVG."""
    bars = [_bytes_of_modules(report) for report in reports]
    longest = max(bars[0].values())
    raw_size = kilobytes(reports[0].raw_bytes)
    parts = [
        text(MARGIN, 36, "Three versions of one task, “gloss”", "title"),
        text(
            MARGIN,
            58,
            f"Each was given as a file of {raw_size}. A bar is one weight matrix.",
            "quiet",
        ),
        *_legend(),
    ]
    for position, (report, modules) in enumerate(zip(reports, bars, strict=True)):
        parts += _card(position, report, bars[0], modules, longest)
    for position in range(1, len(reports)):
        parts += _reuse(position)
    parts += _alias()
    title = "Three versions of one task share rows; the alias prod moves from v1 to v3."
    return svg(_WIDTH, _HEIGHT, title, parts)


def _bytes_of_modules(report: sr.AdapterReport) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for side in report.modules:
        sizes[side.module] = sizes.get(side.module, 0) + side.bytes
    return sizes


def _legend() -> list[str]:
    return [
        box(556, 26, 22, 10, "new", rx=2),
        text(586, 36, "stored by this version", "quiet"),
        box(556, 48, 22, 10, "shared", rx=2),
        text(586, 58, "not stored again: made from earlier rows", "quiet"),
    ]


def _card(
    position: int,
    report: sr.AdapterReport,
    first: dict[str, int],
    modules: dict[str, int],
    longest: int,
) -> list[str]:
    """Draw a version; behind each bar, in the colour of shared rows, the one of version 1."""
    left = MARGIN + position * _CARD_STEP
    parts = [
        box(left, _CARD_TOP, _CARD_WIDTH, _CARD_HEIGHT, rx=8),
        text(left + 16, _CARD_TOP + 26, f"gloss@{VERSIONS[position]}", "title"),
        text(
            left + _CARD_WIDTH - 16,
            _CARD_TOP + 26,
            f"{kilobytes(report.bytes_added)} stored",
            "quiet",
            anchor="end",
        ),
    ]
    for row, (module, stored) in enumerate(modules.items()):
        top = _CARD_TOP + 44 + row * _BAR_STEP
        for kind, length in (("shared", first[module]), ("new", stored)):
            width = round(length * _BAR_LENGTH / longest)
            parts.append(box(left + 16, top, width, _BAR_HEIGHT, kind, rx=2))
    return parts


def _reuse(position: int) -> list[str]:
    """Draw the arrow from a version to the one before it, whose rows it uses."""
    right = MARGIN + position * _CARD_STEP - 6
    left = right - (_CARD_STEP - _CARD_WIDTH) + 12
    middle = _CARD_TOP + _CARD_HEIGHT // 2
    return [
        *arrow(right, middle, right - left, "left"),
        text((left + right) // 2, middle - 10, "reuses", "quiet", anchor="middle"),
        text((left + right) // 2, middle + 21, "its rows", "quiet", anchor="middle"),
    ]


def _alias() -> list[str]:
    """Draw the alias, where it was and where it is."""
    before, live = (
        MARGIN + position * _CARD_STEP + (_CARD_WIDTH - _PILL_WIDTH) // 2 for position in (0, 2)
    )
    middle = _PILL_TOP + _PILL_HEIGHT // 2
    start, end = before + _PILL_WIDTH + 8, live - 8
    parts = [
        box(before, _PILL_TOP, _PILL_WIDTH, _PILL_HEIGHT, "before", rx=_PILL_HEIGHT / 2),
        text(before + _PILL_WIDTH // 2, middle + 5, "prod", "on-before", anchor="middle"),
        *arrow(start, middle, end - start, "right", "live thick"),
        box(live, _PILL_TOP, _PILL_WIDTH, _PILL_HEIGHT, "pill live", rx=_PILL_HEIGHT / 2),
        text(live + _PILL_WIDTH // 2, middle + 5, "prod", "on-live", anchor="middle"),
    ]
    for centre in (before + _PILL_WIDTH // 2, live + _PILL_WIDTH // 2):
        parts += arrow(centre, _PILL_TOP - 4, 27, "up")
    return [
        *parts,
        text(
            _WIDTH // 2,
            _PILL_TOP - 6,
            "the alias moves, and every move is recorded",
            "quiet",
            anchor="middle",
        ),
        text(
            MARGIN,
            _HEIGHT - 24,
            "A version never changes. export(“gloss@prod”) writes it as an ordinary LoRA adapter.",
            "quiet",
        ),
    ]
