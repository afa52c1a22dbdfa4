"""The pictures of `docs/concepts.md`; what has numbers is measured."""

import tempfile
from typing import Final

import share_registry as sr
from docs.pictures.drawing import MARGIN, arrow, box, dot, kilobytes, path, svg, text
from share_registry.cli.demo import DATA

BUDGETS: Final = (0.0, 0.005, 0.01, 0.025, 0.05, 0.1)
_WIDTH: Final = 880


def measure_budgets() -> tuple[int, list[sr.AdapterReport]]:
    """Return the size of an adapter that ships, and what it takes at each budget."""
    with (
        tempfile.TemporaryDirectory() as directory,
        sr.Registry.open(directory) as registry,
    ):
        reports = [
            registry.commit(
                DATA / "wn-pos-gloss" / "v1", task="gloss", budget=budget, dry_run=True
            ).report
            for budget in BUDGETS
        ]
    measured = [report for report in reports if report is not None]
    return measured[0].raw_bytes, measured


def draw_places() -> str:
    """Return what a registry consists of: the store, and the catalog beside it."""
    parts = [
        box(MARGIN, 24, 560, 322, "card", rx=8),
        text(40, 52, "Store", "title"),
        text(92, 52, "the truth: a directory or a bucket", "quiet"),
        text(40, 86, "spaces/all-minilm-l6-v2/log/", "code"),
        text(40, 324, "objects/", "code"),
        text(112, 324, "each named by the sha256 of its bytes", "quiet"),
        box(620, 24, 236, 322, "card", rx=8),
        text(636, 52, "Catalog", "title"),
        text(636, 74, "an index: SQLite, PostgreSQL", "quiet"),
    ]
    for row, words in enumerate(
        ("tasks, versions", "aliases, tags", "labels, metrics", "sizes, errors")
    ):
        parts += [box(636, 96 + row * 40, 204, 30, "ground"), text(650, 116 + row * 40, words)]
    parts += [
        text(636, 288, "made from the log;", "quiet"),
        text(636, 308, "delete it, and `rebuild`", "quiet"),
        text(636, 328, "makes an equal one", "quiet"),
        *arrow(552, 120, 78, "right"),
    ]
    kinds = ("create", "absorb", "absorb", "alias")
    for number, kind in enumerate(kinds, start=1):
        left = 40 + (number - 1) * 132
        parts += [
            box(left, 100, 100, 44, "ground"),
            text(left + 12, 127, f"c{number}", "code"),
            text(left + 88, 127, kind, "quiet", anchor="end"),
        ]
        if number > 1:
            parts += arrow(left - 2, 122, 28, "left")
    for number, name in enumerate(("adapter", "note", "layout", "adapter", "note")):
        left = 40 + number * 106
        parts += [box(left, 196, 92, 50, "ground"), text(left + 46, 226, name, anchor="middle")]
    for commit, turn, ends in ((222, 160, (86, 192, 286)), (354, 174, (310, 404, 510))):
        parts.append(path(f"M {commit} 146 V {turn} M {ends[0]} {turn} H {ends[-1]}"))
        for end in ends:
            parts += arrow(end, turn, 192 - turn, "down")
    parts += [
        path("M 404 248 V 268 H 86 V 258", "line dashed"),
        path("M 86 250 l -5 9 h 10 z", "tip"),
        text(245, 288, "uses rows of", "quiet", anchor="middle"),
    ]
    return svg(
        _WIDTH,
        370,
        "A registry is a store with logs and objects, and a catalog made from it.",
        parts,
    )


