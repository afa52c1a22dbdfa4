"""Verbs about what tasks share: the basis, merging, and what there is to know of both."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from share_registry.cli.options import (
    budget_of,
    commit_of,
    expected_of,
    label_option,
    labels_of,
    metric_option,
    metrics_of,
)
from share_registry.cli.output import Printed, say
from share_registry.cli.verb import session, verb
from share_registry.errors import InvalidInputError
from share_registry.values.units import size

if TYPE_CHECKING:
    from share_registry.registry.registry import Registry
    from share_registry.values.analyses import Analysis, Retention, Similar
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
@click.option("-m", "--message", default="", metavar="TEXT", help="Why, for the log.")
@click.option("--author", metavar="NAME", help="Who commits; self-declared.")
@click.option("--dry-run", is_flag=True, help="Measure and report; commit nothing.")
def refit(registry: "Registry", /, **options: Any) -> "Commit":
    """Fit a basis to the tasks of the space, for the commits that follow.

    Stored tasks stay as they are, unless --budget or --allow-loss re-expresses them.

    \b
    share-registry refit --dry-run
    share-registry refit --max-rank 32 --budget 5%
    """
    made = registry.refit(**options)
    if options["dry_run"] and session().json:
        say("dry run: nothing was written", session())
    elif not options["dry_run"] and not made.created:
        say(f"the basis is there already, as c{made.number}", session())
    return made


@verb("r")
@click.option("--at", metavar="WHEN", help="As of a commit (c412), tag, date or time.")
def basis(registry: "Registry", /, *, at: str | None) -> Printed:
    """Show the basis that commits are coded with.

    \b
    share-registry basis --at c12
    """
    found = registry.basis(at=commit_of(at))
    ranks = {name: {"k_a": a, "k_b": b} for name, (a, b) in found.ranks.items()}
    ends = [(min(values), max(values)) for values in zip(*found.ranks.values(), strict=True)]
    shown = " and ".join(
        f"{low} to {high} on side {side}" if low != high else f"{low} on side {side}"
        for side, (low, high) in zip("ab", ends, strict=True)
    )
    return Printed(
        title=f"{found.space}/@c{found.number}: a basis of {len(ranks)} modules, k = {shown}, {size(found.size_bytes)}",
        members={
            "space": found.space,
            "number": found.number,
            "digest": found.digest,
            "size_bytes": found.size_bytes,
            "modules": ranks,
        },
        refs=(f"{found.space}/@c{found.number}",),
    )


@verb("w", doing="merging")
@click.argument("parents", metavar="REF=WEIGHT...", nargs=-1, required=True)
@click.option("--task", metavar="NAME", required=True, help="Task that it becomes a version of.")
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
@click.option(
    "-m", "--message", default="", metavar="TEXT", help="What this commit is, for the log."
)
@click.option("--author", metavar="NAME", help="Who commits; self-declared.")
@label_option
@metric_option
@click.option(
    "--expected",
    metavar="VERSION",
    help="Version that must be the task's latest, or 'absent'; otherwise exit code 4.",
)
@click.option(
    "--idempotency-key", metavar="KEY", help="Running again with the same key never commits twice."
)
@click.option("--dry-run", is_flag=True, help="Measure and report; commit nothing.")
def merge(
    registry: "Registry",
    /,
    parents: Sequence[str],
    *,
    labels: Sequence[str],
    metrics: Sequence[str],
    expected: str | None,
    **options: Any,
) -> "Commit":
    """Merge task versions into one, which has them as parents.

    \b
    share-registry merge cola=0.5 sst2@v3=0.5 --task both
    share-registry merge cola=1 sst2=1 --task both --method ties --density 20%
    """
    return registry.merge(
        _weights_of(parents),
        labels=labels_of(labels),
        metrics=metrics_of(metrics),
        expected=expected_of(expected),
        **options,
    )


@verb("r", doing="reading")
@click.option("--metric", metavar="NAME", help="A recorded metric instead of the error.")
@click.option(
    "--plot",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Also draw it, as PNG, SVG or PDF.",
)
def retention(registry: "Registry", /, *, metric: str | None, plot: Path | None) -> "Retention":
    """Show the forgetting matrix: every task's error at every commit that changed a task.

    \b
    share-registry retention --plot retention.png
    """
    found = registry.retention(metric=metric)
    if plot is not None:
        found.plot(plot)
    return found


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
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Also draw explained variance and bytes against error.",
)
def analyze(registry: "Registry", /, *, budgets: Sequence[float], plot: Path | None) -> "Analysis":
    """Say what the tasks of the space share, and what that is worth.

    \b
    share-registry analyze --budget 1% --budget 5%
    """
    found = registry.analyze(budgets=budgets)
    if plot is not None:
        found.plot(plot)
    return found


@verb("r", doing="comparing")
@click.argument("adapter", metavar="ADAPTER")
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=10,
    show_default=True,
    help="At most so many, the nearest.",
)
def similar(registry: "Registry", /, adapter: str, *, limit: int) -> "Similar":
    """List the tasks nearest to ADAPTER: a PEFT directory or a reference.

    \b
    share-registry similar adapters/cola
    share-registry similar cola@v3
    """
    return registry.similar(adapter, limit=limit)


def _weights_of(pairs: Sequence[str]) -> dict[str, float]:
    """Return `ref=weight` pairs as a dict. Raises InvalidInputError."""
    found: dict[str, float] = {}
    for pair in pairs:
        ref, equals, weight = pair.rpartition("=")
        try:
            number = float(weight)
        except ValueError:
            equals = ""
            number = 0.0
        if not equals or not ref:
            raise InvalidInputError(
                f"{pair!r} is not REF=WEIGHT with a number as weight.", hint="Write cola@v3=0.5."
            )
        if ref in found:
            raise InvalidInputError(
                f"parent {ref!r} is given twice.",
                hint="Name every parent once, with its whole weight.",
            )
        found[ref] = number
    return found
