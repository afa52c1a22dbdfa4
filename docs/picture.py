"""Draws `docs/versions.svg`, the picture of the README: `python -m docs.picture`.

What it shows is measured: three versions of one task are committed to a temporary registry, and the
bars are the bytes that each version stores, one bar for each adapted module.
"""

import tempfile
from pathlib import Path
from typing import Final

import share_registry as sr
from share_registry.cli.demo import DATA

PICTURE: Final = Path(__file__).with_name("versions.svg")
VERSIONS: Final = ("v1", "v2", "v3")

_WIDTH, _HEIGHT = 880, 404
_CARD_WIDTH, _CARD_HEIGHT, _CARD_TOP, _CARD_STEP, _MARGIN = 224, 190, 86, 304, 24
_BAR_LENGTH, _BAR_STEP, _BAR_HEIGHT = 192, 11, 7
_PILL_TOP, _PILL_WIDTH, _PILL_HEIGHT = 308, 96, 28

# The ground is opaque, so that the picture reads the same on a light and on a dark page.
_STYLE: Final = """
    text { font: 14px system-ui, 'Segoe UI', 'DejaVu Sans', sans-serif; fill: #1f2328 }
    .title { font-weight: 600; font-size: 16px } .quiet { fill: #59636e; font-size: 13px }
    .ground { fill: #ffffff; stroke: #d1d9e0 } .card { fill: #f6f8fa; stroke: #d1d9e0 }
    .new { fill: #2563eb } .shared { fill: #c7d8fa }
    .line { fill: none; stroke: #59636e; stroke-width: 1.5 } .tip { fill: #59636e }
    .live { fill: #15803d } .before { fill: none; stroke: #15803d; stroke-dasharray: 4 3 }
    .move { fill: none; stroke: #15803d; stroke-width: 2 }
    .on-live { fill: #ffffff; font-weight: 600 } .on-before { fill: #15803d }
    @media (prefers-color-scheme: dark) {
      text { fill: #f0f6fc } .quiet { fill: #9ba5b1 }
      .ground { fill: #0d1117; stroke: #3d444d } .card { fill: #151b23; stroke: #3d444d }
      .new { fill: #6ea8fe } .shared { fill: #2b4370 }
      .line { stroke: #9ba5b1 } .tip { fill: #9ba5b1 }
      .live { fill: #3fb950 } .before, .move { stroke: #3fb950 }
      .on-live { fill: #0d1117 } .on-before { fill: #3fb950 }
    }
"""


