"""Ctrl-C at any moment of a commit: it says whether the commit landed, and that is true (P19)."""

import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

import share_registry as sr
from share_registry.cli import main
from share_registry.outside.files import Outside
from tests.cli.tiny import SPACE
from tests.reliability.processes import fork, wait_for
from tests.reliability.registries import adapters, commit, keys, opened, require_sound
from tests.reliability.scenarios import NoFlush

CHANGES: Final = (
    *("open", "write", "fsync", "freeze", "link", "rename", "rename_new"),
    *("unlink", "mkdir", "touch"),
)
"""System calls that change files."""
FEWEST_CALLS: Final = 30


class Interrupted(NoFlush):
    """System calls of which one is interrupted once it is done."""

    def __init__(self, nth: int) -> None:
        self.left = nth


def _interruptible(verb: str) -> Callable[..., object]:
    real = getattr(NoFlush, verb)

    def call(self: Interrupted, *args: Any, **options: Any) -> object:
        answer = real(self, *args, **options)
        if verb != "open" or args[1] & os.O_CREAT:
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt
        return answer

    return call


for _verb in CHANGES:
    setattr(Interrupted, _verb, _interruptible(_verb))


def _interrupt(root: Path, adapter: Path, nth: int) -> tuple[bool, bool]:
    """Interrupt one call of a commit; tell whether there were so many, and whether it landed."""
    system = Interrupted(nth)
    interrupt: sr.CommitInterrupted | None = None
    with opened(root, mode="w") as registry:
        # in the commit alone: an opening commits nothing
        registry.context.store._outside._system = system  # type: ignore[attr-defined]
        try:
            commit(registry, adapter, "two")
        except sr.CommitInterrupted as caught:
            interrupt = caught
    if interrupt is None:
        return False, True
    told = interrupt.landed
    assert interrupt.unknown is None
    assert "committed" in interrupt.message
    with opened(root, mode="r") as reader:
        present = keys(reader)
        log = reader.log(SPACE)
        assert reader.verify("data").ok
    assert ("two" in told) == ("two" in present), (nth, told)
    assert present in (["one"], ["one", "two"])
    named = {f"{SPACE}/@c{entry.number}": entry.key for entry in log}
    assert all(named[ref] == key for key, ref in told.items())
    with opened(root, mode="w") as registry:
        assert commit(registry, adapter, "two").created == ("two" not in told)
        assert keys(registry) == ["one", "two"]
    # of a file whose creation was interrupted, nobody has the name
    assert len(list((root / "tmp").iterdir())) <= 1
    return True, "two" in told


def test_an_interrupt_at_any_call_says_truly_whether_the_commit_landed(quick_path: Path) -> None:
    first, second = adapters(quick_path, 2)
    landed: list[bool] = []
    with opened(quick_path / "before") as registry:
        commit(registry, first, "one")
    while True:
        root = quick_path / f"registry-{len(landed)}"
        shutil.copytree(quick_path / "before", root)
        was_reached, has_landed = _interrupt(root, second, len(landed) + 1)
        if not was_reached:
            break
        landed.append(has_landed)
    assert len(landed) >= FEWEST_CALLS
    # from the creation of the record on, and never before
    assert landed == sorted(landed)
    assert 0 < sum(landed) < len(landed)
    require_sound(root, acknowledged=["one", "two"], attempted=["one", "two"])


