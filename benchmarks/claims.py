"""The page docs/claims.md: what shared bases save once the basis is counted, from shapes alone.

    python -m benchmarks.claims [--write]

Nothing is measured or loaded here: a collection is a list of matrix shapes, a rank, a basis size
and a number of tasks, and the rest is multiplication.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Final

PAGE: Final = Path(__file__).parents[1] / "docs" / "claims.md"
BYTES: Final = 4
"""fp32, as the figures of the paper are."""
STATED_MB: Final = 81.6
"""What the paper gives for six LoRA adapters on disk.

It is larger than their factors, so something else is in it (classification heads, for one).
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """Adapters of one shape in a shared basis.

    Attributes:
        name: What it is called in the tables.
        shapes: (out, in) of the adapted matrices.
        rank: Rank of the adapters.
        k: Directions of the basis per matrix and side.
        p: Columns of coefficients per matrix and side.
        tasks: Number of adapters.
    """

    name: str
    shapes: Sequence[tuple[int, int]]
    rank: int
    k: int
    p: int
    tasks: int

    @property
    def adapter(self) -> int:
        """Numbers in one adapter."""
        return self.rank * self._sides

    @property
    def basis(self) -> int:
        """Numbers in the basis."""
        return self.k * self._sides

    @property
    def coefficients(self) -> int:
        """Numbers that one task adds."""
        return 2 * len(self.shapes) * self.k * self.p

    @property
    def break_even(self) -> int:
        """Smallest number of adapters that take more than basis and coefficients together."""
        return ceil(self.basis / (self.adapter - self.coefficients) + 1e-9)

    def ratio(self, tasks: int | None) -> float:
        """Return numbers of all adapters over basis and coefficients.

        Without a number of tasks, what it tends to.
        """
        return (
            self.adapter / self.coefficients
            if tasks is None
            else tasks * self.adapter / (self.basis + tasks * self.coefficients)
        )

    @property
    def _sides(self) -> int:
        return sum(out + width for out, width in self.shapes)


ROBERTA: Final = ((768, 768),) * 24
MISTRAL: Final = ((4096, 4096), (1024, 4096), (1024, 4096)) * 32
GLUE_8: Final = Setting(name="GLUE, adapters of r = 8", shapes=ROBERTA, rank=8, k=32, p=8, tasks=6)
GLUE_32: Final = Setting(
    name="GLUE, adapters of r = 32", shapes=ROBERTA, rank=32, k=32, p=8, tasks=6
)
LOTS: Final = Setting(
    name="Mistral-7B q, k, v, r = 16", shapes=MISTRAL, rank=16, k=256, p=16, tasks=500
)
LOTS_5: Final = Setting(name="the same, p = 5", shapes=MISTRAL, rank=16, k=256, p=5, tasks=500)
SETTINGS: Final = (GLUE_8, GLUE_32, LOTS, LOTS_5)


def main() -> None:
    """Print the page, or write it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true", help=f"write docs/{PAGE.name}")
    if parser.parse_args().write:
        PAGE.write_text(page(), encoding="utf-8")
    else:
        print(page(), end="")


def page() -> str:
    """Return the page in Markdown."""
    return _TEXT.format(
        claims=_table(
            ("claim", "what is divided by what", "that ratio", "with the basis"), _claims()
        ),
        sizes=_table(
            (
                "setting",
                "one adapter",
                "basis",
                "coefficients of one task",
                "adapters",
                "ratio without the basis",
                "with it",
                "pays from",
            ),
            _sizes(),
        ),
        growth=_table(("adapters", *(f"{setting.name}" for setting in SETTINGS)), _growth()),
        glue_8=GLUE_8.break_even,
        glue_32=GLUE_32.break_even,
        lots=LOTS.break_even,
        limit=f"{LOTS.ratio(None):.0f}",
    )


def _claims() -> list[tuple[str, ...]]:
    coefficients = 6 * GLUE_32.coefficients * BYTES / 1e6
    with_basis = coefficients + GLUE_32.basis * BYTES / 1e6
    factors = 6 * GLUE_32.adapter * BYTES / 1e6
    return [
        (
            "100x fewer parameters",
            (
                f"an adapter of r = 32 ({GLUE_32.adapter:,}) by one task's coefficients "
                f"({GLUE_32.coefficients:,})"
            ),
            *_twice(GLUE_32),
        ),
        (
            "the same",
            (
                f"an adapter of r = 8, which is what was put into the basis ({GLUE_8.adapter:,}), by "
                "the same"
            ),
            *_twice(GLUE_8),
        ),
        (
            "281x less memory",
            (
                f"{STATED_MB} MB, stated for six adapters, by six tasks' coefficients "
                f"({coefficients:.2f} MB)"
            ),
            f"{STATED_MB / coefficients:.0f}x",
            f"{STATED_MB / with_basis:.0f}x ({with_basis:.2f} MB)",
        ),
        (
            "the same",
            f"the factors of six adapters of r = 32 ({factors:.1f} MB) by the same",
            f"{factors / coefficients:.0f}x",
            f"{factors / with_basis:.1f}x",
        ),
    ]


def _twice(setting: Setting) -> tuple[str, str]:
    return (
        f"{setting.ratio(None):.0f}x",
        f"{setting.ratio(setting.tasks):.1f}x for {setting.tasks} tasks",
    )


def _sizes() -> list[tuple[str, ...]]:
    return [
        (
            setting.name,
            *(
                _megabytes(numbers)
                for numbers in (setting.adapter, setting.basis, setting.coefficients)
            ),
            str(setting.tasks),
            f"{setting.ratio(None):.0f}x",
            f"{setting.ratio(setting.tasks):.1f}x",
            f"{setting.break_even} adapters",
        )
        for setting in SETTINGS
    ]


def _growth() -> list[tuple[str, ...]]:
    return [
        (str(tasks), *(f"{setting.ratio(tasks):.2f}x" for setting in SETTINGS))
        for tasks in (1, 6, 20, 100, 500, 5000)
    ]


def _megabytes(numbers: int) -> str:
    return f"{numbers * BYTES / 1e6:,.2f} MB"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))


_TEXT: Final = """# What "100x" and "281x" count

The paper on shared subspaces for LoRA (Share, arXiv 2602.06043) keeps one basis for all tasks and a few coefficients per task. Its two best-known figures count the coefficients and
leave the basis out. Both numbers are right as ratios of what they divide; neither is what a disk or a GPU sees. This page separates the two parts, from the shapes of the matrices
alone: nothing here is measured, and nothing is said about quality.

{claims}

## The parts

In fp32, without any coding. An adapter of rank r is r rows of every input and output width; the basis has k rows in their place; a task has k x p coefficients per matrix and side.
"Pays from" is the number of adapters at which basis and coefficients together first take less than the adapters themselves, about k / r when p = r.

{sizes}

## As the collection grows

Size of the plain adapters over size of basis and coefficients. Below 1 the shared form is the larger one.

{growth}

So a shared basis of the paper's size pays from {glue_8} adapters of r = 8 on GLUE ({glue_32} if r = 32 is what it is compared with) and from {lots} on Mistral-7B, and there it tends to
{limit}x however many tasks arrive. Larger ratios need a basis that is small beside the matrices, or fewer columns than the adapters have ranks (p < r): both lose accuracy, which
is what the error budget is for. The sizes that `share-registry` prints have the basis in them.

Made by `python -m benchmarks.claims --write`; the shapes are 24 query and value matrices of 768 x 768 (roberta-base), and q, k, v of 32 layers, 4096 x 4096 and twice 1024 x 4096
(Mistral-7B).
"""


if __name__ == "__main__":
    main()
