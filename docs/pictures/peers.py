"""The plots of `docs/results.md`: figures of `benchmarks/RESULTS.md`, read from its tables."""

from collections.abc import Iterable, Sequence
from math import log10
from pathlib import Path
from typing import Final

from docs.pictures.drawing import MARGIN, box, dot, path, svg, text

RESULTS: Final = Path(__file__).parents[2] / "benchmarks" / "RESULTS.md"
_WIDTH: Final = 880
_OURS: Final = "share_registry"
_LEFT, _RIGHT, _TOP, _BOTTOM = 84, 600, 84, 356

Point = tuple[float, float]
"""A relative error, and kB."""


def table(heading: str, first: str) -> list[dict[str, str]]:
    """Return the rows of the table below a heading whose first column is named so."""
    section = RESULTS.read_text(encoding="utf-8").partition(f"{heading}\n")[2].partition("\n#")[0]
    rows = section.partition(f"| {first} |")[2]
    lines = f"| {first} |{rows}".partition("\n\n")[0].splitlines()
    names, _, *cells = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    return [dict(zip(names, row, strict=True)) for row in cells]


def draw_tools() -> str:
    """Return what three versions take in tools that version files or arrays, as stacked bars."""
    rows = sorted(
        table("## In tools that version files", "tool"), key=lambda row: float(row["together, kB"])
    )
    longest = 520 / max(float(row["together, kB"]) for row in rows)
    parts = [
        text(MARGIN, 36, "Three versions of one adapter, bytes stored", "title"),
        text(MARGIN, 58, "306 kB each as given; v1, v2, v3 from left to right", "quiet"),
    ]
    for place, row in enumerate(rows):
        y, left = 84 + place * 34, 256.0
        parts.append(text(MARGIN, y + 14, row["tool"]))
        for name in ("v1, kB", "v2, kB", "v3, kB"):
            width = float(row[name]) * longest
            parts.append(
                box(
                    left,
                    y,
                    width - 2,
                    18,
                    "fill-0" if row["tool"].startswith(_OURS) else "bar",
                    rx=2,
                )
            )
            left += width
        note = "at most 2.5 % of error" if row["error"] != "none" else ""
        parts.append(text(left + 8, y + 14, f"{row['together, kB']} kB"))
        parts.append(text(left + 70, y + 14, note, "quiet"))
    return svg(_WIDTH, 84 + 34 * len(rows) + 16, "Kilobytes of three versions in each tool.", parts)


def draw_peers() -> str:
    """Return bytes over error of a collection, beside the packages that store such collections."""
    rows = table("### Real adapters, N = 28: 8348 kB as given", "error at most")
    curves: dict[str, list[Point]] = {f"{_OURS}, one by one": []}
    for row in rows:
        if row["its error"] == "-":
            continue
        error = max(float(row["its error"]), 0.001)
        curves[f"{_OURS}, one by one"].append((error, float(row["share_registry, one by one, kB"])))
        form = row["setting"].partition(", ")[2]
        curves.setdefault(f"{row['peer']}, {form}", []).append((error, float(row["kB"])))
    parts = [
        text(MARGIN, 36, "28 real adapters: bytes at equal error", "title"),
        text(MARGIN, 58, "kB of the whole collection; 8,348 kB as given", "quiet"),
        *_axes((0.001, 0.01, 0.1), (100, 1000, 10000), "relative error of dW"),
        *_level(8348, "as given"),
    ]
    for number, (name, points) in enumerate(curves.items()):
        parts += _curve(name, sorted(set(points)), number)
    return svg(
        _WIDTH, 410, "Kilobytes over error for share_registry, vlora-dev and lorashare.", parts
    )