@pytest.mark.parametrize(
    "point", ["commit.publish", "record.linked", "commit.catalog", "commit.ack"]
)
def test_a_commit_that_makes_its_space_says_which_of_both_landed(
    quick_path: Path, point: str
) -> None:
    (adapter,) = adapters(quick_path, 1)
    for nth, kind in enumerate(("create", "absorb"), start=1):
        passed: list[str] = []

        def hook(passing: str, nth: int = nth, passed: list[str] = passed) -> None:
            passed.append(passing)
            if passing == point and passed.count(point) == nth:
                raise KeyboardInterrupt

        root = quick_path / f"registry-{nth}"
        with opened(root, hook=hook) as registry:
            with pytest.raises(sr.CommitInterrupted) as raised:
                commit(registry, adapter, "one")
            log = {entry.key: f"{SPACE}/@c{entry.number}" for entry in registry.log()}
            assert raised.value.landed == log
            assert len(log) == nth - (point == "commit.publish")
            assert ("one" in log) == (kind == "absorb" and point != "commit.publish")


def test_an_interrupted_commit_is_an_interrupt_to_who_expects_one(quick_path: Path) -> None:
    (adapter,) = adapters(quick_path, 1)

    def hook(point: str) -> None:
        if point == "obj.half":
            raise KeyboardInterrupt

    with (
        opened(quick_path / "registry", hook=hook) as registry,
        pytest.raises(KeyboardInterrupt) as raised,
    ):
        commit(registry, adapter, "one")
    assert isinstance(raised.value, sr.CommitInterrupted)
    assert "one" not in raised.value.landed


def test_an_outcome_that_cannot_be_looked_up_is_said_to_be_unknown(
    quick_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = adapters(quick_path, 2)

    def hook(point: str) -> None:
        if point == "record.linked" and registry.context.created == []:
            monkeypatch.setattr(type(registry.context.store), "record", refuse)
            raise KeyboardInterrupt

    def refuse(*_: object) -> None:
        raise sr.StoreError("the medium is gone.")

    root = quick_path / "registry"
    with opened(root) as registry:
        commit(registry, first, "one")
    with opened(root, mode="w", hook=hook) as registry:
        with pytest.raises(sr.CommitInterrupted, match="not known") as raised:
            commit(registry, second, "two")
        monkeypatch.undo()
        assert raised.value.unknown == "two"
        assert "'two'" in raised.value.hint
        assert not commit(registry, second, "two").created


COMMAND_POINTS: Final = {
    "obj.linked": False,
    "record.postfsync": False,
    "record.linked": True,
    "commit.catalog": True,
    "commit.ack": True,
    "printing": True,
}
"""Points of a commit on the command line, and whether it has landed by then."""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
@pytest.mark.parametrize("point", COMMAND_POINTS)
def test_the_command_line_says_whether_an_interrupted_commit_landed(
    quick_path: Path, point: str, number: signal.Signals
) -> None:
    root, (first, second) = quick_path / "registry", adapters(quick_path, 2)
    with opened(root) as registry:
        commit(registry, first, "one")
    arguments = ["-R", str(root), "commit", str(second), "--idempotency-key", "two"]
    said = quick_path / "said"

    def run() -> None:
        with said.open("wb") as stderr:
            os.dup2(stderr.fileno(), 2)
        sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
        signal.signal(signal.SIGINT, signal.default_int_handler)

        def at(_: Outside, passed: str) -> None:
            if passed == point:
                os.kill(os.getpid(), number)

        def emit(*_: object, **__: object) -> None:
            os.kill(os.getpid(), number)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Outside, "at", at)
            patch.setattr(sys, "argv", ["share-registry", *arguments])
            if point == "printing":
                patch.setattr("share_registry.cli.verb.emit", emit)
            try:
                main.entry()
            except SystemExit as ended:
                os._exit(int(ended.code or 0))

    assert wait_for(fork(run)) == main.INTERRUPTED
    text = said.read_text()
    with opened(root, mode="r") as reader:
        present, head = keys(reader), reader.log(SPACE)[0].number
    assert ("two" in present) == COMMAND_POINTS[point]
    if COMMAND_POINTS[point]:
        assert f"interrupted: {SPACE}/@c{head} (absorb) had been committed." in text
        assert f"`share-registry -R {root} show {SPACE}/@c{head}`" in text
    else:
        assert "interrupted: nothing was committed." in text
