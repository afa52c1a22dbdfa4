"""Bytes at equal error, and error at equal bytes, beside two packages that store LoRA collections.

    python -m benchmarks.peers [--corpus CORPUS] [--count N] [--width D] [--layers L] [--rank R]

CORPUS is a folder with `<task>/<version>` PEFT directories; without one, the adapters that ship
with the project. Of a corpus the adapters of its most common shape are taken, since both peers want
one rank and one set of modules. Heads and logs are left out for everybody: vlora-dev would drop
them. Every error limit asks each peer for the fewest bytes it can meet it with; share_registry then
gets exactly the error that the peer has there (at least .001) as its budget.
"""

import argparse
import json
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch

import share_registry as sr
from benchmarks.adapters import write_bare, write_family, write_independent, write_planted
from benchmarks.rivals import Lorashare, Ours, Point, Rival, Vlora, cheapest, largest

DEMO: Final = Path(sr.__file__).parent / "demo_data"
LIMITS: Final = (0.3, 0.1, 0.05, 0.01, 0.001)
SMALLEST: Final = 0.001
"""Errors below this are none: a peer that is exact is compared with this budget."""
SHARES: Final = (4, 8, 16)
NOISE: Final = 0.05
TEMPLATES: Final = 6
COLUMNS: Final = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A collection, and what the comparison is to show."""

    name: str
    folders: Sequence[Path]


def main() -> None:
    """Measure and print the tables of every collection."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--corpus", type=Path, default=DEMO)
    parser.add_argument("--count", type=int, default=24)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument(
        "--only",
        choices=["real", "columns", "family", "nothing"],
        nargs="*",
        default=["real", "columns", "family", "nothing"],
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        for scenario in _scenarios(Path(place), options):
            _compare(scenario)


def common_shape(corpus: Path) -> list[Path]:
    """Return the adapters of a corpus that have the rank and modules most of them have."""
    folders = sorted(path.parent for path in corpus.rglob("adapter_config.json"))
    shapes = {folder: _shape(folder) for folder in folders}
    most = Counter(shapes.values()).most_common(1)[0][0]
    return [folder for folder in folders if shapes[folder] == most]


def _shape(folder: Path) -> tuple[object, ...]:
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    return config["r"], tuple(sorted(config["target_modules"]))


def _scenarios(place: Path, options: argparse.Namespace) -> Iterator[Scenario]:
    sizes = {
        "count": options.count,
        "rank": options.rank,
        "width": options.width,
        "layers": options.layers,
    }
    shape = (
        f"N = {options.count}, {2 * options.layers} modules, {options.width} wide, r = "
        f"{options.rank}"
    )
    if "real" in options.only:
        real = write_bare(common_shape(options.corpus), place / "real")
        yield Scenario(name=f"real adapters, N = {len(real)}", folders=real)
    if "columns" in options.only:
        yield Scenario(
            name=f"{COLUMNS} shared columns and 5 % noise, {shape}",
            folders=write_planted(place / "columns", shared=COLUMNS, noise=NOISE, **sizes),
        )
    if "family" in options.only:
        yield Scenario(
            name=f"mixtures of {TEMPLATES} whole adapters and 5 % noise, {shape}",
            folders=write_family(place / "family", templates=TEMPLATES, noise=NOISE, **sizes),
        )
    if "nothing" in options.only:
        yield Scenario(
            name=f"nothing shared, {shape}", folders=write_independent(place / "nothing", **sizes)
        )


def _compare(scenario: Scenario) -> None:
    raw = sum((folder / "adapter_model.safetensors").stat().st_size for folder in scenario.folders)
    ours = (Ours(scenario.folders), Ours(scenario.folders, together=True))
    rivals: list[Rival] = [Vlora(scenario.folders), Lorashare(scenario.folders)]
    print(f"\n### {scenario.name}: {raw / 1000:.0f} kB as given\n", flush=True)
    print(
        "| error at most | peer | setting | its error | kB | share_registry, one by one, kB | "
        "ratio | in one commit, kB | ratio |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for limit in LIMITS:
        for rival in rivals:
            for form in rival.forms:
                _equal_error(ours, rival, limit, form)
    print(
        f"\n| kB | {' | '.join([ours[0].name, *(rival.name for rival in rivals)])} |\n"
        "| --- | --- | --- | --- |"
    )
    for share in SHARES:
        mine = ours[0].at_bytes(raw // share)
        others = [largest(rival, raw // share, offered(rival)) for rival in rivals]
        print(
            f"| {raw / share / 1000:.0f} (1/{share}) | {mine.error:.4f} | "
            f"{' | '.join(_error(point) for point in others)} |",
            flush=True,
        )


def offered(rival: Rival) -> tuple[str, ...]:
    """Return the forms that the tool itself offers."""
    return tuple(form for form in rival.forms if not form.startswith("cast"))


def _equal_error(ours: Sequence[Ours], rival: Rival, limit: float, form: str) -> None:
    theirs = cheapest(rival, limit, form)
    if theirs is None:
        print(f"| {limit:g} | {rival.name} | never, {form} | - | - | - | - | - | - |", flush=True)
        return
    equal = [tool.point(max(theirs.error, SMALLEST)).size_bytes for tool in ours]
    ratios = " | ".join(f"{size / 1000:.0f} | {theirs.size_bytes / size:.1f}" for size in equal)
    print(
        f"| {limit:g} | {rival.name} | {theirs.setting} | {theirs.error:.4f} | "
        f"{theirs.size_bytes / 1000:.0f} | {ratios} |",
        flush=True,
    )


def _error(point: Point | None) -> str:
    return f"{point.error:.4f} ({point.setting})" if point is not None else "more even with k = 1"


if __name__ == "__main__":
    main()
