"""How logs end: compared with the head that a catalog knows, and with what the store noted.

What is wrong with the log of one space is an error kept for that space; the others go on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING, Final, TypeAlias

from share_registry.catalog.catalog import Catalog
from share_registry.catalog.queries import lookups
from share_registry.catalog.queries.lookups import Head
from share_registry.errors import FormatError, IntegrityError, StoreError
from share_registry.format.canonical import parse_foreign
from share_registry.names import CommitNumber, Digest, SpaceName

if TYPE_CHECKING:
    from share_registry.store.protocol import Store

# What keeps a log from being followed: damage, a later release, a system that refuses
LogError: TypeAlias = IntegrityError | FormatError | StoreError
LOG_ERRORS: Final = (IntegrityError, FormatError, StoreError)
BRING_BACK: Final = (
    "Bring the file back from a copy of the store: `share-registry repair --from DIRECTORY`."
)
_PROBES: Final = tuple(2**power for power in range(21))


@dataclass(frozen=True, slots=True, kw_only=True)
class LogEnds:
    """How the logs of some spaces end otherwise than a catalog can follow. Others go on.

    Attributes:
        unknown: Spaces whose log goes on with what cannot be read, of a later release or damaged:
            what the end of the log decides is not known (spec EVO-05, COM-10).
        lost: Spaces of which the catalog knows an end that the store does not have: answered from
            the catalog, and never built upon.
    """

    unknown: dict[SpaceName, LogError] = field(default_factory=dict)
    lost: dict[SpaceName, LogError] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lag:
    """How far a catalog is behind the logs of a store.

    Attributes:
        ends: How some of the logs end.
        behind: Spaces that it lacks records of, and the head that it has of each.
        foreign: Spaces of which it followed another log.
    """

    ends: LogEnds
    behind: dict[SpaceName, Head | None] = field(default_factory=dict)
    foreign: list[SpaceName] = field(default_factory=list)

    @property
    def is_none(self) -> bool:
        """Whether the catalog has every record that can be read."""
        return not self.behind and not self.foreign


def compare_heads(
    store: "Store", catalog: Catalog, heads: "Mapping[SpaceName, Head | None]"
) -> Lag:
    """Compare the heads that a catalog has with the logs."""
    ends = LogEnds()
    behind: dict[SpaceName, Head | None] = {}
    foreign: list[SpaceName] = []
    for space, head in heads.items():
        if head is None:
            # where its first record is gone it has others
            behind[space] = head
            continue
        try:
            content = read_record(store, space, head.number)
            if content is None:
                # a hash chain cannot show that its last record is gone, a catalog can
                ends.lost[space] = _lost(space, head)
            elif id_of(content) != head.id:
                error = _disagreement(store, catalog, space, head, content)
                if error is None:
                    foreign.append(space)
                else:
                    ends.unknown[space] = ended(error, space, CommitNumber(head.number - 1))
                continue
        except LOG_ERRORS as error:
            ends.lost[space] = error
        next_ = CommitNumber(head.number + 1)
        present = store.first_record(space, probes(next_))
        if present == next_:
            behind[space] = head
        elif present is not None:
            ends.unknown[space] = ended(hole(space, next_, present), space, head.number)
        elif (kept := kept_end(store, space, head.number)) is not None:
            ends.unknown[space] = ended(kept[1], space, kept[0])
    return Lag(ends=ends, behind=behind, foreign=foreign)


def check_end(store: "Store", space: SpaceName, number: CommitNumber) -> None:
    """Check, before record `number` is published, that it is not a hole (spec COM-10).

    Probes further and further behind it. Raises IntegrityError.
    """
    behind = store.first_record(space, [CommitNumber(number + step) for step in _PROBES])
    # where the record is there, other writers were faster, and publishing will say so
    if behind is not None and store.record(space, number) is None:
        raise hole(space, number, behind)


def is_end(store: "Store", space: SpaceName, head: Head) -> bool:
    """Tell whether a log ends with a head, as far as it can be read."""
    try:
        content = store.record(space, head.number)
    except LOG_ERRORS:
        return False
    if content is None or id_of(content) != head.id:
        return False
    return store.first_record(space, probes(CommitNumber(head.number + 1))) is None


def kept_end(
    store: "Store", space: SpaceName, last: CommitNumber
) -> tuple[CommitNumber, IntegrityError] | None:
    """Compare the end of a log with what the store noted when it was published.

    Returns:
        Where a record behind a number is not there or not what was published: the one before it,
        and what is wrong.
    """
    kept = store.kept_head(space)
    if kept is None or kept.number <= last:
        return None
    try:
        content = store.record(space, kept.number)
    except LOG_ERRORS:
        # said when it is read
        return None
    if content is not None and id_of(content) == kept.id:
        return None
    state = "is not in the store" if content is None else f"is {id_of(content)[:8]}"
    return CommitNumber(kept.number - 1), IntegrityError(
        f"record c{kept.number} of space {space} {state}, it was published as {kept.id[:8]}.",
        hint=BRING_BACK,
    )


def ended(error: LogError, space: SpaceName, last: CommitNumber) -> LogError:
    """Return the error of a log that goes on, behind a commit, with what cannot be followed."""
    message = f"{error.message.removesuffix('.')}: the newest state of space {space} is not known."
    before = "What came before is answered: TASK@vN, @cN, log(before=)."
    if isinstance(error, FormatError):
        # nothing is damaged
        return FormatError(message, hint=f"Upgrade share_registry. {before}")
    return type(error)(
        message,
        hint=f"{error.hint or BRING_BACK} To go on without it: `share-registry rebuild "
        f"--accept-loss {space}/@c{last}`.{f' {before}' if last else ''}",
    )


def check_hole(space: SpaceName, numbers: Sequence[CommitNumber]) -> None:
    """Check that no number of a log is missing. Raises IntegrityError."""
    for missing, number in enumerate(numbers, start=1):
        if number != missing:
            raise hole(space, missing, numbers[-1])


def hole(space: SpaceName, missing: int, present: int) -> IntegrityError:
    """Return the error of a record that is missing before one that is there."""
    return IntegrityError(
        f"record c{missing} of space {space} is not in the store, though c{present} is.",
        hint=BRING_BACK,
    )


def probes(number: CommitNumber) -> list[CommitNumber]:
    """Return a number, and others further and further behind it."""
    return [number, *(CommitNumber(number + step) for step in _PROBES)]


def read_record(store: "Store", space: SpaceName, number: CommitNumber) -> bytes | None:
    """Return a record, None where there is none; an error names it."""
    try:
        return store.record(space, number)
    except LOG_ERRORS as error:
        raise type(error)(
            f"record c{number} of space {space} cannot be read: {error.message}", hint=BRING_BACK
        ) from error


def parent_of(content: bytes) -> str | None:
    """Return the parent that a record claims, None where it cannot be read."""
    try:
        parent = parse_foreign(content, subject="record", limit=len(content)).get("parent")
    except IntegrityError:
        return None
    return str(parent)


def id_of(content: bytes) -> Digest:
    """Return the commit id of a record."""
    return Digest(sha256(content).hexdigest())


def _disagreement(
    store: "Store", catalog: Catalog, space: SpaceName, head: Head, content: bytes
) -> IntegrityError | None:
    """Tell a damaged last record from another log than the one that a catalog followed.

    Returns:
        What is wrong, where the record at the catalog's head would follow the same record as the
        one that the catalog knows: either may be right, and a person has to say which.
    """
    actual, number = id_of(content), head.number
    kept = store.kept_head(space)
    if kept is not None and (kept.number > number or (kept.number, kept.id) == (number, actual)):
        return None
    with catalog.begin() as session:
        present = lookups.commit_id(session, space, number)
        parent = lookups.commit_id(session, space, number - 1)
    # the catalog contradicts itself
    if present == actual:
        return None
    before = parent if number > 1 else id_of(store.format_bytes())
    further = store.record(space, CommitNumber(number + 1))
    claims = parent_of(content), None if further is None else parent_of(further)
    if claims[1] == actual or claims[0] not in (before, None):
        return None
    return IntegrityError(
        f"record c{number} of space {space} is {actual[:8]} in the store, the catalog knows it as "
        f"{head.id[:8]}.",
        hint=f"{BRING_BACK} Where the store is right: `share-registry rebuild --accept-loss "
        f"{space}/@c{number}`.",
    )


def _lost(space: SpaceName, head: Head) -> IntegrityError:
    return IntegrityError(
        f"record c{head.number} of space {space} is not in the store, though the catalog "
        f"knows it ({head.id[:8]}).",
        hint="Bring it back from a copy of the store; a rebuild that accepts the loss "
        "goes on with what the store has.",
    )
