"""Bits per parameter at several error budgets, over the Gaussian bound for the same error.

    python -m benchmarks.bits [FOLDER ...] [--layers L] [--references]

Each FOLDER is a PEFT directory, or holds some below it; without one, the adapters that ship with
the project. Counted is everything that a commit adds to the store (adapter object, layout, note,
record) but config and attachments, which stand beside it; without references, unless they are asked
for. The second collection has the shapes of Mistral-7B's query and value projections at rank 16,
with L of its 32 layers, random directions and the spectrum measured on the real adapters (mean of
the singular values of dW, and of how much modules differ). The bound is reverse water-filling over
Gaussian rows.
"""

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch

import share_registry as sr
from benchmarks.adapters import write_decaying
from benchmarks.counting import measure_bytes, task_names
from share_registry.algebra.rate_distortion import bound
from share_registry.exchange.importers.formats import read_place
from share_registry.outside.files import Outside

DEMO: Final = Path(sr.__file__).parent / "demo_data"
BUDGETS: Final = (0.01, 0.05, 0.10, 0.30)
ASKED: Final = (1.3, 1.3, 1.3, 1.6)
ASKED_LARGE: Final = 1.2
MISTRAL: Final = {"q_proj": (4096, 4096), "v_proj": (1024, 4096)}
PROFILE: Final = (
    1.0,
    0.39,
    0.23,
    0.18,
    0.15,
    0.12,
    0.105,
    0.09,
    0.08,
    0.07,
    0.06,
    0.055,
    0.05,
    0.044,
    0.038,
    0.03,
)
"""Singular values of dW over the largest of the module: geometric means of real ones, r = 16."""
SPREAD: Final = 0.75
"""Standard deviation of the logarithm of |dW|^2 over the modules of a real adapter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One adapter at one budget."""

    bits: float
    bound: float
    beside: int

    @property
    def ratio(self) -> float:
        """Bits over the bound."""
        return self.bits / self.bound


def main() -> None:
    """Print a table of the real adapters and one of the large shapes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="*", type=Path, default=[DEMO])
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument(
        "--references",
        action="store_true",
        help="let adapters refer to earlier ones, as spaces do by default",
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    folders = [
        folder
        for root in options.folders
        for folder in sorted(path.parent for path in root.rglob("adapter_config.json"))
    ]
    _table(folders, ASKED, references=options.references)
    with tempfile.TemporaryDirectory() as place:
        print(f"\nMistral-7B shapes, q and v, r = 16, {options.layers} of 32 layers\n")
        large = write_decaying(
            Path(place) / "large",
            shapes=MISTRAL,
            profile=PROFILE,
            spread=SPREAD,
            layers=options.layers,
        )
        _table([large], (ASKED_LARGE,) * len(BUDGETS), references=False)


def _table(folders: Sequence[Path], asked: Sequence[float], *, references: bool) -> None:
    columns = [_column(folders, budget, references) for budget in BUDGETS]
    print(
        "| adapter | "
        + " | ".join(f"{100 * budget:g} %" for budget in BUDGETS)
        + " | config and attachments, kB |"
    )
    print("| --- |" + " --- |" * (len(BUDGETS) + 1))
    for name, *rows in zip(task_names(folders), *columns, strict=True):
        cells = " | ".join(f"{row.bits:.2f} / {row.bound:.2f} = {row.ratio:.3f}" for row in rows)
        print(f"| {name} | {cells} | {rows[0].beside / 1000:.1f} |")
    means = [
        (_mean([row.bits for row in rows]), _mean([row.bound for row in rows])) for rows in columns
    ]
    cells = " | ".join(f"{bits:.2f} / {least:.2f} = {bits / least:.3f}" for bits, least in means)
    print(f"| **mean** | {cells} | |")
    print(
        "| **worst ratio** | "
        f"{' | '.join(f'{max(row.ratio for row in rows):.3f}' for rows in columns)} | |"
    )
    print(f"| asked for | {' | '.join(f'<= {limit:g}' for limit in asked)} | |", flush=True)


def _column(folders: Sequence[Path], budget: float, references: bool) -> list[Row]:
    with tempfile.TemporaryDirectory() as place:
        measured = measure_bytes(
            Path(place) / "registry",
            folders,
            policy=sr.Policy(budget=budget, references=references),
        )
    bounds = [_parameters_and_bound(folder, budget) for folder in folders]
    return [
        Row(bits=8 * item.counted / parameters, bound=least, beside=item.beside)
        for item, (parameters, least) in zip(measured, bounds, strict=True)
    ]


def _parameters_and_bound(folder: Path, budget: float) -> tuple[int, float]:
    adapter = read_place(folder, outside=Outside())
    pairs = adapter.factor_pairs()
    return sum(pair.a.numel() + pair.b.numel() for pair in pairs), bound(pairs, budget=budget)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


if __name__ == "__main__":
    main()
