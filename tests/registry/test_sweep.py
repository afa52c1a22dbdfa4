"""Whatever any call is given, it returns or raises an error of the one family.

And what is stored stays whole.
"""

import os
import resource
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

import share_registry as sr
from tests.registry.strange import IN_MEMORY, MEMBER_NAMES, MEMBERS, TENSORS, VALUES
from tests.registry.surface import FUNCTIONS, RECEIVERS, Door, World, doors, write_template
from tests.registry.usual import right_values

# What PEFT warns of is not looked at
pytestmark = pytest.mark.filterwarnings("ignore")

# Calls of one registry, after which it is looked at
BATCH: Final = 20
BATCHES: Final = 15
SOAK: Final = int(os.environ.get("SOAK_CALLS", "20000")) // BATCH
# No call on two modules of 12 x 12 takes longer, or as much memory
LIMIT_S: Final = 30
LIMIT_BYTES: Final = 4 << 30


@dataclass(frozen=True, kw_only=True)
class Value:
    """How a value is made, and what it is called where a call fails."""

    label: str
    make: Callable[[World], Any]

    def __repr__(self) -> str:
        return self.label


@dataclass(frozen=True, kw_only=True)
class Call:
    door: Door
    values: Mapping[str, Value]

    def __repr__(self) -> str:
        return f"{self.door.name}({', '.join(f'{k}=<{v}>' for k, v in self.values.items())})"


SOURCES: Final = ("adapter", "adapters", "subject")


def _bad_adapters() -> Iterator[Value]:
    for name, how in (TENSORS | IN_MEMORY).items():
        for which in (0, 1, 4):
            subject = "all" if which == 4 else f"tensor {which}"
            for on_disk in (True, False) if name in TENSORS else (False,):
                yield Value(
                    label=f"adapter {'on disk' if on_disk else 'in memory'}, {subject}: {name}",
                    make=partial(World.spoilt, how=how, which=which, on_disk=on_disk),
                )
        yield Value(label=f"model: {name}", make=partial(World.spoilt_model, how=how))
    for name in MEMBER_NAMES:
        for member in MEMBERS:
            yield Value(
                label=f"adapter with {name}: {repr(member)[:40]}",
                make=partial(World.configured, name=name, value=member),
            )


def _altered(name: str, value: Value) -> Value:
    """Return an adapter in memory of which a member is wrong."""
    return Value(
        label=f"adapter of {name} {value}",
        make=lambda world: world.altered(name, value.make(world)),
    )


def _make(make: Callable[[], Any], _: World) -> Any:
    return make()


FIELDS: Final = [field.name for field in fields(sr.Adapter)]
WRONG: Final = [Value(label=f"{name}!", make=partial(_make, make)) for name, make in VALUES.items()]
# What a caller's own callback raises passes through: these may be called with anything, and raise
CALLED: Final = [value for value in WRONG if value.label.startswith(("class", "linear layer"))]
BAD: Final = [*_bad_adapters()]


def _within(right: Value, wrong: Value, where: str) -> Value:
    """Return a list or mapping with something wrong in it; what is no such thing is wrong itself."""

    def make(world: World) -> Any:
        value = right.make(world)
        bad = wrong.make(world)
        if isinstance(value, dict):
            try:
                return {**value, bad: 1} if where == "key" else {**value, "t1": bad}
            except (TypeError, RuntimeError):
                return {"t1": bad}
        return [*value, bad] if isinstance(value, list | tuple) else bad

    return Value(label=f"{right} with {wrong} as {where}", make=make)


def wrong_values(door: Door, name: str) -> st.SearchStrategy[Value]:
    right = [Value(label=label, make=make) for label, make in right_values(door, name).items()]
    plain = st.sampled_from([value for value in WRONG if name != "progress" or value not in CALLED])
    choices: list[st.SearchStrategy[Value]] = [plain]
    if (
        any(label.startswith(("[", "{", "(")) for label in right_values(door, name))
        or name in SOURCES[1:]
    ):
        choices.append(
            st.builds(_within, st.sampled_from(right), plain, st.sampled_from(["key", "value"]))
        )
    if name in SOURCES:
        altered = st.builds(_altered, st.sampled_from(FIELDS), plain)
        choices += [st.sampled_from(BAD)] * 3 + [altered]
    return st.one_of(choices)


@st.composite
def calls(draw: st.DrawFn, surface: Mapping[str, Door], weighted: list[str]) -> Call:
    door = surface[draw(st.sampled_from(weighted))]
    names = [
        name
        for name, parameter in door.parameters.items()
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        and (parameter.default is parameter.empty or draw(st.booleans()))
    ]
    wrong = {draw(st.sampled_from(names)) for _ in range(draw(st.integers(0, 2)))} if names else ()
    values = {}
    for name in names:
        if name in wrong:
            values[name] = draw(wrong_values(door, name))
        else:
            label, make = draw(
                st.sampled_from(sorted(right_values(door, name).items(), key=lambda item: item[0]))
            )
            values[name] = Value(label=label, make=make)
    return Call(door=door, values=values)


class StuckError(BaseException):
    """A call does not end; nothing takes it for an error of its own."""


