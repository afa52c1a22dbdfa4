"""`demo`: a tour on real adapters that ship with the project.

Every figure it prints is measured while it runs.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from share_registry.cli.output import Printed, terminal_width
from share_registry.cli.session import session
from share_registry.cli.typed_path import TypedPath
from share_registry.cli.verb import free_verb
from share_registry.errors import RefusedError, ensure
from share_registry.look.units import percent, size, typed_percent
from share_registry.outside.files import Outside
from share_registry.values.sheet import as_text, sheet_of

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
        self.say(f"$ share-registry {typed}\n{as_text(sheet_of(result), width=terminal_width())}")

    def commit(self, registry: "Registry", task: str, version: str, message: str) -> "Commit":
        """Commit one of the adapters that ship, and print what that gave."""
        commit = registry.commit(
            DATA / task / version,
            task=task,
            message=message,
            author="demo",
            labels={"corpus": "wordnet"},
        )
        self.say(f"  {commit.ref}  {commit.report}")
        return commit


@free_verb
@click.argument("directory", required=False, type=TypedPath())
def demo(*, directory: Path | None) -> Printed:
    """Take a tour with the adapters that ship.

    Works in DIRECTORY, which must be new or empty, or in a new temporary one, and leaves it there
    to play with.
    """
    outside, asked = Outside(), session()
    if directory is None:
        directory = outside.temporary_directory("share-registry-demo-")
    else:
        outside.make_directory(outside.absolute(directory))
        ensure(
            not outside.names(directory),
            RefusedError(f"{directory} is not empty.", hint="Give a new or an empty directory."),
        )
    say = _say_nothing if asked.json or asked.quiet else _say_paragraph
    return run(Tour(root=directory, say=say))


def run(tour: Tour) -> Printed:
    """Run the tour and return what was measured."""
    from share_registry.registry.registry import Registry

    outside = Outside()
    begin = outside.monotonic()
    with Registry.open(tour.root / "registry") as registry:
        commits = [*_commits(tour, registry)]
        tour.say("The log of the space, newest first:")
        tour.do("log", registry.log())
        worst = max(registry.tasks(), key=lambda task: task.error)
        tour.say(f"The largest error of all is that of {worst.ref}. Its report, module by module:")
        tour.do(f"show {worst.ref}", registry.show(worst.ref))
        _move_alias(tour, registry)
        same_bytes = _travel_in_time(tour, registry)
        report = registry.verify("deep")
        tour.say(
            "Every record, every byte and every version, decoded again and compared with what its "
            "commit says:"
        )
        tour.do("verify --level deep", report)
    reports = [report for commit in commits for report in commit.reports.values()]
    sizes = {
        "raw_bytes": sum(report.raw_bytes for report in reports),
        "store_bytes": sum(
            outside.size(path) or 0
            for path in outside.files_below(tour.root / "registry")
            if not path.name.startswith("catalog.sqlite")
        ),
    }
    error = max(report.error for report in reports)
    budget = max(report.budget or 0.0 for report in reports)
    members = {
        "directory": tour.root,
        "adapters": len(reports),
        **sizes,
        "largest_error": error,
        "budget": budget,
        "same_bytes_later": same_bytes,
        "verified": report.ok,
        "seconds": round(outside.monotonic() - begin, 1),
    }
    tour.say(
        "Now try:\n"
        f"  export SHARE_REGISTRY_URI={tour.root / 'registry'}\n"
        "  share-registry ls\n"
        f"  share-registry diff {_GLOSS}@v1 {_GLOSS}@v2\n"
        f"  share-registry checkout {_GLOSS}@prod -o work/\n"
        "  share-registry commit PATH/TO/YOUR/ADAPTER\n"
    )
    return Printed(
        title="Measured in this run:",
        members=members,
        refs=tuple(ref for commit in commits for ref in commit.refs.values()),
        detailed=True,
        shown={
            **{name: size(count) for name, count in sizes.items()},
            "largest_error": percent(error),
            "budget": typed_percent(budget),
        },
    )


def _commits(tour: Tour, registry: "Registry") -> Iterator["Commit"]:
    tour.say(
        "Four adapters of one base model, each trained from a seed of its own: nearly all of what "
        "they save comes from the precision that the budget allows."
    )
    for task in TASKS:
        yield tour.commit(registry, task, "v1", "first training")
    tour.say(
        f"{_GLOSS} is trained further, twice: rows are coded against rows of earlier versions "
        "where that is cheaper."
    )
    for version in ("v2", "v3"):
        yield tour.commit(registry, _GLOSS, version, f"continued as {version}")
    tour.say(
        "The four tasks trained again, all from one seed: their A factors start equal, so rows may "
        "be coded against those of the others. One commit, all or nothing."
    )
    commit = registry.commit_many(
        {f"{task}-s42": DATA / task / "s42" for task in TASKS},
        message="one seed for all",
        author="demo",
    )
    for task, report in commit.reports.items():
        tour.say(f"  {commit.refs[task]}  {report}")
    yield commit


def _move_alias(tour: Tour, registry: "Registry") -> None:
    tour.say(
        "An alias says which version is live. Moves are commits too, so the log knows who moved it "
        "and why."
    )
    for version, reason in ((2, "first release"), (3, "better on the test set")):
        moved = registry.set_alias(f"{_GLOSS}@v{version}", "prod", reason=reason)
        tour.say(f"  {_GLOSS}@prod -> v{version} in c{moved.number}: {reason}")
    tour.do(f"alias-history {_GLOSS} prod", registry.alias_history(_GLOSS, "prod"))
    tour.do(f"lineage {_GLOSS}@prod", registry.lineage(f"{_GLOSS}@prod"))


def _travel_in_time(tour: Tour, registry: "Registry") -> bool:
    tour.say(
        "Back in time: what was live before, the task as it was at its first commit, and its "
        "files, which never change whatever is committed later."
    )
    first = registry.resolve(f"{_GLOSS}@v1")
    for ref in (f"{_GLOSS}@prod~1", f"{_GLOSS}@c{first.number}"):
        tour.do(f"resolve {ref}", registry.resolve(ref))
    before = registry.export(f"{_GLOSS}@v1", tour.root / "serve")
    tour.do(f"export {_GLOSS}@v1 {tour.root / 'serve'}", before)
    registry.restore(f"{_GLOSS}@v1")
    after = registry.export(f"{_GLOSS}@v1", tour.root / "again")
    same = before.digest == after.digest
    tour.say(
        "  exported again after another commit: "
        f"{'the same bytes' if same else 'DIFFERENT BYTES'}, digest {after.digest[:16]}"
    )
    return same


def _say_paragraph(paragraph: str) -> None:
    click.echo(paragraph if paragraph.startswith("  ") else f"\n{paragraph}")


def _say_nothing(paragraph: str) -> None: ...
