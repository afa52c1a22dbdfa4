"""Go on without what is damaged: records are given up, objects make room for sound ones.

Nothing is deleted. A file that is in the way is moved, as it is, into a directory of its own in
`quarantine` of the store (spec STO-13), under the name that it had: to bring it back is to move it
back. No reader looks there.

A space whose log is damaged has an end again once the damaged record, and all behind it, are moved.
The next record gets the number of one that was given up, and another digest: that is a fork (spec
COM-11). A catalog elsewhere that knows the old one notices, since its head is not in the log.
"""

import logging
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from share_registry.catalog.queries import lookups
from share_registry.catalog.sql import Session
from share_registry.errors import (
    FormatError,
    IntegrityError,
    InvalidInputError,
    NotFoundError,
    RefusedError,
    ShareRegistryError,
    StoreError,
    ensure,
)
from share_registry.format.canonical import parse_foreign, sha256
from share_registry.look.units import count
from share_registry.names import (
    CommitNumber,
    Digest,
    SpaceName,
    digest as checked_digest,
    first_and_more,
)
from share_registry.registry.context import Context
from share_registry.registry.log_ends import LogError
from share_registry.registry.replay import fill_again, sound_end
from share_registry.registry.sync import forgotten
from share_registry.store.protocol import (
    MAX_RECORD_BYTES,
    KeptHead,
    object_name,
    record_name,
)
from share_registry.values.checks import Quarantine

_LOG: Final = logging.getLogger(__name__)
_STATE: Final = re.compile(r"(?:(?P<space>[^/@]+)/?)?@c(?P<number>0|[1-9]\d{0,14})")
_LISTED: Final = 8
# Enough of a digest to name an object, as `verify` shows it
_BEGINNING: Final = re.compile(r"[0-9a-f]{8,63}")


def rebuild(context: Context, accept_loss: bool | str, *, space: str | None) -> int:
    """Make the catalog again from the store; return the number of commits.

    Args:
        context: The registry.
        accept_loss: Whether commits that the catalog knows and the store has lost are forgotten; as
            "space/@cN", only that space is made again, and its records behind cN are given up.
        space: Space of "@cN".

    Raises:
        RefusedError: commits would be forgotten, or sound ones given up, without being asked.
        IntegrityError, FormatError: a log cannot be followed to its end.
    """
    if isinstance(accept_loss, bool):
        lost = forgotten(context.store, context.lockable()) if accept_loss else []
        commits = context.rebuild(accept_loss=accept_loss)
        for commit in lost:
            _LOG.warning("forgotten: %s, which the store does not have", commit)
        return commits
    state = _STATE.fullmatch(accept_loss)
    name = (state["space"] or space) if state is not None else None
    if state is None or name is None:
        raise InvalidInputError(
            f"accept_loss={accept_loss!r} names no state of a space.",
            hint="Give the last commit that is kept: accept_loss='space/@c6'.",
        )
    return give_up(context, SpaceName(name), CommitNumber(int(state["number"])))


def give_up(context: Context, space: SpaceName, last: CommitNumber) -> int:
    """Move the records of a space behind a commit out of its log; return how many are left.

    They are moved from the last to the first: whoever dies on the way leaves a log that is damaged
    as before, and the same call ends it. Writers that share the catalog wait.

    Raises:
        NotFoundError: there is no such space.
        RefusedError: a record that would be given up is sound, or one that would be kept is not.
        FormatError: what follows is of a later release, and not damaged.
    """
    context.require_writable()
    store = context.store
    with context.locked(), _writing(context, space) as session:
        numbers, head = store.numbers(space), lookups.head(session, space)
        ensure(
            numbers or head is not None,
            NotFoundError(
                f"space {space!r} does not exist.", hint="List them: `share-registry spaces`."
            ),
        )
        end, damage = sound_end(store, space)
        is_last = head is not None and head.number == end
        if is_last and _is_disputed(context, space, head) and last == end - 1:
            # the catalog knows another last record, and a person says that it is right
            end = last
        _check_end(space, last, end, damage)
        lost = [number for number in numbers if number > last]
        place = new_place(context)
        for number in reversed(lost):
            _say_given_up(context, space, number, place)
            store.set_aside(record_name(space, number), place)
            context.outside.at("quarantine.moved")
        if head is not None and head.number > max(numbers, default=0):
            _LOG.warning(
                "forgotten: %s/@c%d (%s), which the store does not have",
                space,
                head.number,
                head.id[:8],
            )
        fill_again(session, store, space)
        left = lookups.head(session, space)
        kept = None if left is None else KeptHead(number=left.number, id=left.id)
        store.keep_head(space, kept)
    if lost:
        _LOG.warning(
            "the next commit of space %s is c%d again, with another id: catalogs elsewhere that "
            "know the one given up will refuse it or be made again; objects that only given-up "
            "records need stay until gc",
            space,
            last + 1,
        )
    return last