@contextmanager
def limited() -> Iterator[None]:
    """Let a call take neither for ever nor all memory."""

    def stop(*_: object) -> None:
        raise StuckError(f"longer than {LIMIT_S} s")

    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    before = signal.signal(signal.SIGALRM, stop)
    resource.setrlimit(resource.RLIMIT_AS, (size + LIMIT_BYTES, hard))
    signal.setitimer(signal.ITIMER_REAL, LIMIT_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def run(call: Call, world: World) -> tuple[Any, sr.ShareRegistryError | None]:
    """Make a call; return what it returned, or the error of the family that it raised."""
    try:
        function = call.door.of(world)
        values = {name: value.make(world) for name, value in call.values.items()}
    except sr.ShareRegistryError as error:
        # what an earlier call dropped is not there to be given
        return None, error
    arguments = [
        values.pop(name)
        for name, parameter in call.door.parameters.items()
        if parameter.kind is parameter.POSITIONAL_ONLY
    ]
    with limited():
        try:
            result = function(*arguments, **values)
            if isinstance(result, Iterator):
                result = [*islice(result, 100)]
        except sr.ShareRegistryError as error:
            return None, error
    if isinstance(result, sr.Registry) and result.context is not world.registry.context:
        result.close()
    return result, None


def check_whole(world: World, acknowledged: set[str], before: set[str]) -> None:
    """Check that the registry is sound and holds what was acknowledged and nothing else."""
    world.registry.verify("data")
    log = world.registry.log(limit=None)
    present = {commit.id for commit in log}
    assert before | acknowledged <= present
    unasked = [commit for commit in log if commit.id not in before | acknowledged]
    assert {commit.kind for commit in unasked} <= {"create", "refit"}
    assert sum(commit.kind == "create" for commit in log) == len(world.registry.spaces())
    assert [*world.registry.context.store.strays()] == []
    assert [*(world.root / "registry" / "tmp").glob("*")] == []


def sweep(batch: list[Call], template: Path, outcomes: Counter[str]) -> None:
    """Make calls on a registry, one after another, look at it, and count what came of them."""
    root = Path(tempfile.mkdtemp(prefix="sweep"))
    world = World(template, root / "world")
    try:
        before: set[str] = {commit.id for commit in world.registry.log(limit=None)}
        acknowledged: set[str] = set()
        for call in batch:
            try:
                result, refusal = run(call, world)
            except BaseException as error:
                error.add_note(f"by {call!r}")
                raise
            assert refusal is None or (refusal.message and refusal.hint), f"{call}: {refusal!r}"
            outcomes["returned" if refusal is None else type(refusal).__name__] += 1
            if isinstance(result, sr.Commit) and result.created and result.id:
                acknowledged.add(result.id)
            if call.door.name.endswith((".import_many", ".export")):
                # it may have committed some before it was stopped, or returns no commit
                acknowledged |= {commit.id for commit in world.registry.log(limit=None)}
        check_whole(world, acknowledged, before)
    finally:
        world.close()
        shutil.rmtree(root, ignore_errors=True)


def sweep_all(tmp_path: Path, **options: Any) -> Counter[str]:
    """Make very many calls in batches; return how many returned, and how many raised what."""
    template = write_template(tmp_path / "template")
    world = World(template, tmp_path / "world")
    surface = doors(world)
    world.close()
    weighted = [name for name, door in surface.items() for _ in range(1 + len(door.parameters))]
    outcomes: Counter[str] = Counter()

    @settings(suppress_health_check=[*HealthCheck], **options)
    @given(batch=st.lists(calls(surface, weighted), min_size=BATCH, max_size=BATCH))
    def sweep_batch(batch: list[Call]) -> None:
        sweep(batch, template, outcomes)

    sweep_batch()
    return outcomes


@pytest.fixture(autouse=True)
def _apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in an empty directory without the Hub."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def test_whatever_a_call_is_given_it_returns_or_raises_one_of_the_family(tmp_path: Path) -> None:
    outcomes = sweep_all(tmp_path, max_examples=BATCHES, derandomize=True)
    # neither is everything refused, nor is nothing wrong
    assert outcomes["returned"] > outcomes.total() / 8
    assert outcomes["InvalidInputError"] > outcomes.total() / 8


@pytest.mark.soak
def test_very_many_calls_return_or_raise_one_of_the_family(tmp_path: Path) -> None:
    sweep_all(tmp_path, max_examples=SOAK)


def test_everything_public_is_called(tmp_path: Path) -> None:
    world = World(write_template(tmp_path / "template"), tmp_path / "world")
    surface = doors(world)
    world.close()
    called = {*RECEIVERS, *FUNCTIONS}
    public = {name for name in sr.__all__ if not _is_error(getattr(sr, name))}
    assert public - called == {"ABSENT"}
    for door in surface.values():
        for name, parameter in door.parameters.items():
            if parameter.kind is not parameter.VAR_KEYWORD:
                assert right_values(door, name) or parameter.kind is parameter.VAR_POSITIONAL


def _is_error(member: object) -> bool:
    return isinstance(member, type) and issubclass(member, BaseException)


@pytest.mark.parametrize("error", [TypeError("raw"), KeyError("raw"), MemoryError()])
def test_an_error_outside_the_family_is_seen(tmp_path: Path, error: Exception) -> None:
    def fail() -> None:
        raise error

    template = write_template(tmp_path / "template")
    call = Call(door=Door(name="fail", of=lambda _: fail, parameters={}), values={})
    with pytest.raises(type(error)):
        sweep([call], template, Counter())


def test_a_call_that_does_not_end_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{__name__}.LIMIT_S", 0.05)
    with pytest.raises(StuckError), limited():
        time.sleep(10)
