"""A small machine with the steps of chapter 16: who stores, publishes and removes, in every order.

Two writers store one object, `shared`, and each an object of its own, and publish a record that
names both. Another object lies there from the start and belongs to nobody. A remover makes its list
and removes. A clock ticks. A step is what one of them does without looking at anything else; a
state is everything that a later step depends on. `explore` goes through every order of the steps
from the first state and gives what it saw of the states.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

WRITERS = (0, 1)
SHARED, NOBODYS = "shared", "nobody's"
TICKS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """Which rules hold.

    Attributes:
        grace: In ticks; an object that was put this long ago or longer is old (spec MNT-04).
        lock: Whether writers and the remover share a lock (spec MNT-05).
        looks: Whether a writer looks, before it publishes, that its objects are there.
        follows: Whether the remover follows the log again before it removes.
        ages: Whether it looks at the age of an object again.
        prompt: Whether a writer without the lock stores its objects again when they have become
            old (spec MNT-06). That it looks and publishes is one step: the margin that a writer
            leaves stands for the time in between.
    """

    grace: int = 2
    lock: bool = True
    looks: bool = True
    follows: bool = True
    ages: bool = True
    prompt: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Writer:
    """Where a writer is: at "put", "lock", "look", "publish", "acknowledge" or "done".

    `begun` is when it put its first object, `acknowledged` whether its caller was told.
    """

    at: str = "put"
    begun: int = 0
    acknowledged: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Remover:
    """Where the remover is: at "list", "lock", "follow", "remove" or "done"; and its list."""

    at: str = "list"
    listed: tuple[str, ...] = ()
    needed: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """Everything: the clock, when each object was put, the log, who has the lock, who is where."""

    now: int
    objects: frozenset[tuple[str, int]]
    log: tuple[int, ...] = ()
    holder: object = None
    writers: tuple[Writer, Writer] = (Writer(), Writer())
    remover: Remover = Remover()

    @property
    def present(self) -> dict[str, int]:
        """The objects that are there, with the time at which they were put."""
        return dict(self.objects)

    def put(self, *names: str) -> "State":
        """Return the state in which objects were put just now."""
        return replace(
            self, objects=frozenset((self.present | dict.fromkeys(names, self.now)).items())
        )

    def without(self, name: str) -> "State":
        """Return the state in which an object is gone."""
        return replace(self, objects=frozenset(item for item in self.objects if item[0] != name))


def objects_of(writer: int) -> tuple[str, str]:
    """Return the objects that a writer's record names."""
    return SHARED, f"of writer {writer}"


def needed(state: State) -> frozenset[str]:
    """Return the objects that published records name (spec MNT-01)."""
    return frozenset(name for writer in state.log for name in objects_of(writer))


def first_state() -> State:
    """Return the state in which nothing was done, with an object that nobody needs."""
    return State(now=0, objects=frozenset({(NOBODYS, 0)}))


def explore(rules: Rules) -> set[State]:
    """Return every state that can be reached."""
    seen = {first_state()}
    pending = [*seen]
    for state in pending:
        further = {*steps(state, rules)} - seen
        seen |= further
        pending += further
    return seen


def steps(state: State, rules: Rules) -> Iterator[State]:
    """Yield every state that one step leads to."""
    if state.now < TICKS:
        yield replace(state, now=state.now + 1)
    for number in WRITERS:
        yield from _steps_of_writer(state, rules, number)
    yield from _steps_of_remover(state, rules)


def remove_alone(state: State, rules: Rules) -> State:
    """Return what a state becomes when everybody else stops and the remover runs long after."""
    # the lock of one who died is free
    state = replace(state, now=TICKS + rules.grace + 1, holder=None, remover=Remover())
    while state.remover.at != "done":
        state = next(_steps_of_remover(state, rules))
    return state


def _steps_of_writer(state: State, rules: Rules, number: int) -> Iterator[State]:
    writer = state.writers[number]
    if writer.at == "done":
        return

    def at(place: str, after: State = state, **changes: object) -> State:
        writers = [*after.writers]
        writers[number] = replace(writer, at=place, **changes)  # type: ignore[arg-type]
        return replace(after, writers=(writers[0], writers[1]))

    is_holder = state.holder == number
    # it dies: a lock that it has is given up
    yield at("done", replace(state, holder=None if is_holder else state.holder))
    is_late = state.now - writer.begun >= rules.grace and not rules.lock and rules.prompt
    match writer.at:
        case "put":
            yield at("lock", state.put(*objects_of(number)), begun=state.now)
        case "lock" if not rules.lock:
            yield at("look")
        case "lock" if state.holder is None:
            yield at("look", replace(state, holder=number))
        case "look" | "publish" if is_late:
            yield at("put")
        case "look":
            missing = rules.looks and {*objects_of(number)} - state.present.keys()
            free = replace(state, holder=None if is_holder else state.holder)
            yield at("put", free) if missing else at("publish")
        case "publish":
            free = replace(state, holder=None if is_holder else state.holder)
            yield at("acknowledge", replace(free, log=(*state.log, number)))
        case "acknowledge":
            yield at("done", acknowledged=True)


def _steps_of_remover(state: State, rules: Rules) -> Iterator[State]:
    remover = state.remover

    def at(place: str, after: State = state, **changes: object) -> State:
        return replace(after, remover=replace(remover, at=place, **changes))  # type: ignore[arg-type]

    match remover.at:
        case "list":
            listed = tuple(sorted(_old(state, rules) - needed(state)))
            yield at("lock", listed=listed, needed=needed(state))
        case "lock" if not rules.lock:
            yield at("follow")
        case "lock" if state.holder is None:
            yield at("follow", replace(state, holder="remover"))
        case "follow":
            yield at("remove", needed=needed(state) if rules.follows else remover.needed)
        case "remove" if remover.listed:
            name, *rest = remover.listed
            is_spared = name in remover.needed or (rules.ages and name not in _old(state, rules))
            after = state if is_spared else state.without(name)
            yield at("remove", after, listed=tuple(rest))
        case "remove":
            yield at("done", replace(state, holder=None if rules.lock else state.holder))


def _old(state: State, rules: Rules) -> frozenset[str]:
    return frozenset(name for name, time in state.objects if state.now - time >= rules.grace)
