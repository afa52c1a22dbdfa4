"""Where sharing pays and where it does not.

Bytes with references on and off, one after another and in one commit.

    python benchmarks/sharing.py [--corpus CORPUS] [--small]

Without --corpus the real adapters are those that ship with the project. Of the planted collection
the adapter objects are compared; elsewhere everything that the store holds but config and
attachments, bases included.
"""

import argparse
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import share_registry as sr
from benchmarks.adapters import write_independent, write_planted
from benchmarks.counting import measure_bytes, measure_bytes_together
from benchmarks.rivals import factors_of
from share_registry.format.records import AbsorbRecord, parse_record
from share_registry.names import CommitNumber

DEMO: Final = Path(sr.__file__).parent / "demo_data"
BUDGET: Final = 0.05


def main() -> None:
    """Measure and print one table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--corpus", type=Path, default=None)
    parser.add_argument("--small", action="store_true", help="a quarter of the synthetic sizes")
    options = parser.parse_args()
    real = options.corpus / "dev" if options.corpus else DEMO
    print("| collection | measure | value | asked for |\n| --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as place:
        for row in (
            *_planted(Path(place), options.small),
            *_seed(real),
            *_versions(real),
            *_nothing(Path(place), options.small),
        ):
            print(f"| {' | '.join(row)} |", flush=True)


Row = tuple[str, str, str, str]


def sizes(
    folders: Sequence[Path],
    *,
    names: Sequence[str] | None = None,
    references: bool = True,
    budget: float = BUDGET,
) -> list[int]:
    """Commit adapters one after another to one space.

    Return the bytes of each one's adapter object.
    """
    with (
        tempfile.TemporaryDirectory() as place,
        sr.Registry.open(Path(place) / "registry") as registry,
    ):
        space = registry.create_space("s", policy=sr.Policy(budget=budget, references=references))
        called = names or [f"t{number}" for number in range(len(folders))]
        return [
            _size(registry, space.commit(folder, task=name, allow_base_mismatch=True))
            for folder, name in zip(folders, called, strict=True)
        ]


def _size(registry: sr.Registry, commit: sr.Commit) -> int:
    record = parse_record(
        registry.context.store.record(commit.space, CommitNumber(commit.number)) or b""
    )
    assert isinstance(record, AbsorbRecord)
    return registry.context.store.size(record.tasks[0].adapter) or 0


def _planted(root: Path, small: bool) -> Iterable[Row]:
    count, width = (16, 256) if small else (64, 1024)
    folders = write_planted(
        root / "planted", count=count, rank=16, width=width, shared=32, noise=0.01
    )
    measured = sizes(folders)
    late = measured[count // 2 :]
    yield (
        f"planted, N = {count}, r = 16, {width} wide, 32 shared rows, 1 % noise",
        f"adapters {count // 2 + 1} to {count}, largest over adapter 1",
        f"{max(late) / measured[0]:.3f}",
        "< 0.333",
    )
    yield (
        "the same",
        f"adapters {count // 2 + 1} to {count}, mean over adapter 1",
        f"{sum(late) / len(late) / measured[0]:.3f}",
        "",
    )


def _seed(real: Path) -> Iterable[Row]:
    folders = sorted(path.parent for path in real.glob("*/s42/adapter_config.json"))
    apart = counted(folders, policy=sr.Policy(budget=BUDGET, references=False))
    name = f"{len(folders)} real adapters of one seed"
    yield (
        name,
        "one after another, over no sharing",
        f"{counted(folders, policy=sr.Policy(budget=BUDGET)) / apart:.3f}",
        "<= 0.90 (12 adapters)",
    )
    objects = sum(sizes(folders)) / sum(sizes(folders, references=False))
    yield (
        "the same",
        "one after another, adapter objects without notes and records",
        f"{objects:.3f}",
        "<= 0.90 (12 adapters)",
    )
    with tempfile.TemporaryDirectory() as place:
        together = measure_bytes_together(
            Path(place) / "registry", folders, policy=sr.Policy(budget=BUDGET)
        ).counted
    yield (
        "the same",
        "in one commit, over no sharing",
        f"{together / apart:.3f}",
        "<= 0.90 (12 adapters)",
    )


def _versions(real: Path) -> Iterable[Row]:
    folders = [real / "wn-pos-gloss" / version for version in ("v1", "v2", "v3")]
    with tempfile.TemporaryDirectory() as place:
        measured = measure_bytes(
            Path(place) / "registry", folders, policy=sr.Policy(budget=BUDGET), names=["gloss"] * 3
        )
    parameters = sum(a.numel() + b.numel() for a, b in factors_of(folders[0]).values())
    yield (
        "wn-pos-gloss v2, v3",
        "over v1",
        ", ".join(f"{item.counted / measured[0].counted:.3f}" for item in measured[1:]),
        "<= 0.60",
    )
    yield (
        "the same",
        "bits per parameter",
        ", ".join(f"{8 * item.counted / parameters:.2f}" for item in measured[1:]),
        "< 1.8",
    )


def counted(folders: Sequence[Path], *, policy: sr.Policy) -> int:
    """Return the bytes of a collection committed one after another."""
    with tempfile.TemporaryDirectory() as place:
        return sum(
            item.counted for item in measure_bytes(Path(place) / "registry", folders, policy=policy)
        )


def _nothing(root: Path, small: bool) -> Iterable[Row]:
    folders = write_independent(
        root / "nothing", count=6 if small else 12, rank=16, width=256 if small else 1024
    )
    yield (
        f"{len(folders)} adapters that share nothing",
        "references on over off",
        f"{sum(sizes(folders)) / sum(sizes(folders, references=False)):.4f}",
        "<= 1.01",
    )


if __name__ == "__main__":
    main()