def draw_history() -> str:
    """Return the log of a space with what its commits mean for tasks, an alias and a tag."""
    top = 70
    centres = [168 + number * 92 for number in range(8)]
    kinds = ("create", "absorb", "absorb", "alias", "tag", "absorb", "absorb", "alias")
    parts = [text(MARGIN, 36, "One space, eight commits", "title")]
    lanes = (("log", top), ("task gloss", top + 66), ("task antonyms", top + 118))
    for words, y in (*lanes, ("alias gloss@prod", top + 176), ("tag @release-1", top + 228)):
        parts.append(text(MARGIN, y + 5, words, "quiet"))
    parts.append(path(f"M {centres[0]} {top} H {centres[-1]}", "line"))
    for number, (centre, kind) in enumerate(zip(centres, kinds, strict=True), start=1):
        parts += [
            box(centre - 20, top - 14, 40, 28, "card", rx=14),
            text(centre, top + 5, f"c{number}", "code", anchor="middle"),
            text(centre, top + 32, kind, "small quiet", anchor="middle"),
        ]
    for y, versions in ((top + 66, (1, 2, 6)), (top + 118, (5,))):
        parts.append(path(f"M {centres[versions[0]]} {y} H {centres[-1] + 20}", "line dashed"))
        for version, place in enumerate(versions, start=1):
            parts += [
                dot(centres[place], y, 15, "new"),
                text(centres[place], y + 5, f"v{version}", "on-live", anchor="middle"),
            ]
    alias = top + 176
    parts += [
        box(centres[3] - 14, alias - 14, centres[7] - centres[3] - 8, 28, "before", rx=14),
        text(centres[3] + 4, alias + 5, "at v1", "on-before"),
        box(centres[7] - 14, alias - 14, 54, 28, "pill live", rx=14),
        text(centres[7] + 13, alias + 5, "at v3", "on-live", anchor="middle"),
        dot(centres[4], top + 228, 7, "fill-1"),
        text(centres[4] + 18, top + 233, "names c5 for ever"),
    ]
    meanings = (
        ("gloss is v3", 0),
        ("gloss@c5 is v2", 120),
        ("gloss@prod is v3", 264),
        ("gloss@prod~1 is v1", 424),
        ("@release-1 is all as of c5", 600),
    )
    parts += [text(MARGIN + left, top + 276, words, "code") for words, left in meanings]
    return svg(
        _WIDTH, 372, "The log of a space: versions of two tasks, an alias that moves, a tag.", parts
    )


def draw_rows() -> str:
    """Return what the rows of a matrix are stored as."""
    parts = [
        text(MARGIN, 36, "One matrix of an adapter, r rows", "title"),
        text(
            MARGIN,
            58,
            "is the sum of what takes the fewest bytes for the error that is allowed",
            "quiet",
        ),
    ]
    columns = (
        (24, "stored matrix", "new", "decoded, the same on", "any machine"),
        (254, "previous version", "shared", "rows that this task", "has already"),
        (484, "coefficients × rows", "fill-2 band", "rows of other tasks,", "or of a basis"),
        (714, "own rows", "new", "integers, and a scale", "for each row"),
    )
    for left, title, kind, above, below in columns:
        parts += [text(left, 96, title, ""), *_rows(left, 110, kind)]
        parts += [text(left, 222, above, "quiet"), text(left, 242, below, "quiet")]
    for left, sign in ((196, "="), (426, "+"), (656, "+")):
        parts.append(text(left + 14, 164, sign, "title", anchor="middle"))
    parts.append(
        text(
            MARGIN,
            278,
            "Each of the three may be missing. Storing the own rows alone is always tried.",
            "",
        )
    )
    return svg(
        _WIDTH, 300, "Rows are stored as previous rows, combinations of rows, and own rows.", parts
    )


def _rows(left: float, top: float, kind: str) -> list[str]:
    return [box(left, top + row * 15, 142, 10, kind, rx=2) for row in range(6)]


def draw_budget(raw_bytes: int, reports: list[sr.AdapterReport]) -> str:
    """Return the bytes of an adapter at several budgets."""
    longest = 520
    parts = [
        text(MARGIN, 36, "The error budget decides the bytes", "title"),
        text(MARGIN, 58, "The adapter gloss@v1, stored on its own", "quiet"),
        text(MARGIN, 96, "as given"),
        box(190, 84, longest, 16, "shared", rx=2),
        text(200 + longest, 97, kilobytes(raw_bytes)),
    ]
    for row, (budget, report) in enumerate(zip(BUDGETS, reports, strict=True), start=1):
        y = 84 + row * 34
        length = round(longest * report.bytes_added / raw_bytes)
        name = f"budget {100 * budget:g} %" if budget else "budget 0: every bit"
        name += " (default)" if budget == sr.Policy().budget else ""
        parts += [
            text(MARGIN, y + 13, name),
            box(190, y, length, 16, "new", rx=2),
            text(200 + length, y + 13, kilobytes(report.bytes_added)),
        ]
    return svg(_WIDTH, 340, "Bytes of an adapter at budgets from 0 to 10 %.", parts)
