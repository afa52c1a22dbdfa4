"""The paper's protocol beside a full SVD at every step, and the default policy's promises.

Both on real adapters, the promises after every commit.

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
from benchmarks.adapters import write_bare
from benchmarks.counting import task_names
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
        folders = write_bare(
            [folder for folder in common_shape(options.corpus) if folder.name == VERSION],
            Path(place) / "bare",
        )
        print(
            "| k | tasks | mean error | by full SVD | worst error | by full SVD | largest "
            "difference of a task | recorded below true |\n" + "| --- " * 8 + "|"
        )
        for k in options.k:
            print(f"| {k} | {' | '.join(_share(Path(place) / f'k{k}', folders, k))} |", flush=True)
    with tempfile.TemporaryDirectory() as place:
        _default(Path(place), common_shape(options.corpus))


def _share(place: Path, folders: Sequence[Path], k: int) -> list[str]:
    """Return a row: the errors of the library and of dense arithmetic after the last arrival."""
    names = task_names(folders)
    originals = {name: factors_of(folder) for name, folder in zip(names, folders, strict=True)}
    with sr.Registry.open(place) as registry:
        space = registry.create_space("all", policy=sr.Policy.share(k=k))
        for name, folder in zip(names, folders, strict=True):
            space.commit(folder, task=name, allow_base_mismatch=True)
        errors = {
            name: error(factors_of(registry.export(name, place / "out").path), originals[name])
            for name in names
        }
        recorded = {name: registry.show(name).reports[name].error for name in names}
    dense = {
        name: error(factors, originals[name]) for name, factors in _dense(originals, k).items()
    }
    worst = max(abs(errors[name] - dense[name]) for name in names)
    broken = sum(recorded[name] < errors[name] * (1 - 1e-6) for name in names)
    return [
        str(len(names)),
        *(
            f"{value:.5f}"
            for value in (_mean(errors), _mean(dense), max(errors.values()), max(dense.values()))
        ),
        f"{worst:.1e}",
        f"{broken} of {len(names)}",
    ]


def _dense(originals: Mapping[str, Factors], k: int) -> dict[str, Factors]:
    """Return every adapter as the protocol leaves it at the end, from full matrices alone."""
    adapters: dict[str, Factors] = {}
    weights = {name: 1.0 / _energy(factors) for name, factors in originals.items()}
    for name, factors in originals.items():
        adapters[name] = factors
        for module in factors:
            axes_a = _leading(
                [
                    sqrt(weights[task]) * torch.linalg.qr(mine[module][1]).R @ mine[module][0]
                    for task, mine in adapters.items()
                ],
                k,
            )
            axes_b = _leading(
                [
                    sqrt(weights[task]) * torch.linalg.qr(mine[module][0].mT).R @ mine[module][1].mT
                    for task, mine in adapters.items()
                ],
                k,
            )
            for task, mine in adapters.items():
                a, b = mine[module]
                projected = a @ axes_a.mT @ axes_a, axes_b.mT @ (axes_b @ b)
                adapters[task] = {**mine, module: projected}
    return adapters


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
            for ref, (original, budget) in sources.items():
                exported = registry.export(ref, place / "out")
                measured = error(factors_of(exported.path), original)
                changed += digests.setdefault(ref, exported.digest) != exported.digest
                over += measured > budget
                worst, checks = max(worst, measured / budget), checks + 1
    print(
        f"\nDefault policy: {len(folders)} commits, {checks} exports in between: {changed} "
        f"changed, {over} over budget; largest error {worst:.4f} of the budget"
    )


def _mean(values: Mapping[str, float]) -> float:
    return sum(values.values()) / len(values)


if __name__ == "__main__":
    main()