def draw_accuracy() -> str:
    """Return what equal bytes cost in accuracy."""
    rows = table(
        "## Accuracy", "adapter | accuracy | share_registry, budget 0.05: 424 kB, error 0.050"
    )
    names = list(rows[0])[-3:]
    summary = {row["adapter"].strip("*"): row for row in rows[-3:]}
    parts = [
        text(MARGIN, 36, "12 real adapters at equal bytes: what it costs", "title"),
        text(MARGIN, 58, "about 420 kB for all, in the best form that each has", "quiet"),
        text(280, 92, "mean accuracy, points", "quiet"),
        text(580, 92, "predictions that changed", "quiet"),
    ]
    for place, name in enumerate(names):
        y = 108 + place * 52
        tool, _, form = name.partition(", ")
        change, flips = (summary[key][name] for key in ("mean change", "flips, pooled"))
        kind = "fill-0" if tool == _OURS else "bar"
        parts += [
            text(MARGIN, y + 14, tool),
            text(MARGIN, y + 32, form.partition(": ")[0] if ":" in form else form, "quiet"),
            box(280, y, max(2, abs(float(change)) * 32), 18, kind, rx=2),
            text(288 + max(2, abs(float(change)) * 32), y + 14, change.replace("-", "−")),
            box(580, y, max(2, float(flips.split()[0]) * 11), 18, kind, rx=2),
            text(588 + max(2, float(flips.split()[0]) * 11), y + 14, flips),
        ]
    return svg(_WIDTH, 276, "Change of accuracy and flipped predictions at equal bytes.", parts)


def draw_lossless() -> str:
    """Return how far tensors shrink where every bit is kept."""
    rows = [row for row in table("## Every bit kept", "adapters") if row["what"] != "ours, before"]
    kinds = [kind for kind in dict.fromkeys(row["adapters"] for row in rows) if "real" in kind]
    parts = [
        text(MARGIN, 36, "Every bit kept: bytes left of the tensors", "title"),
        text(MARGIN, 58, "12 real adapters; the line is the entropy of Gaussian rows", "quiet"),
    ]
    y = 84
    for kind in kinds:
        ratios = {row["what"]: float(row["ratio"]) for row in rows if row["adapters"] == kind}
        floor = 300 + 480 * ratios.pop("floor")
        parts.append(text(MARGIN, y + 14, kind.partition(", ")[2]))
        parts.append(path(f"M {floor:.1f} {y - 6} V {y + 26 * len(ratios)}", "line dashed"))
        for what, ratio in ratios.items():
            fill = "fill-0" if what == "ours" else "bar"
            parts += [
                text(288, y + 14, _OURS if what == "ours" else what, "quiet", anchor="end"),
                box(300, y, 480 * ratio, 18, fill, rx=2),
                text(808 if ratio > 0.98 else 310 + 480 * ratio, y + 14, f"{100 * ratio:.1f} %"),
            ]
            y += 26
        y += 22
    return svg(_WIDTH, y + 4, "Share of bytes left by share_registry, zipnn and pcodec.", parts)


def _axes(xs: Sequence[float], ys: Sequence[float], name: str) -> Iterable[str]:
    for value in ys:
        y = _y(value)
        yield path(f"M {_LEFT} {y:.1f} H {_RIGHT}", "grid")
        yield text(_LEFT - 10, y + 5, f"{value:,.0f}", "quiet", anchor="end")
    for value in xs:
        yield text(_x(value), _BOTTOM + 20, f"{100 * value:g} %", "quiet", anchor="middle")
    yield text((_LEFT + _RIGHT) / 2, _BOTTOM + 42, name, "quiet", anchor="middle")


def _level(value: float, name: str) -> Iterable[str]:
    yield path(f"M {_LEFT} {_y(value):.1f} H {_RIGHT}", "line dashed")
    yield text(_RIGHT + 16, _y(value) + 5, name, "quiet")


def _curve(name: str, points: Sequence[Point], number: int) -> Iterable[str]:
    steps = " L ".join(f"{_x(error):.1f} {_y(size):.1f}" for error, size in points)
    yield path(f"M {steps}", f"line thick stroke-{number}")
    for error, size in points:
        yield dot(_x(error), _y(size), 4, f"fill-{number}")
    y = 176 + number * 26
    yield path(f"M {_RIGHT + 16} {y - 5} h 24", f"line thick stroke-{number}")
    yield dot(_RIGHT + 28, y - 5, 4, f"fill-{number}")
    yield text(_RIGHT + 50, y, name)


def _x(error: float) -> float:
    return _LEFT + (_RIGHT - _LEFT) * (log10(error) + 3) / 2.6


def _y(size: float) -> float:
    return _BOTTOM - (_BOTTOM - _TOP) * (log10(size) - 2) / 2.4
