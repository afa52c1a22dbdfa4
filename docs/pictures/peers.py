"""The plots of `docs/results.md`: figures of measurements, read from the tables of their pages."""

from pathlib import Path
from typing import Final

from docs.pictures.drawing import MARGIN, box, dot, path, svg, text
from docs.pictures.panel import Panel, Point, legend

ROOT: Final = Path(__file__).parents[2]
RESULTS: Final = ROOT / "benchmarks" / "RESULTS.md"
_WIDTH: Final = 880
_OURS: Final = "share_registry"


def table(heading: str, first: str, *, page: Path = RESULTS) -> list[dict[str, str]]:
    """Return the rows of the table below a heading whose first column is named so."""
    section = page.read_text(encoding="utf-8").partition(f"{heading}\n")[2].partition("\n#")[0]
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
    panel = Panel(
        left=84,
        right=600,
        top=84,
        bottom=356,
        x=(0.001, 0.4),
        y=(100, 25_000),
        log_x=True,
        log_y=True,
    )
    parts = [
        text(MARGIN, 36, "28 real adapters: bytes at equal error", "title"),
        text(MARGIN, 58, "kB of the whole collection; 8,348 kB as given", "quiet"),
        *panel.axes(
            {0.001: "0.1 %", 0.01: "1 %", 0.1: "10 %"},
            {100: "100", 1000: "1,000", 10000: "10,000"},
            "relative error of dW",
        ),
        *panel.level(8348, "as given"),
        *legend(panel.right + 16, 176, curves),
    ]
    for number, points in enumerate(curves.values()):
        parts += panel.line(sorted(set(points)), number)
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


def draw_errors() -> str:
    """Return what an error costs in accuracy and in predictions that change."""
    rows = table("# How the default budget was chosen", "budget", page=ROOT / "docs" / "budget.md")
    budgets = [float(row["budget"]) for row in rows]
    marks = {0.01: "1 %", 0.03: "3 %", 0.1: "10 %", 0.3: "30 %"}
    left = Panel(left=84, right=400, top=84, bottom=316, x=(0.009, 0.45), y=(-4, 1), log_x=True)
    right = Panel(left=500, right=816, top=84, bottom=316, x=(0.009, 0.45), y=(0, 14), log_x=True)
    changes = {
        float(value): f"{value:+}".replace("-", "−").replace("+0", "0") for value in range(-4, 2)
    }
    parts = [
        text(MARGIN, 36, "What an error costs: 30 adapters at ten budgets", "title"),
        text(left.left, 66, "change of accuracy, points", "quiet"),
        text(right.left, 66, "predictions that changed, %", "quiet"),
        *left.axes(marks, changes, "error budget"),
        *right.axes(marks, {float(value): f"{value}" for value in range(0, 15, 2)}, "error budget"),
        *legend(left.left, 388, ["all adapters together"]),
        path("M 300 383 h 24", "line thick stroke-1"),
        dot(312, 383, 4, "fill-1"),
        text(334, 388, "the worst adapter"),
    ]
    for panel, columns in (
        (left, ("mean accuracy change, points", "worst adapter, points")),
        (right, ("flips, pooled", "flips, worst of 300")),
    ):
        for number, column in enumerate(columns):
            scale = 3 if column == "flips, worst of 300" else 1
            values = [float(row[column].removesuffix(" %")) / scale for row in rows]
            parts += panel.line(list(zip(budgets, values, strict=True)), number)
        x = panel.across(0.025)
        parts.append(path(f"M {x:.1f} {panel.top} V {panel.bottom}", "line dashed"))
        parts.append(text(x + 6, panel.top + 12, "default", "quiet"))
    return svg(_WIDTH, 410, "Change of accuracy and flipped predictions at ten budgets.", parts)


def draw_training() -> str:
    """Return accuracy over trained parameters, in the basis of other tasks and in a random one."""
    rows = table("## Three tasks, over k, p and phi", "trained", page=ROOT / "docs" / "training.md")
    panel = Panel(
        left=84, right=600, top=84, bottom=356, x=(1_200, 100_000), y=(74, 81), log_x=True
    )
    sizes = (1_536, 3_072, 6_144, 12_288, 24_672, 73_728)
    parts = [
        text(MARGIN, 36, "Training few parameters in the subspace of other tasks", "title"),
        text(MARGIN, 58, "accuracy on three held-out tasks, mean, %", "quiet"),
        *panel.axes(
            {float(size): f"{size:,}" for size in sizes},
            {float(value): f"{value}" for value in range(74, 82)},
            "trained parameters",
        ),
        *legend(panel.right + 16, 120, ["basis of other tasks", "random basis", "LoRA of rank 8"]),
    ]
    for row in rows:
        number = ("shared", "random", "lora").index(row["trained"])
        size = float(row["parameters"].replace(",", ""))
        # the two bases are of the same sizes: one beside the other
        x = panel.across(size) + 6 * (number == 1)
        parts.append(dot(x, panel.up(float(row["mean"])), 5, f"fill-{number}"))
    return svg(_WIDTH, 410, "Accuracy over trained parameters.", parts)
