"""What an interrupted verb says of its commits.

An interrupt may come between the creation of a record and the answer to the caller, who could not
know what became of the commit. So every record is noted before it is published, and the verb that
is interrupted looks up which of them are there.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import wraps
from typing import Concatenate, Final, ParamSpec, TypeVar

from share_registry.errors import CommitInterrupted, ShareRegistryError
from share_registry.format.canonical import sha256
from share_registry.format.records import Record
from share_registry.names import CommitNumber, Digest, SpaceName
from share_registry.registry.context import Context

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Attempt:
    """A record that may have been published."""

    space: SpaceName
    number: CommitNumber
    id: Digest
    kind: str
    key: str


_attempts: Final[ContextVar[list[_Attempt] | None]] = ContextVar("attempts", default=None)


@contextmanager
def telling_of_interrupts(context: Context) -> Iterator[None]:
    """Let a block that is interrupted raise CommitInterrupted, which says what it committed."""
    if _attempts.get() is not None:
        # a part of another one, which will tell
        yield
        return
    attempts: list[_Attempt] = []
    token = _attempts.set(attempts)
    try:
        yield
    except KeyboardInterrupt as interrupt:
        raise _look_up(context, attempts) from interrupt
    finally:
        _attempts.reset(token)


def tells_of_interrupts(
    verb: Callable[Concatenate[Context, P], R],
) -> Callable[Concatenate[Context, P], R]:
    """Let a verb that is interrupted raise CommitInterrupted."""

    @wraps(verb)
    def run(context: Context, /, *args: P.args, **options: P.kwargs) -> R:
        with telling_of_interrupts(context):
            return verb(context, *args, **options)

    return run


def note_attempt(record: Record, content: bytes) -> None:
    """Note that a record is about to be published."""
    attempts = _attempts.get()
    if attempts is not None:
        attempts.append(
            _Attempt(
                space=SpaceName(record.space),
                number=CommitNumber(record.number),
                id=sha256(content),
                kind=record.kind,
                key=record.key,
            )
        )


def _look_up(context: Context, attempts: Sequence[_Attempt]) -> CommitInterrupted:
    landed: dict[str, str] = {}
    words: list[str] = []
    unknown: tuple[str, str] | None = None
    for attempt in attempts:
        name = f"{attempt.space}/@c{attempt.number}"
        try:
            content = context.store.record(attempt.space, attempt.number)
            if content is None or sha256(content) != attempt.id:
                continue
            # the interrupt may have come before this
            context.store.sync_log(attempt.space)
        except ShareRegistryError as error:
            doubt = f"whether {name} ({attempt.kind}) was committed is not known: {error.message}"
            unknown = unknown or (doubt, attempt.key)
            continue
        landed[attempt.key] = name
        words.append(f"{name} ({attempt.kind})")
    said = f"{', '.join(words)} had been committed." if words else "nothing was committed."
    if unknown is None:
        return CommitInterrupted(said, landed=landed)
    doubt, key = unknown
    said = f"{said} {doubt[0].upper()}{doubt[1:]}" if words else doubt
    return CommitInterrupted(said, landed=landed, unknown=key)
