"""Bits per parameter of real adapters at several error budgets, beside the Gaussian bound and the figures that were aimed at.

    python -m benchmarks.bits [FOLDER ...]

Each FOLDER is a PEFT directory, or holds some below it; without one, the adapters that ship with the project. In brackets: what reverse water-filling over
independent Gaussian rows would take. Everything in the adapter object is counted (header, table, symbols), the layout is not: it is shared.
"""

import argparse
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import torch

import share_registry
from share_registry.algebra.absorb import absorb
from share_registry.algebra.rate_distortion import bound
from share_registry.exchange.adapter import Adapter
from share_registry.exchange.pairs import Pair, pairs_of
from share_registry.exchange.read import read_directory
from share_registry.exchange.scales import module_scales
from share_registry.exchange.tensors import TORCH
from share_registry.format.adapter_object import encode
from share_registry.outside import Outside
from share_registry.registry.absorbing import assemble

DEMO: Final = Path(share_registry.__file__).parent / "demo_data"
BUDGETS: Final = (0.01, 0.05, 0.10, 0.30)
AIMS: Final = (6.22, 3.70, 2.72, 1.16)
"""Means over the twelve adapters of common shape that the method was measured on."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Print one line per adapter and the means."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path, default=[DEMO])
    torch.set_num_threads(1)
    print(f"{'adapter':40}" + "".join(f"{f'{100 * budget:g} %':>18}" for budget in BUDGETS) + "   s")
    rows = []
    for folder in _adapters(parser.parse_args(arguments).folders):
        adapter = read_directory(folder, outside=Outside())
        pairs = pairs_of(adapter.layout, adapter.tensors, module_scales(adapter.config, adapter.layout))
        start = time.perf_counter()
        found = [(bits_per_parameter(adapter, pairs, budget), bound(pairs, budget=budget)) for budget in BUDGETS]
        rows.append(found)
        _line("/".join(folder.parts[-2:]), found, f"{time.perf_counter() - start:4.1f}")
    if rows:
        _line("mean", [(_mean(row[i][0] for row in rows), _mean(row[i][1] for row in rows)) for i in range(len(BUDGETS))], "")
        _line("aimed at", [(aim, float("nan")) for aim in AIMS], "")


def bits_per_parameter(adapter: Adapter, pairs: Sequence[Pair], budget: float) -> float:
    """Return 8 * bytes of the adapter object, absorbed without references, over the parameters of its factors."""
    layout = adapter.layout
    dtypes = [(TORCH[layout.tensors[factor.a].dtype], TORCH[layout.tensors[factor.b].dtype]) for factor in layout.factors for _ in range(factor.experts)]
    factors = [number for number, factor in enumerate(layout.factors) for _ in range(factor.experts)]
    made = absorb(pairs, budget=budget, dtypes=dtypes, factors=factors)
    stored, _ = assemble(adapter, made.modules, None, ())
    return 8 * len(encode(stored, layout)) / sum(pair.a.numel() + pair.b.numel() for pair in pairs)


def _adapters(folders: Sequence[Path]) -> Iterator[Path]:
    for folder in folders:
        yield from sorted(config.parent for config in folder.rglob("adapter_config.json"))


def _mean(values: Iterator[float]) -> float:
    found = list(values)
    return sum(found) / len(found)


def _line(name: str, found: Sequence[tuple[float, float]], seconds: str) -> None:
    cells = "".join(f"{value:9.2f} ({lowest:5.2f})" if lowest == lowest else f"{value:9.2f}        " for value, lowest in found)
    print(f"{name[-40:]:40}{'  '}{cells}  {seconds}")


if __name__ == "__main__":
    main()
