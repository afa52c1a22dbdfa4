"""The audit trail: what was done, by whom, as the records say.

The catalog is an index that whoever can write it can change. So every record and note of the spaces
in question is read again, into a catalog in memory, and each must follow the one before it. A
checkpoint that was kept elsewhere must be on the way: then nothing up to it was changed or removed
since. One that was signed may be kept anywhere, and one that expires cannot be given in place of a
later one for ever.
"""

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import date, timedelta

from share_registry.catalog.catalog import Catalog
from share_registry.catalog.queries import lookups
from share_registry.catalog.queries.log import LogQuery, log
from share_registry.catalog.queries.lookups import Head
from share_registry.catalog.sql import Session
from share_registry.errors import (
    IntegrityError,
    InvalidInputError,
    NotFoundError,
    RefusedError,
    ensure,
)
from share_registry.exchange.signatures import Signatory, Signer, check_signed_text, sign_text
from share_registry.kinds import FilePath
from share_registry.names import SpaceName, space_name
from share_registry.registry.context import Context
from share_registry.registry.replay import fill
from share_registry.times import instant_of, length_of, or_ago, timestamp
from share_registry.values.audits import AuditReport, Checkpoint, SpaceState


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditQuery:
    """What is asked for; see `Registry.audit`."""

    space: str | None = None
    since: "Checkpoint | str | date | None" = None
    until: str | date | None = None
    actor: str | None = None
    action: str | None = None
    signatory: Signatory | None = None


def checkpoint(
    context: Context,
    space: str | None,
    *,
    sign: FilePath | None = None,
    expires: str | timedelta | None = None,
) -> Checkpoint:
    """Return the ends of the logs; see `Registry.checkpoint`."""
    signer = None if sign is None else Signer.open(sign, context.outside)
    until = None if expires is None else _expiry(context, expires)
    with context.reading() as session:
        heads = lookups.heads(session)
        # what the catalog just caught up with: also spaces of which nothing can be read
        spaces = _spaces(sorted({*heads, *context.ends.unknown}), space)
        for name in spaces:
            # a state whose end is not known is none to hold anybody to
            context.require_end(name)
    plain = replace(_checkpoint(context, {name: heads[name] for name in spaces}), expires=until)
    if signer is None:
        return plain
    return replace(plain, signature=sign_text(plain.content, signer, context.outside).decode())


def audit(context: Context, query: AuditQuery) -> AuditReport:
    """Return what was done, as the records say."""
    since = query.since
    if isinstance(since, str) and Checkpoint.begins(since):
        since = Checkpoint.of(since)
    anchor, now = since if isinstance(since, Checkpoint) else None, context.outside.now()
    _check_anchor(context, anchor, query.signatory)
    with context.reading() as session:
        indexed = lookups.heads(session)
    spaces = _spaces(sorted({*indexed, *context.store.spaces()}), query.space)
    with closing(Catalog.in_memory(context.store.identity)) as catalog:
        for error in fill(context.store, catalog, spaces=spaces).values():
            raise error
        with catalog.begin() as session:
            heads = lookups.heads(session)
            _check_ends(session, {space: indexed[space] for space in spaces if space in indexed})
            behind = {} if anchor is None else _ancestors(session, context, anchor, query.space)
            rows = log(
                session,
                LogQuery(
                    space=query.space,
                    kind=query.action,
                    author=query.actor,
                    since=None if isinstance(since, Checkpoint) else or_ago(since, now),
                    until=or_ago(query.until, now),
                    limit=None,
                ),
            )
    return AuditReport(
        checkpoint=_checkpoint(context, heads),
        records=sum(head.number for head in heads.values()),
        commits=tuple(row for row in reversed(rows) if row.number > behind.get(row.space, 0)),
    )


def _checkpoint(context: Context, heads: Mapping[SpaceName, Head]) -> Checkpoint:
    return Checkpoint(
        store=context.store.identity,
        spaces=tuple(
            SpaceState(space=space, number=head.number, id=head.id, time=head.time)
            for space, head in sorted(heads.items())
        ),
    )


