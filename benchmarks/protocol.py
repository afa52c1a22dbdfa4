"""The paper's protocol on real adapters beside a full SVD at every step, and the promises of the default policy after every commit.

    python -m benchmarks.protocol [--corpus CORPUS] [--k K ...]

Under `Policy.share(k)` adapters arrive one after another; every arrival fits the basis again and
every task is re-expressed in it. The same is done here a second time with nothing but dense
matrices: all adapters rebuilt, their energy-weighted factors stacked, one full SVD a module and
side, all projected. Errors are of the exported adapters against those given. Then the default
policy: after every commit each task at each version is exported again, its error measured, its
digest compared.
"""

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from math import sqrt
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

import share_registry as sr
from benchmarks.adapters import bare
from benchmarks.counting import called
from benchmarks.peers import DEMO, common_shape
from benchmarks.rivals import Factors, error, factors_of

VERSION: Final = "v1"


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--corpus", type=Path, default=DEMO)
    parser.add_argument("--k", type=int, nargs="*", default=[16, 32, 64])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folders = bare(
            [folder for folder in common_shape(options.corpus) if folder.name == VERSION],
            Path(place) / "bare",
        )
        print(
            "| k | tasks | mean error | by full SVD | worst error | by full SVD | largest difference of a task | recorded below true |\n"
            + "| --- " * 8
            + "|"
        )
        for k in options.k:
            print(f"| {k} | {' | '.join(_share(Path(place) / f'k{k}', folders, k))} |", flush=True)
    with tempfile.TemporaryDirectory() as place:
        _default(Path(place), common_shape(options.corpus))


def _share(place: Path, folders: Sequence[Path], k: int) -> list[str]:
    """Return a row: the errors of the library and of dense arithmetic after the last arrival."""
    names = called(folders)
    wanted = {name: factors_of(folder) for name, folder in zip(names, folders, strict=True)}
    with sr.Registry.open(place) as registry:
        space = registry.create_space("all", policy=sr.Policy.share(k=k))
        for name, folder in zip(names, folders, strict=True):
            space.commit(folder, task=name, allow_base_mismatch=True)
        found = {
            name: error(factors_of(registry.export(name, place / "out").path), wanted[name])
            for name in names
        }
        recorded = {name: registry.show(name).reports[name].error for name in names}
    dense = {name: error(factors, wanted[name]) for name, factors in _dense(wanted, k).items()}
    worst = max(abs(found[name] - dense[name]) for name in names)
    broken = sum(recorded[name] < found[name] * (1 - 1e-6) for name in names)
    return [
        str(len(names)),
        *(
            f"{value:.5f}"
            for value in (_mean(found), _mean(dense), max(found.values()), max(dense.values()))
        ),
        f"{worst:.1e}",
        f"{broken} of {len(names)}",
    ]


def _dense(wanted: Mapping[str, Factors], k: int) -> dict[str, Factors]:
    """Return every adapter as the protocol leaves it after the last arrival, from full matrices alone."""
    held: dict[str, Factors] = {}
    weights = {name: 1.0 / _energy(factors) for name, factors in wanted.items()}
    for name, factors in wanted.items():
        held[name] = factors
        for module in factors:
            axes_a = _leading(
                [
                    sqrt(weights[task]) * torch.linalg.qr(mine[module][1]).R @ mine[module][0]
                    for task, mine in held.items()
                ],
                k,
            )
            axes_b = _leading(
                [
                    sqrt(weights[task]) * torch.linalg.qr(mine[module][0].mT).R @ mine[module][1].mT
                    for task, mine in held.items()
                ],
                k,
            )
            for task, mine in held.items():
                a, b = mine[module]
                held[task] = {**mine, module: (a @ axes_a.mT @ axes_a, axes_b.mT @ (axes_b @ b))}
    return held


def _leading(parts: Sequence[Tensor], k: int) -> Tensor:
    axes: Tensor = torch.linalg.svd(torch.cat(list(parts)), full_matrices=False).Vh[:k]
    return axes


def _energy(factors: Factors) -> float:
    return sum(
        float((torch.linalg.qr(b).R @ torch.linalg.qr(a.mT).R.mT).square().sum())
        for a, b in factors.values()
    )


def _default(place: Path, folders: Sequence[Path]) -> None:
    """Commit everything at the default policy.

    After every commit, export every version there is.
    """
    digests: dict[str, str] = {}
    sources: dict[str, tuple[Factors, float]] = {}
    changed = over = checks = 0
    worst = 0.0
    with sr.Registry.open(place / "registry") as registry:
        for folder in folders:
            task = folder.parent.name if folder.name != "s42" else f"{folder.parent.name}-s42"
            commit = registry.commit(folder, task=task)
            sources[commit.ref] = factors_of(folder), commit.reports[task].budget or 0.0
            for ref, (wanted, budget) in sources.items():
                exported = registry.export(ref, place / "out")
                found = error(factors_of(exported.path), wanted)
                changed += digests.setdefault(ref, exported.digest) != exported.digest
                over += found > budget
                worst, checks = max(worst, found / budget), checks + 1
    print(
        f"\nDefault policy: {len(folders)} commits, {checks} exports in between: {changed} changed, {over} over budget; largest error {worst:.4f} of the budget"
    )


def _mean(values: Mapping[str, float]) -> float:
    return sum(values.values()) / len(values)


if __name__ == "__main__":
    main()
