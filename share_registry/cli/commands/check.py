"""Verbs that compare and check: what changed, what was done, whether all is there."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from share_registry.cli.completion import REF
from share_registry.cli.output import emit, watching
from share_registry.cli.session import session
from share_registry.cli.typed_path import TypedPath
from share_registry.cli.verb import (
    DIFFERENT,
    checkpoint_or_time,
    free_verb,
    sign_option,
    signatory_options,
    verb,
)
from share_registry.errors import (
    InvalidInputError,
    ShareRegistryError,
    ensure,
)
from share_registry.look.units import count

if TYPE_CHECKING:
    from share_registry.registry.registry import Registry


@verb("r")
@click.option(
    "-o",
    "--output",
    type=TypedPath(is_output=True),
    metavar="FILE",
    help="Also write it into this file, and the signature into FILE.sig.",
)
@sign_option
@click.option(
    "--expires", metavar="LENGTH", help="Refuse it after 30d, 12h, ...: there must be a later one."
)
def checkpoint(
    registry: "Registry", /, *, output: Path | None, sign: str | None, expires: str | None
) -> object:
    """Print the last commit of every space, as lines to be kept elsewhere.

    \b
    share-registry checkpoint -o checkpoint.txt
    share-registry audit --since checkpoint.txt
    share-registry checkpoint -o head.txt --sign key.pem --expires 30d
    share-registry audit --since head.txt --key key.pub
    """
    ensure(
        sign is None or output is not None or session().json,
        InvalidInputError(
            "a signature is a file of its own, and no file is named.", hint="Add -o FILE."
        ),
    )
    result = registry.checkpoint(sign=sign, expires=expires)
    if output is not None:
        result.save(output)
    return result


@verb("r", doing="reading the records")
@click.option(
    "--since",
    type=checkpoint_or_time,
    metavar="FILE|TIME",
    help="Only what came behind this checkpoint, which must be on the way, or from this time on.",
)
@click.option(
    "--until", metavar="TIME", help="Only commits at or before this date or time (its end)."
)
@click.option("--actor", metavar="NAME", help="Only commits of this author.")
@click.option("--action", metavar="KIND", help="Only commits of this kind, as `log --kind`.")
@signatory_options
def audit(registry: "Registry", /, **options: Any) -> object:
    """List what was done, oldest first, as the records say; the catalog is not believed.

    Exits with code 5 where a record is damaged or missing, the checkpoint is not on the way
    (history was rewritten) or not by whom it must be; with 7 where it has expired.
    """
    return registry.audit(**options)


@free_verb
@click.argument("a", type=REF)
@click.argument("b", type=REF)
@click.option("--exit-code", is_flag=True, help="Exit with code 9 where they differ.")
def diff(*, a: str, b: str, exit_code: bool) -> None:
    """Compare two versions, or two states of a space.

    With --exit-code the exit code is 0 where they are the same, 9 where they differ; others are
    errors.

    \b
    share-registry diff cola@v1 cola@v2
    share-registry diff @c10 @c20
    share-registry diff cola@prod cola@latest --exit-code -q
    """
    asked = session()
    with watching("comparing", asked), asked.open("r") as registry:
        difference = registry.diff(a, b)
    emit(difference, asked)
    if exit_code and difference.differs:
        click.get_current_context().exit(DIFFERENT)


@verb("r", doing="comparing")
@click.option(
    "--since",
    metavar="WHEN",
    required=True,
    help="A date or time, how long ago (12h, 7d, 2w), or with a space a commit or tag.",
)
@click.option("--until", metavar="WHEN", help="Likewise, up to then.  [default: now]")
@click.option(
    "--compare/--no-compare", default=True, help="Say by how much dW changed. [default: yes]"
)
def changes(registry: "Registry", /, *, since: str, **options: Any) -> object:
    """Show what changed, a row a task: versions, aliases, by whom.

    \b
    share-registry changes --since 7d
    share-registry -s minilm changes --since @c40 --until @c60
    """
    return registry.changes(since, **options)


@free_verb
@click.option(
    "--level",
    default="data",
    show_default=True,
    help="quick: the chains; data: every byte; deep: every version rebuilt.",
)
@click.option(
    "--shard", metavar="K/N", help="Only the K-th of N shares, for N workers: 3/8. [the whole]"
)
@click.option(
    "--subset",
    metavar="P%",
    help="Only so much, another part every day (UTC): 5% checks everything in 20 days.",
)
@click.option(
    "--turn",
    type=int,
    metavar="N",
    help="With --subset: the number of the run, which goes up by one, in place of the day's.",
)
@click.option(
    "--raise-on-damage/--no-raise-on-damage",
    default=True,
    help="Exit with code 5, 6 or 7 where something is wrong. [default: yes]",
)
def verify(
    *,
    level: str,
    shard: str | None,
    subset: str | None,
    turn: int | None,
    raise_on_damage: bool,
) -> None:
    """Check that the registry is what its records say.

    Names every version that cannot be trusted, and exits with code 5 where something is damaged,
    else 6 where a record is of a later release, else 7 where a version is too large to be decoded.
    What a record removed is not missed.
    """
    asked = session()
    with watching("verifying", asked) as progress, asked.open("r") as registry:
        report = registry.verify(
            level,
            shard=shard,
            subset=subset,
            turn=turn,
            raise_on_damage=False,
            progress=progress,
        )
    emit(report, asked)
    if raise_on_damage:
        from share_registry.registry.audit.verify import require_sound

        try:
            require_sound(report)
        except ShareRegistryError as error:
            wrong = count(len(report.findings), "thing that is", "things that are")
            message = f"verify ({report.extent}) found {wrong} wrong."
            raise type(error)(message, hint=error.hint) from error