def _expiry(context: Context, length: str | timedelta) -> str:
    """Return the moment after a length of time from now. Raises InvalidInputError."""
    length = length_of(length) if isinstance(length, str) else length
    ensure(
        length > timedelta(0),
        InvalidInputError(
            f"expires {length} is not later than now.", hint="Give '30d' or a longer timedelta."
        ),
    )
    try:
        return instant_of(context.outside.now() + length)
    except OverflowError as error:
        raise InvalidInputError(
            f"expires {length} is past all calendars.", hint="Leave it out for never."
        ) from error


def _check_anchor(context: Context, anchor: Checkpoint | None, signatory: Signatory | None) -> None:
    """Check that a checkpoint is of whom it must be, and has not expired.

    Raises IntegrityError, RefusedError, InvalidInputError.
    """
    if anchor is None:
        ensure(
            signatory is None,
            InvalidInputError(
                "it is said who must have signed the checkpoint, and none is given.",
                hint="Give one as since=...; `Checkpoint.load` reads it from a file.",
            ),
        )
        return
    if signatory is not None:
        if anchor.signature is None:
            raise RefusedError(
                f"the checkpoint is not signed, expected a signature of {signatory}.",
                hint="Its signature is the file beside it, FILE.sig; `checkpoint --sign` makes it.",
            )
        check_signed_text(
            anchor.content,
            anchor.signature.encode(errors="replace"),
            signatory,
            context.outside,
            name="the checkpoint",
        )
    ensure(
        signatory is not None or anchor.signature is None,
        RefusedError(
            "the checkpoint is signed, and it is not said whose signature counts.",
            hint="Give key=..., or identity=... and issuer=...; to do without, give its "
            "lines alone.",
        ),
    )
    # both are UTC with six decimals, which sort as text
    ensure(
        anchor.expires is None or timestamp(context.outside.now()) < anchor.expires,
        RefusedError(
            f"the checkpoint has expired, at {anchor.expires}: there must be a later one.",
            hint="Get the newest checkpoint from who signs them. What this one is of can still be "
            "compared: give its lines unsigned and without `, expires: ...`.",
        ),
    )


def _spaces(names: list[SpaceName], space: str | None) -> list[SpaceName]:
    """Return the spaces in question. Raises NotFoundError."""
    if space is None:
        return names
    ensure(
        space_name(space) in names,
        NotFoundError(f"space {space!r} does not exist.", hint=f"There are: {', '.join(names)}."),
    )
    return [SpaceName(space)]


def _check_ends(session: Session, indexed: Mapping[SpaceName, Head]) -> None:
    """Check that every log has the last commit that the catalog knows. Raises IntegrityError."""
    for space, head in indexed.items():
        commit_id = lookups.commit_id(session, space, head.number)
        ensure(
            commit_id == head.id,
            IntegrityError(
                f"record c{head.number} of space {space} is {(commit_id or 'not there')[:12]} in "
                f"the store, the catalog knows it as {head.id[:12]}.",
                hint="Run verify, which tells which of them is wrong.",
            ),
        )


def _ancestors(
    session: Session, context: Context, anchor: Checkpoint, only: str | None
) -> dict[SpaceName, int]:
    """Return the numbers of a checkpoint's commits after checking that they are on the way.

    Raises InvalidInputError where it is of another store, IntegrityError where one is not.
    """
    ensure(
        anchor.store == context.store.identity,
        InvalidInputError(
            f"the checkpoint is of store {anchor.store}, this is {context.store.identity}.",
            hint="Give a checkpoint of this registry.",
        ),
    )
    states = [state for state in anchor.spaces if only in (None, state.space)]
    for state in states:
        commit_id = lookups.commit_id(session, state.space, state.number)
        ensure(
            commit_id == state.id,
            IntegrityError(
                f"history was rewritten: {state.space}/@c{state.number} was {state.id[:12]} at the "
                f"checkpoint, now it is {(commit_id or 'not there')[:12]}.",
                hint="Compare with a copy of the store from before.",
            ),
        )
    return {state.space: state.number for state in states}
