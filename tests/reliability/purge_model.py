"""A small machine with the steps of a purge: beside writers, each of which may die at any step.

A task was committed before: its adapter object, a file that its note names, and the note. Two
writers build upon it, where they may, and the second one has the same file. A purge reads the log,
stores anew what is built upon the task, publishes its record behind the very record that it read,
and removes, under the lock, what nothing needs. A step is what one of them does without looking at
anything else; `explore` goes through every order of the steps.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

WRITERS = (0, 1)
ADAPTER, FILE, NOTE = "adapter", "file", "note"
OF_TASK = frozenset({ADAPTER, FILE, NOTE})


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """Which rules hold.

    Attributes:
        behind: Whether the record of a purge is published only behind the one that was read.
        replaced: Whether a writer looks that nothing it is built upon was purged (spec COM-12).
        follows: Whether the log is followed again, under the lock, before anything is removed.
        lock: Whether writers publish under the lock that removing takes (spec MNT-05).
        naming_last: Whether what names other objects is removed last (spec MNT-07).
    """

    behind: bool = True
    replaced: bool = True
    follows: bool = True
    lock: bool = True
    naming_last: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A record: of a writer, built upon the task or not; or of a purge, with what it replaced."""

    writer: int | None = None
    is_upon: bool = False
    anchored: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Writer:
    """Where a writer is: at "read", "put", "lock", "look", "publish" or "done".

    `seen` is how many records there were when it looked, `has_put` whether it ever put its objects.
    """

    at: str = "read"
    is_upon: bool = False
    seen: int = 0
    has_put: bool = False
    acknowledged: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Purge:
    """Where a purge is: at "read", "store", "publish", "lock", "follow", "remove" or "done".

    `head` is how many records it has read, `left` what it has still to remove.
    """

    at: str = "read"
    head: int = 0
    anchored: frozenset[int] = frozenset()
    needed: frozenset[str] = frozenset()
    left: tuple[str, ...] = ()
    is_whole: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """Everything: the objects, the log, who has the lock, who is where."""

    objects: frozenset[str] = OF_TASK
    log: tuple[Entry, ...] = ()
    holder: object = None
    writers: tuple[Writer, Writer] = (Writer(), Writer())
    purge: Purge = Purge()

    @property
    def is_purged(self) -> bool:
        """Whether the log says so."""
        return any(entry.writer is None for entry in self.log)


def needed(log: tuple[Entry, ...]) -> frozenset[str]:
    """Return the objects that are needed as of a log (spec MNT-01, REC-23)."""
    purges = [number for number, entry in enumerate(log) if entry.writer is None]
    objects = set() if purges else {*OF_TASK}
    for number, entry in enumerate(log):
        if entry.writer is None:
            continue
        later = [log[purge].anchored for purge in purges if purge > number]
        is_anchored = any(entry.writer in anchored for anchored in later)
        own = f"of {entry.writer}" + (" alone" if is_anchored else "")
        objects |= {own} | ({FILE} if entry.writer == 1 else set())
        objects |= {ADAPTER} if entry.is_upon and not is_anchored else set()
    return frozenset(objects)


def explore(rules: Rules) -> set[State]:
    """Return every state that can be reached."""
    seen = {State()}
    pending = [*seen]
    for state in pending:
        further = {*steps(state, rules)} - seen
        seen |= further
        pending += further
    return seen


def steps(state: State, rules: Rules) -> Iterator[State]:
    """Yield every state that one step leads to."""
    for number in WRITERS:
        yield from _steps_of_writer(state, rules, number)
    yield from steps_of_purge(state, rules)


def purge_alone(state: State, rules: Rules) -> State:
    """Return what a state becomes when everybody stops and the purge is run again."""
    # the lock of one who died is free
    state = replace(state, holder=None, purge=Purge())
    while state.purge.at != "done":
        # not the step at which it dies
        state = [*steps_of_purge(state, rules)][-1]
    return state


def _steps_of_writer(state: State, rules: Rules, number: int) -> Iterator[State]:
    writer = state.writers[number]
    is_free = state.holder in (None, number) or not rules.lock
    free = replace(state, holder=None if state.holder == number else state.holder)

    def at(place: str, after: State = state, **changes: object) -> State:
        writers = [*after.writers]
        writers[number] = replace(writer, at=place, **changes)  # type: ignore[arg-type]
        return replace(after, writers=(writers[0], writers[1]))

    if writer.at == "done":
        return
    yield at("done", free)
    objects = {f"of {number}"} | ({FILE} if number == 1 else set())
    match writer.at:
        case "read":
            yield at("put", is_upon=not state.is_purged)
        case "put":
            yield at("lock", replace(state, objects=state.objects | objects), has_put=True)
        case "lock" if is_free:
            yield at("look", replace(state, holder=number) if rules.lock else state)
        case "look":
            sources = {ADAPTER} if writer.is_upon else set()
            is_gone = not objects | sources <= state.objects
            was_replaced = rules.replaced and writer.is_upon and state.is_purged
            yield (
                at("read", free) if is_gone or was_replaced else at("publish", seen=len(state.log))
            )
        case "publish" if len(state.log) != writer.seen:
            # the number is another's: spec COM-04
            yield at("look")
        case "publish":
            entry = Entry(writer=number, is_upon=writer.is_upon)
            yield at("done", replace(free, log=(*state.log, entry)), acknowledged=True)


def steps_of_purge(state: State, rules: Rules) -> Iterator[State]:
    """Yield what the next step of the purge leads to; first, that it dies there."""
    purge = state.purge
    free = replace(state, holder=None if state.holder == "purge" else state.holder)

    def at(place: str, after: State = state, **changes: object) -> State:
        return replace(after, purge=replace(purge, at=place, **changes))  # type: ignore[arg-type]

    if purge.at == "done":
        return
    yield replace(free, purge=Purge(at="done"))
    match purge.at:
        case "read":
            upon = (entry.writer for entry in state.log if entry.is_upon)
            anchored = frozenset(writer for writer in upon if writer is not None)
            next_step = "lock" if state.is_purged else "store"
            yield at(next_step, head=len(state.log), anchored=anchored, needed=needed(state.log))
        case "store":
            alone = {f"of {writer} alone" for writer in purge.anchored}
            yield at("publish", replace(state, objects=state.objects | alone))
        case "publish" if rules.behind and len(state.log) != purge.head:
            yield at("read")
        case "publish":
            entry = Entry(anchored=purge.anchored)
            log = (*state.log, entry)
            yield at("lock", replace(state, log=log), needed=needed(log))
        case "lock" if not rules.lock:
            yield at("follow")
        case "lock" if state.holder is None:
            yield at("follow", replace(state, holder="purge"))
        case "follow":
            still = needed(state.log) if rules.follows else purge.needed
            yield at("remove", left=_removed(state, still, rules))
        case "remove" if purge.left:
            name, *rest = purge.left
            yield at("remove", replace(state, objects=state.objects - {name}), left=tuple(rest))
        case "remove":
            yield at("done", free, is_whole=True)


def _removed(state: State, still: frozenset[str], rules: Rules) -> tuple[str, ...]:
    """Return what goes, in order: what the note names is known as long as the note is there."""
    of_task = OF_TASK if NOTE in state.objects else OF_TASK - {FILE}

    def order(name: str) -> tuple[bool, str]:
        return (name == NOTE) is rules.naming_last, name

    return tuple(sorted(of_task & state.objects - still, key=order))
