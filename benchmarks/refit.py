"""A new basis after one more adapter.

From Grams and coefficients, beside the full decomposition that vlora-dev's `absorb` makes.

    python -m benchmarks.refit [--counts N ...] [--modules M] [--width D] [--rank R] [--k K] [--peer
    N] [--own N ...]

N tasks are coefficients over K rows per module and side; one adapter of R new rows arrives. Ours:
frame of the K + R rows, moments with the new task, directions, rounded rows, and apart from that
the new coefficients of all tasks, module by module. Processor seconds of the algebra on one thread,
without reading or writing; each line is a process of its own, and its peak memory is given with
what imports take. The moments of the old tasks are carried along, so only their coefficients know
how many there are.

The second table is of tasks with R rows of their own, mixtures of 32 shared ones and 5 % noise, of
which a basis of 64 directions is fitted: from nothing, and once more after one task came. Their rows
are in memory, as an adapter object has them.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from benchmarks.memory import peak_mb
from share_registry.algebra.directions import Moments, TaskCoefficients, frame, round_rows, spectrum
from share_registry.names import Digest, Side
from share_registry.registry.basis.fit import FitRule, fit
from share_registry.registry.basis.members import FitMember

PRECISION: Final = 2.0**-12
OWN_SHARED: Final = 32
OWN_NOISE: Final = 0.05
OWN_K: Final = 64
ASKED: Final = 50.0


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--counts", type=int, nargs="*", default=[10, 100, 1000])
    parser.add_argument("--modules", type=int, default=48)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument(
        "--peer", type=int, default=100, help="N at which vlora-dev is measured too; 0: not at all"
    )
    parser.add_argument(
        "--own", type=int, nargs="*", default=[10, 100, 400], help="N of the second table"
    )
    parser.add_argument("--one", nargs=2, metavar=("TOOL", "N"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.one:
        tools = {"ours": _ours, "own": _own, "vlora": _vlora}
        print(json.dumps(tools[options.one[0]](int(options.one[1]), options)))
        return
    print(
        f"{options.modules} modules, {options.width} wide, r = {options.rank}, k = {options.k}: "
        f"{options.k} + {options.rank} rows a side\n"
    )
    print(
        "| N | tool | basis, s | coefficients of all, s | together | peak MB | of it imports |\n"
        "| --- | --- | --- | --- | --- | --- | --- |"
    )
    figures = {
        count: _child("ours", count)
        for count in sorted({*options.counts, *([options.peer] if options.peer else [])})
    }
    for count, measured in figures.items():
        row = (
            f"{measured['basis']:.3f} | {measured['coefficients']:.3f} | "
            f"{measured['basis'] + measured['coefficients']:.3f} | {measured['peak']:.0f} | "
            f"{measured['imports']:.0f}"
        )
        print(f"| {count} | share_registry | {row} |", flush=True)
    if options.peer:
        peer = _child("vlora", options.peer)
        print(
            f"| {options.peer} | vlora-dev absorb | | | {peer['measured']:.3f} | "
            f"{peer['peak']:.0f} | {peer['imports']:.0f} |"
        )
        ours = figures[options.peer]
        print(
            f"\n{peer['measured'] / (ours['basis'] + ours['coefficients']):.0f} times less at N "
            f"= {options.peer} (asked for: {ASKED:.0f})"
        )
    if options.own:
        print(
            "\n| N | from nothing, s | after one more, s | peak MB | of it rows |\n"
            "| --- | --- | --- | --- | --- |"
        )
    for count in options.own:
        measured = _child("own", count)
        print(
            f"| {count} | {measured['scratch']:.2f} | {measured['carried']:.2f} |"
            f" {measured['peak']:.0f} | {measured['rows']:.0f} |",
            flush=True,
        )


def _child(tool: str, count: int) -> dict[str, float]:
    """Run one line with the same options in a process of its own."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "benchmarks.refit",
        *sys.argv[1:],
        "--one",
        tool,
        str(count),
    ]
    figures: dict[str, float] = json.loads(
        subprocess.run(
            command, check=True, capture_output=True, env=environment
        ).stdout.splitlines()[-1]
    )
    return figures


@dataclass(frozen=True, slots=True, kw_only=True)
class _Side:
    """Rows in use (k + r, m) and the coefficients (N r, k) of the old tasks over the first k."""

    rows: Tensor
    C: Tensor


def _ours(count: int, options: argparse.Namespace) -> dict[str, float]:
    imports, basis, coefficients = peak_mb(), 0.0, 0.0
    generator = torch.Generator().manual_seed(0)
    for _ in range(options.modules):
        a, b = (_state(generator, count, options) for _ in range(2))
        before = _old_moments(a, b, options)
        start = time.process_time()
        transitions = _refit(a, b, before, options.k)
        middle = time.process_time()
        for side, transition in zip((a, b), transitions, strict=True):
            _ = side.C @ transition[: options.k]
        basis, coefficients = basis + middle - start, coefficients + time.process_time() - middle
    return {"basis": basis, "coefficients": coefficients, "peak": peak_mb(), "imports": imports}


