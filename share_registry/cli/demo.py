"""`demo`: a tour on real adapters that ship with the project.

Every figure it prints is measured while it runs.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from share_registry.cli.output import Printed
from share_registry.cli.verb import free_verb, session
from share_registry.errors import RefusedError
from share_registry.outside.files import Outside

if TYPE_CHECKING:
    from share_registry.registry.registry import Registry
    from share_registry.values.commits import Commit

DATA: Final = Path(__file__).parents[1] / "demo_data"
TASKS: Final = ("wn-noun-abstract", "wn-pos-gloss", "wn-syn-ant", "wn-verb-frame")
_GLOSS: Final = "wn-pos-gloss"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tour:
    """One run of the demo.

    Attributes:
        root: Directory that everything is written into.
        say: Prints a paragraph.
    """

    root: Path
    say: Callable[[str], None]

    def do(self, typed: str, result: object) -> None:
        """Print a command and its result."""
        from share_registry.values import sheet

        self.say(f"$ share-registry {typed}\n{sheet.text(sheet.sheet_of(result))}")


@free_verb
@click.argument("directory", required=False, type=click.Path(path_type=Path, file_okay=False))
def demo(*, directory: Path | None) -> Printed:
    """Take a tour with the adapters that ship.

    Works in DIRECTORY, which must be new or empty, or in a new temporary one, and leaves it there
    to play with.
    """
    asked = session()
    silent = asked.json or asked.quiet
    tour = Tour(root=_place(directory), say=_nothing if silent else _paragraph)
    return run(tour)


def run(tour: Tour) -> Printed:
    """Run the tour and return what was measured."""
    from share_registry.registry.registry import Registry

    outside = Outside()
    begin = outside.monotonic()
    with Registry.open(tour.root / "registry") as registry:
        commits = [*_alone(tour, registry), *_continued(tour, registry), *_together(tour, registry)]
        tour.say("The log of the space, newest first:")
        tour.do("log", registry.log())
        _worst(tour, registry)
        _alias(tour, registry)
        same = _travel(tour, registry)
        report = registry.verify("deep")
        tour.say(
            "Every record, every byte and every version, decoded again and compared with what its commit says:"
        )
        tour.do("verify --level deep", report)
    printed = _measured(tour, commits, same=same, ok=report.ok, seconds=outside.monotonic() - begin)
    _next(tour)
    return printed


def _alone(tour: Tour, registry: "Registry") -> list["Commit"]:
    tour.say(
        "Four adapters of one base model, each trained from a seed of its own: nearly all of what they save comes from the precision that the budget allows."
    )
    made = []
    for task in TASKS:
        made.append(
            registry.commit(
                DATA / task / "v1",
                task=task,
                message="first training",
                author="demo",
                labels={"corpus": "wordnet"},
            )
        )
        tour.say(f"  {made[-1].ref}  {made[-1].report}")
    return made


def _continued(tour: Tour, registry: "Registry") -> list["Commit"]:
    tour.say(
        f"{_GLOSS} is trained further, twice: rows are coded against rows of earlier versions where that is cheaper."
    )
    made = []
    for version in ("v2", "v3"):
        made.append(
            registry.commit(
                DATA / _GLOSS / version,
                task=_GLOSS,
                message=f"continued as {version}",
                author="demo",
            )
        )
        tour.say(f"  {made[-1].ref}  {made[-1].report}")
    return made


def _together(tour: Tour, registry: "Registry") -> list["Commit"]:
    tour.say(
        "The four tasks trained again, all from one seed: their A factors start equal, so rows may be coded against those of the others. One commit, all or nothing."
    )
    made = registry.commit_many(
        {f"{task}-s42": DATA / task / "s42" for task in TASKS},
        message="one seed for all",
        author="demo",
    )
    for task, report in made.reports.items():
        tour.say(f"  {made.refs[task]}  {report}")
    return [made]


def _worst(tour: Tour, registry: "Registry") -> None:
    worst = max(registry.tasks(), key=lambda task: task.error)
    tour.say(f"The largest error of all is that of {worst.ref}. Its report, module by module:")
    tour.do(f"show {worst.ref}", registry.show(worst.ref))


def _alias(tour: Tour, registry: "Registry") -> None:
    tour.say(
        "An alias says which version is live. Moves are commits too, so the log knows who moved it and why."
    )
    for version, reason in ((2, "first release"), (3, "better on the test set")):
        moved = registry.set_alias(f"{_GLOSS}@v{version}", "prod", reason=reason)
        tour.say(f"  {_GLOSS}@prod -> v{version} in c{moved.number}: {reason}")
    tour.do(f"alias-history {_GLOSS} prod", registry.alias_history(_GLOSS, "prod"))
    tour.do(f"lineage {_GLOSS}@prod", registry.lineage(f"{_GLOSS}@prod"))


def _travel(tour: Tour, registry: "Registry") -> bool:
    """Export v1 before and after one more commit; tell whether the bytes are the same."""
    tour.say(
        "Back in time: what was live before, the task as it was at its first commit, and its files, which never change whatever is committed later."
    )
    first = registry.resolve(f"{_GLOSS}@v1")
    tour.do(f"resolve {_GLOSS}@prod~1", registry.resolve(f"{_GLOSS}@prod~1"))
    tour.do(f"resolve {_GLOSS}@c{first.number}", registry.resolve(f"{_GLOSS}@c{first.number}"))
    before = registry.export(f"{_GLOSS}@v1", tour.root / "serve")
    tour.do(f"export {_GLOSS}@v1 {tour.root / 'serve'}", before)
    registry.restore(f"{_GLOSS}@v1")
    after = registry.export(f"{_GLOSS}@v1", tour.root / "again")
    same = before.digest == after.digest
    tour.say(
        f"  exported again after another commit: {'the same bytes' if same else 'DIFFERENT BYTES'}, digest {after.digest[:16]}"
    )
    return same


def _measured(
    tour: Tour, commits: list["Commit"], *, same: bool, ok: bool, seconds: float
) -> Printed:
    reports = [report for commit in commits for report in commit.reports.values()]
    outside = Outside()
    store = sum(
        outside.size(path) or 0
        for path in outside.files_below(tour.root / "registry")
        if not path.name.startswith("catalog.sqlite")
    )
    members = {
        "directory": tour.root,
        "adapters": len(reports),
        "raw_bytes": sum(report.raw_bytes for report in reports),
        "store_bytes": store,
        "largest_error": max(report.error for report in reports),
        "budget": max(report.budget or 0.0 for report in reports),
        "same_bytes_later": same,
        "verified": ok,
        "seconds": round(seconds, 1),
    }
    return Printed(
        title="Measured in this run:",
        members=members,
        refs=tuple(ref for commit in commits for ref in commit.refs.values()),
        detailed=True,
    )


def _next(tour: Tour) -> None:
    place = tour.root / "registry"
    tour.say(
        "Now try:\n"
        f"  export SHARE_REGISTRY_URI={place}\n"
        "  share-registry ls\n"
        f"  share-registry diff {_GLOSS}@v1 {_GLOSS}@v2\n"
        f"  share-registry checkout {_GLOSS}@prod -o work/\n"
        "  share-registry commit PATH/TO/YOUR/ADAPTER\n"
    )


def _place(directory: Path | None) -> Path:
    outside = Outside()
    if directory is None:
        return outside.temporary_directory("share-registry-demo-")
    if outside.names(directory):
        raise RefusedError(f"{directory} is not empty.", hint="Give a new or an empty directory.")
    return directory


def _paragraph(text: str) -> None:
    click.echo(text if text.startswith("  ") else f"\n{text}")


def _nothing(text: str) -> None:
    """Say nothing."""