def set_aside_objects(context: Context, digests: Sequence[str], *, force: bool) -> Quarantine:
    """Move objects out of the store, so that sound ones can be put in their place.

    Args:
        context: The registry.
        digests: The objects; of a digest, the first 8 digits or more suffice.
        force: Whether those that are sound are moved too.

    Raises:
        InvalidInputError: no digest, or the beginning of several.
        NotFoundError: there is no such object.
        RefusedError: one is sound; nothing was moved.
    """
    context.require_writable()
    ensure(
        digests, InvalidInputError("no object is named.", hint="`verify` names what is damaged.")
    )
    checked = [*dict.fromkeys(_object_of(context, digest) for digest in digests)]
    place = new_place(context)
    names = [object_name(digest) for digest in checked]
    # under the lock that publishing takes: what a writer saw there stays until its record names it
    with context.locked(), _writing(context, None):
        sound = [digest for digest in checked if _is_sound(context, digest)]
        ensure(
            force or not sound,
            RefusedError(
                f"{count(len(sound), 'object is', 'objects are')} sound: "
                f"{first_and_more(sound, _LISTED)}. Nothing was moved.",
                hint="Name damaged ones alone, or give force=True.",
            ),
        )
        for name in names:
            context.store.set_aside(name, place)
    context.forget_decoded()
    return Quarantine(place=f"quarantine/{place}", moved=tuple(names))


def _object_of(context: Context, text: str) -> Digest:
    """Return the object whose digest is a text or, of 8 digits or more, begins with it.

    Raises InvalidInputError, NotFoundError.
    """
    if _BEGINNING.fullmatch(text) is None:
        return checked_digest(text)
    fitting = sorted(digest for digest, _ in context.store.objects() if digest.startswith(text))
    ensure(
        fitting,
        NotFoundError(
            f"no object of the store has a digest that begins with {text}.",
            hint="`share-registry verify` names what is damaged.",
        ),
    )
    ensure(
        len(fitting) == 1,
        InvalidInputError(
            f"{len(fitting)} objects have a digest that begins with {text}: "
            f"{first_and_more(fitting, _LISTED)}.",
            hint="Give more of its digits.",
        ),
    )
    return fitting[0]


@contextmanager
def _writing(context: Context, space: SpaceName | None) -> Iterator[Session]:
    """Begin a transaction on the catalog that is kept: other writers wait, and stand-ins do not."""
    context.catalog = context.lockable()
    with context.catalog.begin(write=True, space=space) as session:
        yield session


def _check_end(
    space: SpaceName, last: CommitNumber, end: CommitNumber, damage: LogError | None
) -> None:
    """Check that a commit is the last of a log that is sound. Raises RefusedError, FormatError."""
    if isinstance(damage, FormatError):
        raise damage
    why = f"c{end + 1} is not: {damage.message}" if damage is not None else "its log ends there."
    ensure(
        last == end,
        RefusedError(
            f"space {space} is sound up to c{end}, not c{last}; {why}",
            hint=f"Give accept_loss='{space}/@c{end}'.",
        ),
    )


def _is_disputed(context: Context, space: SpaceName, head: lookups.Head | None) -> bool:
    """Tell whether the record at the head that the catalog knows is another one."""
    content = None if head is None else context.store.record(space, head.number)
    return head is not None and content is not None and sha256(content) != head.id


def _say_given_up(context: Context, space: SpaceName, number: CommitNumber, place: str) -> None:
    kind, key = _described(lambda: context.store.record(space, number))
    _LOG.warning(
        "given up: %s/@c%d (%s, key %s), now quarantine/%s/%s",
        space,
        number,
        kind,
        key,
        place,
        record_name(space, number),
    )


def _described(read: Callable[[], bytes | None]) -> tuple[str, str]:
    """Return the kind and the key that a record claims, as far as it can be read."""
    try:
        record = parse_foreign(read() or b"", subject="record", limit=MAX_RECORD_BYTES)
    except ShareRegistryError:
        return "unreadable", "unknown"
    return str(record.get("kind", "unknown"))[:32], str(record.get("key", "unknown"))[:128]


def _is_sound(context: Context, digest: Digest) -> bool:
    try:
        context.store.uncached().get(digest)
    except (IntegrityError, StoreError):
        return False
    return True


def new_place(context: Context) -> str:
    """Return the name of a directory of `quarantine` that nothing was ever moved to."""
    return f"{context.outside.now():%Y%m%dT%H%M%SZ}-{context.outside.token()[:8]}"