def _own(count: int, options: argparse.Namespace) -> dict[str, float]:
    """Fit a basis to tasks with rows of their own, then to one more."""
    generator = torch.Generator().manual_seed(0)
    names = [f"module.{number}" for number in range(options.modules)]
    spans = {
        (name, side): torch.randn(OWN_SHARED, options.width, generator=generator)
        for name in names
        for side in Side
    }
    rows = {
        (Digest(f"t{number}"), *place): (
            32.0 * torch.randn(options.rank, OWN_SHARED, generator=generator) @ span
            + 32.0
            * OWN_SHARED**0.5
            * OWN_NOISE
            * torch.randn(options.rank, options.width, generator=generator)
        )
        .round()
        .to(torch.int16)
        for number in range(count + 1)
        for place, span in spans.items()
    }

    def member(number: int) -> FitMember:
        key, unit = Digest(f"t{number}"), torch.eye(options.rank, dtype=torch.float64)
        return FitMember(
            key=key,
            scales=dict.fromkeys(names, 1.0),
            shapes=dict.fromkeys(names, (options.width, options.width)),
            norm=1.0,
            factor=lambda module, side: {key: unit},
            rows=lambda digest, module, side: rows[digest, module, side].double(),
        )

    members, rule = [member(number) for number in range(count + 1)], FitRule(max_rank=OWN_K)
    start = time.process_time()
    fitted = fit(members[:-1], rule, keep_moments=True)
    middle = time.process_time()
    fit(members, rule, fitted.moments)
    return {
        "scratch": middle - start,
        "carried": time.process_time() - middle,
        "peak": peak_mb(),
        "rows": sum(each.nbytes for each in rows.values()) / 1e6,
    }


def _state(generator: torch.Generator, count: int, options: argparse.Namespace) -> _Side:
    rows = torch.randn(
        options.k + options.rank, options.width, generator=generator, dtype=torch.float64
    )
    return _Side(
        rows=(rows * 1000.0).round(),
        C=torch.randn(count * options.rank, options.k, generator=generator, dtype=torch.float64),
    )


def _old_moments(a: _Side, b: _Side, options: argparse.Namespace) -> Moments:
    """Return the moments of the old tasks over the first k rows, as the refit before left them."""
    H_a, H_b = (side.rows[: options.k] @ side.rows[: options.k].mT for side in (a, b))
    moments = Moments.empty(options.k, options.k)
    for A, B in zip(torch.split(a.C, options.rank), torch.split(b.C, options.rank), strict=True):
        moments.a.add_(A.mT @ (B @ H_b @ B.mT) @ A)
        moments.b.add_(B.mT @ (A @ H_a @ A.mT) @ B)
    return moments


def _refit(a: _Side, b: _Side, before: Moments, k: int) -> tuple[Tensor, Tensor]:
    """Make the rows of both sides.

    Return what turns coefficients over the old rows into coefficients over the new directions.
    """
    frames = frame(a.rows), frame(b.rows)
    old_a, old_b = (coordinates.root[:k] for coordinates in frames)
    moments = Moments(old_a.mT @ before.a @ old_a, old_b.mT @ before.b @ old_b)
    moments.add([TaskCoefficients(A=frames[0].root[k:], B=frames[1].root[k:], weight=1.0)])
    transitions = []
    for coordinates, G in zip(frames, (moments.a, moments.b), strict=True):
        energies, U = spectrum(G)
        round_rows(coordinates.directions(U[:, :k]), energies[:k], precision=PRECISION)
        transitions.append(coordinates.root @ U[:, :k])
    return transitions[0], transitions[1]


def _vlora(count: int, options: argparse.Namespace) -> dict[str, float]:
    from vlora import LoRAWeights, SharedSubspace

    imports = peak_mb()
    generator = torch.Generator().manual_seed(0)
    names = [f"module.{number}" for number in range(options.modules)]
    spans = {
        name: (
            torch.randn(options.k, options.width, generator=generator),
            torch.randn(options.k, options.width, generator=generator),
        )
        for name in names
    }

    def adapter() -> Any:
        mixed = {
            name: [
                torch.randn(options.rank, options.k, generator=generator) @ S
                + 0.05 * torch.randn(options.rank, options.width, generator=generator)
                for S in spans[name]
            ]
            for name in names
        }
        return LoRAWeights(
            layer_names=names,
            lora_a={name: a for name, (a, _) in mixed.items()},
            lora_b={name: b.T.contiguous() for name, (_, b) in mixed.items()},
            rank=options.rank,
        )

    space = SharedSubspace.from_adapters(
        [adapter() for _ in range(count)], num_components=min(options.k, count)
    )
    new = adapter()
    start = time.process_time()
    space.absorb(new, "new")
    return {"measured": time.process_time() - start, "peak": peak_mb(), "imports": imports}


if __name__ == "__main__":
    main()
