"""Which versions an alias stands for, over all tasks of a space or of the registry."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from share_registry.catalog.queries import aliases, lookups
from share_registry.catalog.queries.name_claims import NameClaim, claims_of_aliases
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
        is_newest: Whether the newest state of its space is known: else this is what it was before.
    """

    space: str
    task: str
    ref: str
    row: TaskVersion | None
    error: ShareRegistryError | None = None
    is_newest: bool = True

    @property
    def is_served(self) -> bool:
        """Whether its task is live, as far as that can be read."""
        return self.row is None or self.row.live


def alias_targets(context: Context, alias: str, *, space: str | None) -> list[AliasTarget]:
    """Return what an alias stands for, by space and task.

    Of a space whose newest state is not known, that of all spaces is what it was before, each with
    why it cannot be read.

    Raises NotFoundError where no task has it.
    """
    with context.reading() as session:
        named = _named(session, alias, space)
        unknown = lookups.unknown_newest(session)
        readable = [each for each in named if each.space not in unknown]
        rows, claims = _rows(session, readable), claims_of_aliases(session, readable)
        targets = [
            _target(context, session, each, rows[each.ref], of_it)
            for each, of_it in zip(readable, claims, strict=True)
        ]
    targets += [
        unknown_target(each.space, each.task, each.ref, unknown[each.space])
        for each in named
        if each.space in unknown
    ]
    return sorted(targets, key=lambda target: (target.space, target.task))


def unknown_target(space: str, task: str, ref: str, error: ShareRegistryError) -> AliasTarget:
    """Return what an alias last stood for in a space whose newest state is not known, and why."""
    return AliasTarget(space=space, task=task, ref=ref, row=None, error=error, is_newest=False)


def unknown_spaces(context: Context) -> Mapping[SpaceName, ShareRegistryError]:
    """Return the spaces whose newest state is not known, and why."""
    with context.reading() as session:
        return lookups.unknown_newest(session)


def live_refs(context: Context, alias: str, *, space: str | None) -> list[str]:
    """Return the versions that `alias_targets` would return as served and newest.

    Raises as that.
    """
    with context.reading() as session:
        unknown = lookups.unknown_newest(session)
        readable = [each for each in _named(session, alias, space) if each.space not in unknown]
        rows = _rows(session, readable)
    dropped = {ref for ref, row in rows.items() if isinstance(row, TaskVersion) and not row.live}
    return [each.ref for each in readable if each.ref not in dropped]


def _named(session: Session, alias: str, space: str | None) -> list[Alias]:
    """Return an alias of every task that has it. Raises NotFoundError where none has."""
    if space is None:
        named = aliases.aliases_as_known(session, alias)
    else:
        named = [each for each in aliases.aliases(session, space=space) if each.name == alias]
    if not named:
        listed = aliases.aliases(session, space=space)
        raise NotFoundError(
            f"no task {f'of space {space}' if space else 'of any space'} has the alias {alias!r}.",
            hint=near_misses(alias, sorted({each.name for each in listed}))
            or "Set it with `share-registry set-alias REF ALIAS`.",
        )
    return named


def _rows(
    session: Session, named: Sequence[Alias]
) -> Mapping[str, TaskVersion | ShareRegistryError]:
    """Return the versions by reference, in a few statements, or why one cannot be read."""
    refs = [each.ref for each in named]
    try:
        return versions_of(session, refs, space=None)
    except ShareRegistryError:
        return {ref: _row(session, ref) for ref in refs}


def _row(session: Session, ref: str) -> TaskVersion | ShareRegistryError:
    try:
        return version_of(session, ref)
    except ShareRegistryError as error:
        return error


def _target(
    context: Context,
    session: Session,
    alias: Alias,
    row: TaskVersion | ShareRegistryError,
    claims: Sequence[NameClaim],
) -> AliasTarget:
    target = AliasTarget(space=alias.space, task=alias.task, ref=alias.ref, row=None)
    if isinstance(row, ShareRegistryError):
        return replace(target, error=row)
    try:
        # the catalog is believed in nothing that goes into a server
        if row.live:
            require_given(context, claims)
            require_recorded(context, [row], session=session)
    except ShareRegistryError as error:
        return replace(target, error=error)
    return replace(target, row=row)
