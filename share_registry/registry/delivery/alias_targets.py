"""Which versions an alias stands for, over all tasks of a space or of the registry."""

from collections.abc import Sequence
from dataclasses import dataclass

from share_registry.catalog.queries import aliases
from share_registry.catalog.queries.lookups import NameClaim
from share_registry.catalog.queries.resolution import version_of, versions_of
from share_registry.catalog.sql import Session
from share_registry.errors import NotFoundError, ShareRegistryError
from share_registry.names import SpaceName, near_misses
from share_registry.registry.context import Context
from share_registry.registry.evidence import require_given, require_recorded
from share_registry.values.references import Alias
from share_registry.values.task_version import TaskVersion


@dataclass(frozen=True, slots=True, kw_only=True)
class AliasTarget:
    """What the alias of one task stands for.

    Attributes:
        ref: The version, `space/task@vN`.
        row: The version; None where it cannot be read.
        error: Why not.
    """

    space: str
    task: str
    ref: str
    row: TaskVersion | None
    error: ShareRegistryError | None = None

    @property
    def is_served(self) -> bool:
        """Whether its task is live, as far as that can be read."""
        return self.row is None or self.row.live


def alias_targets(context: Context, alias: str, *, space: str | None) -> list[AliasTarget]:
    """Return what an alias stands for, by space and task.

    Raises NotFoundError where no task has it.
    """
    with context.reading() as session:
        named = _named(session, alias, space)
        rows = _rows(session, named)
        claims = aliases.claims_of_aliases(session, named)
        return [
            _target(context, session, each, rows.get(each.ref), of_it)
            for each, of_it in zip(named, claims, strict=True)
        ]


def refs_behind(context: Context, alias: str, *, space: str | None) -> list[str]:
    """Return the versions that `alias_targets` would return. Raises as that."""
    with context.reading() as session:
        return [each.ref for each in _named(session, alias, space)]


def _named(session: Session, alias: str, space: str | None) -> list[Alias]:
    """Return an alias of every task that has it. Raises NotFoundError where none has."""
    listed = aliases.aliases(session, space=space)
    named = [each for each in listed if each.name == alias]
    if not named:
        raise NotFoundError(
            f"no task {f'of space {space}' if space else 'of any space'} has the alias {alias!r}.",
            hint=near_misses(alias, sorted({each.name for each in listed}))
            or "Set it with `share-registry set-alias REF ALIAS`.",
        )
    return named


def _rows(session: Session, named: Sequence[Alias]) -> dict[str, TaskVersion]:
    """Return the versions by reference, in a few statements; none where one cannot be read."""
    try:
        return versions_of(session, [each.ref for each in named], space=None)
    except ShareRegistryError:
        return {}


def _target(
    context: Context,
    session: Session,
    alias: Alias,
    row: TaskVersion | None,
    claims: Sequence[NameClaim],
) -> AliasTarget:
    space, failure = _space_of(alias), None
    try:
        row = row or version_of(session, alias.ref)
        if not row.live:
            return AliasTarget(space=space, task=alias.task, ref=alias.ref, row=row)
        # the catalog is believed in nothing that goes into a server
        require_given(context, claims)
        require_recorded(context, [row], session=session)
    except ShareRegistryError as error:
        row, failure = None, error
    return AliasTarget(space=space, task=alias.task, ref=alias.ref, row=row, error=failure)


def _space_of(alias: Alias) -> SpaceName:
    return SpaceName(alias.ref.partition("/")[0])
