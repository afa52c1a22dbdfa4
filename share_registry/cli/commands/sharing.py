"""Verbs about what tasks share: the basis, merging, and what there is to know of both."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from share_registry.cli.completion import FILES, TASK
from share_registry.cli.output import Printed, say_unless_new
from share_registry.cli.session import session
from share_registry.cli.typed_path import TypedPath
from share_registry.cli.verb import (
    author_option,
    budget_of,
    check_option,
    commit_of,
    dry_run_option,
    expected_option,
    key_option,
    label_option,
    message_option,
    metric_option,
    verb,
)
from share_registry.errors import InvalidInputError, ensure
from share_registry.look.units import size

if TYPE_CHECKING:
    from share_registry.registry.registry import Registry
    from share_registry.values.commits import Commit


@verb("w", doing="fitting")
@click.option(
    "--max-rank",
    type=click.IntRange(min=1),
    metavar="K",
    help="At most K directions per module and side.",
)
@click.option(
    "--energy",
    type=budget_of,
    metavar="SHARE",
    help="As few directions as capture this share of the energy, like 0.6 or 60%.",
)
@click.option(
    "--weighting",
    type=click.Choice(["unit", "energy"]),
    default="unit",
    help="Every task alike, or by the square of its norm.",
)
@click.option(
    "--budget",
    type=budget_of,
    metavar="ERROR",
    help="Re-express every task whose error stays within this.",
)
@click.option(
    "--allow-loss",
    is_flag=True,
    help="Re-express every task as coefficients alone, whatever error that makes.",
)
@click.option("--force", is_flag=True, help="Make a basis whatever it saves, without judging that.")
@message_option
@author_option
@dry_run_option
def refit(registry: "Registry", /, **options: Any) -> "Commit":
    """Fit a basis to the tasks, for the commits that follow.

    Stored tasks stay as they are, unless --budget or --allow-loss re-expresses them.

    \b
    share-registry refit --dry-run
    share-registry refit --max-rank 32 --budget 5%
    """
    return say_unless_new(
        registry.refit(**options),
        session(),
        dry_run=options["dry_run"],
        already="the basis is there already, as {}",
    )


@verb("r")
@click.option(
    "--at", type=commit_of, metavar="WHEN", help="As of a commit (c412), tag, date or time."
)
def basis(registry: "Registry", /, *, at: int | str | None) -> Printed:
    """Show the basis that commits are coded with.

    \b
    share-registry basis --at c12
    """
    current = registry.basis(at=at)
    ref = f"{current.space}/@c{current.number}"
    k_a, k_b = (_span(sorted(ks)) for ks in zip(*current.ranks.values(), strict=True))
    ks = f"k = {k_a} on side a and {k_b} on side b"
    return Printed(
        title=f"{ref}: a basis of {len(current.ranks)} modules, {ks}, {size(current.size_bytes)}",
        members={
            "space": current.space,
            "number": current.number,
            "digest": current.digest,
            "size_bytes": current.size_bytes,
            "modules": {name: {"k_a": a, "k_b": b} for name, (a, b) in current.ranks.items()},
        },
        refs=(ref,),
    )


def _span(ks: list[int]) -> str:
    return f"{ks[0]}" if ks[0] == ks[-1] else f"{ks[0]} to {ks[-1]}"


def _weights(_: click.Context, __: click.Parameter, pairs: Sequence[str]) -> dict[str, float]:
    weights: dict[str, float] = {}
    for pair in pairs:
        ref, _equals, weight = pair.rpartition("=")
        try:
            number = float(weight if ref else "")
        except ValueError as error:
            raise InvalidInputError(
                f"{pair!r} is not REF=WEIGHT with a number as weight.", hint="Write cola@v3=0.5."
            ) from error
        ensure(
            ref not in weights,
            InvalidInputError(
                f"parent {ref!r} is given twice.",
                hint="Name every parent once, with its whole weight.",
            ),
        )
        weights[ref] = number
    return weights


@verb("w", doing="merging")
@click.argument("parents", metavar="REF=WEIGHT...", nargs=-1, required=True, callback=_weights)
@click.option(
    "--task", type=TASK, metavar="NAME", required=True, help="Task that it becomes a version of."
)
@click.option(
    "--method",
    type=click.Choice(["linear", "ties", "dare"]),
    default="linear",
    help="Weighted sum of dW, or TIES or DARE in the common basis.",
)
@click.option(
    "--density",
    type=budget_of,
    metavar="SHARE",
    help="Share of the entries that ties and dare keep.",
)
@click.option(
    "--seed", type=click.IntRange(min=0), metavar="NUMBER", help="Of dare's random choice."
)
@click.option(
    "--budget",
    type=budget_of,
    metavar="ERROR",
    help="Largest relative error of what is stored. [the space's policy]",
)
@message_option
@author_option
@check_option
@label_option
@metric_option
@expected_option
@key_option
@dry_run_option
def merge(registry: "Registry", /, parents: dict[str, float], **options: Any) -> "Commit":
    """Merge task versions into one, which has them as parents.

    \b
    share-registry merge cola=0.5 sst2@v3=0.5 --task both
    share-registry merge cola=1 sst2=1 --task both --method ties --density 20%
    """
    return registry.merge(parents, **options)


@verb("r", doing="reading")
@click.option("--metric", metavar="NAME", help="A recorded metric instead of the error.")
@click.option(
    "--plot",
    type=TypedPath(is_output=True),
    metavar="FILE",
    help="Also draw it, as PNG, SVG or PDF.",
)
def retention(registry: "Registry", /, *, metric: str | None, plot: Path | None) -> object:
    """Show the forgetting matrix.

    It has every task's error at every commit that changed a task.

    \b
    share-registry retention --plot retention.png
    """
    matrix = registry.retention(metric=metric)
    if plot is not None:
        matrix.plot(plot)
    return matrix


@verb("r", doing="analysing")
@click.option(
    "--budget",
    "budgets",
    type=budget_of,
    multiple=True,
    default=(0.01, 0.05, 0.1, 0.3),
    metavar="ERROR",
    help="Error to predict bytes at; may be repeated.",
)
@click.option(
    "--plot",
    type=TypedPath(is_output=True),
    metavar="FILE",
    help="Also draw explained variance and bytes against error.",
)
def analyze(registry: "Registry", /, *, budgets: Sequence[float], plot: Path | None) -> object:
    """Say what the tasks share, and what that is worth.

    \b
    share-registry analyze --budget 1% --budget 5%
    """
    analysis = registry.analyze(budgets=budgets)
    if plot is not None:
        analysis.plot(plot)
    return analysis


@verb("r", doing="comparing")
@click.argument("adapter", type=FILES, metavar="ADAPTER")
@click.option(
    "--limit",
    type=click.IntRange(min=0),
    default=10,
    show_default=True,
    help="At most so many, the nearest; 0: all.",
)
def similar(registry: "Registry", /, adapter: str, *, limit: int) -> object:
    """List the tasks nearest to ADAPTER.

    ADAPTER is a PEFT directory or a reference.

    \b
    share-registry similar adapters/cola
    share-registry similar cola@v3
    """
    return registry.similar(adapter, limit=limit or None)