def main() -> None:
    """Write the picture."""
    PICTURE.write_text(draw(commit_versions()), encoding="utf-8")


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
    raw_size = _kilobytes(reports[0].raw_bytes)
    parts = [
        f'<rect class="ground" x=".5" y=".5" width="{_WIDTH - 1}" height="{_HEIGHT - 1}" rx="10"/>',
        _text(_MARGIN, 36, "Three versions of one task, “gloss”", "title"),
        _text(
            _MARGIN,
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
    body = "\n  ".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        f'width="{_WIDTH}" height="{_HEIGHT}" role="img">\n'
        "  <title>Three versions of one task share rows; the alias prod moves from v1 to v3."
        f"</title>\n  <style>{_STYLE}  </style>\n  {body}\n</svg>\n"
    )


def _bytes_of_modules(report: sr.AdapterReport) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for side in report.modules:
        sizes[side.module] = sizes.get(side.module, 0) + side.bytes
    return sizes


def _legend() -> list[str]:
    return [
        '<rect class="new" x="556" y="26" width="22" height="10" rx="2"/>',
        _text(586, 36, "stored by this version", "quiet"),
        '<rect class="shared" x="556" y="48" width="22" height="10" rx="2"/>',
        _text(586, 58, "not stored again: made from earlier rows", "quiet"),
    ]


def _card(
    position: int,
    report: sr.AdapterReport,
    first: dict[str, int],
    modules: dict[str, int],
    longest: int,
) -> list[str]:
    """Draw a version; behind each bar, in the colour of shared rows, the one of version 1."""
    left = _MARGIN + position * _CARD_STEP
    size = f'width="{_CARD_WIDTH}" height="{_CARD_HEIGHT}"'
    parts = [
        f'<rect class="card" x="{left}" y="{_CARD_TOP}" {size} rx="8"/>',
        _text(left + 16, _CARD_TOP + 26, f"gloss@{VERSIONS[position]}", "title"),
        _text(
            left + _CARD_WIDTH - 16,
            _CARD_TOP + 26,
            f"{_kilobytes(report.bytes_added)} stored",
            "quiet",
            anchor="end",
        ),
    ]
    for row, (module, stored) in enumerate(modules.items()):
        top = _CARD_TOP + 44 + row * _BAR_STEP
        for kind, length in (("shared", first[module]), ("new", stored)):
            parts.append(
                f'<rect class="{kind}" x="{left + 16}" y="{top}" '
                f'width="{length * _BAR_LENGTH / longest:.0f}" height="{_BAR_HEIGHT}" rx="2"/>'
            )
    return parts


def _reuse(position: int) -> list[str]:
    """Draw the arrow from a version to the one before it, whose rows it uses."""
    right = _MARGIN + position * _CARD_STEP - 6
    left = right - (_CARD_STEP - _CARD_WIDTH) + 12
    middle = _CARD_TOP + _CARD_HEIGHT // 2
    return [
        f'<path class="line" d="M {right} {middle} H {left + 8}"/>',
        f'<path class="tip" d="M {left} {middle} l 9 -5 v 10 z"/>',
        _text((left + right) // 2, middle - 10, "reuses", "quiet", anchor="middle"),
        _text((left + right) // 2, middle + 21, "its rows", "quiet", anchor="middle"),
    ]


def _alias() -> list[str]:
    """Draw the alias, where it was and where it is."""
    before, live = (
        _MARGIN + position * _CARD_STEP + (_CARD_WIDTH - _PILL_WIDTH) // 2 for position in (0, 2)
    )
    middle = _PILL_TOP + _PILL_HEIGHT // 2
    size = f'width="{_PILL_WIDTH}" height="{_PILL_HEIGHT}" rx="{_PILL_HEIGHT // 2}"'
    start, end = before + _PILL_WIDTH + 8, live - 8
    parts = [
        f'<rect class="before" x="{before}" y="{_PILL_TOP}" {size}/>',
        _text(before + _PILL_WIDTH // 2, middle + 5, "prod", "on-before", anchor="middle"),
        f'<path class="move" d="M {start} {middle} H {end - 9}"/>',
        f'<path class="live" d="M {end} {middle} l -11 -6 v 12 z"/>',
        f'<rect class="live" x="{live}" y="{_PILL_TOP}" {size}/>',
        _text(live + _PILL_WIDTH // 2, middle + 5, "prod", "on-live", anchor="middle"),
    ]
    for centre in (before + _PILL_WIDTH // 2, live + _PILL_WIDTH // 2):
        parts.append(f'<path class="line" d="M {centre} {_PILL_TOP - 4} V {_PILL_TOP - 24}"/>')
        parts.append(f'<path class="tip" d="M {centre} {_PILL_TOP - 31} l -5 9 h 10 z"/>')
    return [
        *parts,
        _text(
            _WIDTH // 2,
            _PILL_TOP - 6,
            "the alias moves, and every move is recorded",
            "quiet",
            anchor="middle",
        ),
        _text(
            _MARGIN,
            _HEIGHT - 24,
            "A version never changes. export(“gloss@prod”) writes it as an ordinary LoRA adapter.",
            "quiet",
        ),
    ]


def _kilobytes(size: int) -> str:
    return f"{size / 1000:.0f} kB"


def _text(x: int, y: int, text: str, kind: str, *, anchor: str = "start") -> str:
    return f'<text class="{kind}" x="{x}" y="{y}" text-anchor="{anchor}">{text}</text>'


if __name__ == "__main__":
    main()
