"""Two writers that are killed at any moment, again and again, beside a reader that asks all the time.

What was acknowledged is there once, what was tried is there whole or not at all and is made once by
its retry, and the reader never sees less than before, nor half of anything (P1, P2, P8).
"""

import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from typing import Final

import pytest
import torch

import share_registry as sr
from share_registry.outside.files import Outside
from share_registry.registry.opening import open_context
from tests.cli.tiny import SPACE, write_adapter
from tests.reliability.processes import fork, wait_for
from tests.reliability.scenarios import NoFlush
from tests.reliability.writer import LostError

CI_CYCLES: Final = 60
MOST_ANSWERS: Final = 1
"""That are waited for in a cycle before the first writer is killed."""
PAUSE_S: Final = 0.02
"""Between two questions of the reader."""
WRITERS: Final = 2
TASKS: Final = 5
CHECKED_EVERY: Final = 250
"""Cycles between two looks at the whole registry."""


@dataclass(kw_only=True)
class Killing:
    """A registry whose writers are killed, and what they said.

    Attributes:
        tried: Keys of commits that were begun.
        acknowledged: Those that were answered.
    """

    url: str
    top: Path
    draw: Random
    adapters: list[Path] = field(default_factory=list)
    tried: list[str] = field(default_factory=list)
    acknowledged: list[str] = field(default_factory=list)
    commit_s: float = 0.0

    def opened(self, mode: str) -> sr.Registry:
        """Open it over the real system, less its flushes."""
        outside = Outside(system=NoFlush())
        return sr.Registry(
            open_context(
                self.url, store=self.top / "store", space=None, mode=mode, outside=outside
            )[0]
        )

    def begin(self) -> None:
        """Make the registry, and import what the writers need: they are forked with it."""
        torch.set_num_threads(1)  # a fork child has no threads to wait for
        self.adapters = [write_adapter(self.top / f"t{seed}", seed=seed) for seed in range(WRITERS)]
        self.tried = ["begin", "warm"]
        self.acknowledged = [*self.tried]
        with self.opened("c") as registry:
            for key in self.tried:
                begin = time.monotonic()
                self._commit(registry, key)
                self.commit_s = time.monotonic() - begin

    def cycle(self, number: int) -> None:
        """Let two writers go on where two were killed, and kill them."""
        with listening() as (reading, writing):
            lost = [*dict.fromkeys(key for key in self.tried if key not in self.acknowledged)]
            children = [
                fork(
                    partial(
                        self._write, writer, f"{number}-{writer}", lost[writer::WRITERS], writing
                    )
                )
                for writer in range(WRITERS)
            ]
            os.close(writing)
            # each has begun something before it is killed, some have been answered
            heard, answers = b"", self.draw.randint(0, MOST_ANSWERS)
            while heard.count(b"acknowledged") < answers or not all(
                b"tried %d " % writer in heard for writer in range(WRITERS)
            ):
                piece = os.read(reading, 1 << 16)
                if not piece:
                    raise LostError("both writers ended by themselves")
                heard += piece
            for child in self.draw.sample(children, WRITERS):
                time.sleep(self.draw.uniform(0, self.commit_s))
                os.kill(child, signal.SIGKILL)
            if [wait_for(child) for child in children] != [-signal.SIGKILL] * WRITERS:
                raise LostError("a writer ended by itself")
            while piece := os.read(reading, 1 << 16):
                heard += piece
        for line in heard.decode().splitlines():
            word, _, key = line.split()
            (self.tried if word == "tried" else self.acknowledged).append(key)

    def _write(self, writer: int, name: str, lost: list[str], writing: int) -> None:
        """Retry what was lost, then commit until killed; say what is tried and what is answered."""
        with self.opened("w") as registry:
            keys = [*lost, *(f"{name}-{number}" for number in range(10_000))]
            for key in keys:
                os.write(writing, b"tried %d %s\n" % (writer, key.encode()))
                self._commit(registry, key)
                os.write(writing, b"acknowledged %d %s\n" % (writer, key.encode()))

    def _commit(self, registry: sr.Registry, key: str) -> None:
        # whoever retries it commits the same
        number = sum(key.encode())
        registry.commit(
            self.adapters[number % len(self.adapters)],
            task=f"task-{number % TASKS}",
            budget=0,
            idempotency_key=key,
            allow_duplicate=True,
        )

    def check(self) -> None:
        """Check the registry as a reader finds it. Raises LostError."""
        with self.opened("r") as registry:
            keys = Counter(commit.key for commit in sr.iterate(registry.log, kind="absorb"))
            numbers = [commit.number for commit in sr.iterate(registry.log)]
            if not registry.verify("data", raise_on_damage=False).ok:
                raise LostError("the registry is damaged")
        if repeated := [key for key, times in keys.items() if times > 1]:
            raise LostError(f"made more than once: {repeated}")
        if missing := set(self.acknowledged) - {*keys}:
            raise LostError(f"acknowledged and not there: {missing}")
        if strange := {*keys} - set(self.tried):
            raise LostError(f"there, and never tried: {strange}")
        if numbers != [*range(len(numbers), 0, -1)]:
            raise LostError("the log has gaps")

    def end(self) -> None:
        """Retry what was lost at last; then everything that was ever tried is there once."""
        with self.opened("w") as registry:
            for key in self.tried:
                if key not in self.acknowledged:
                    self._commit(registry, key)
                    self.acknowledged.append(key)
        self.check()


@contextmanager
def listening() -> Iterator[tuple[int, int]]:
    """Yield both ends of a pipe; the one to write to is closed in the block."""
    reading, writing = os.pipe()
    try:
        yield reading, writing
    finally:
        os.close(reading)


def poll(killing: Killing, stop: Path, polls: Path) -> None:
    """Ask until told to stop, of registries opened anew and of one that stays open."""
    count, head = 0, 0
    with killing.opened("r") as open_all_the_time:
        while not stop.exists():
            with killing.opened("r") as fresh:
                for registry in (open_all_the_time, fresh):
                    head = look(registry, head)
                    count += 1
            time.sleep(PAUSE_S)
    polls.write_text(str(count))


def look(registry: sr.Registry, before: int) -> int:
    """Return the head of a registry that was at another one before. Raises LostError."""
    log = registry.log(SPACE, limit=20)
    head = log[0].number
    if [commit.number for commit in log] != [head - back for back in range(len(log))]:
        raise LostError("a reader sees a log with gaps")
    if head < before:
        raise LostError(f"a reader sees c{head} after c{before}")
    newest = next(commit for commit in log if commit.kind == "absorb")
    registry.checkout(f"{SPACE}/{newest.task}@v{newest.version}").state_dict()
    return head


def survives_kills(killing: Killing, cycles: int) -> int:
    """Kill writers in so many cycles; return how often the reader asked. Raises LostError."""
    stop, polls = killing.top / "stop", killing.top / "polls"
    killing.begin()
    reader = fork(partial(poll, killing, stop, polls))
    try:
        for number in range(cycles):
            killing.cycle(number)
            if number % CHECKED_EVERY == CHECKED_EVERY - 1:
                killing.check()
    finally:
        stop.touch()
        code = wait_for(reader)
    if code != 0:
        raise LostError("the reader ended with an error")
    killing.check()
    killing.end()
    return int(polls.read_text())


def test_writers_that_are_killed_lose_and_repeat_nothing(
    quick_path: Path, catalog_url: str
) -> None:
    killing = Killing(url=catalog_url, top=quick_path, draw=Random(1))
    assert survives_kills(killing, CI_CYCLES) > CI_CYCLES
    # some were killed in the middle, and tried again
    assert len(killing.tried) > len({*killing.tried}) > CI_CYCLES // 2


@pytest.mark.soak
def test_writers_that_are_killed_very_often_lose_and_repeat_nothing(
    quick_path: Path, catalog_url: str
) -> None:
    seed, cycles = int(os.environ.get("SEED", "0")), int(os.environ.get("SOAK_CYCLES", "1000"))
    killing = Killing(url=catalog_url, top=quick_path, draw=Random(seed))
    survives_kills(killing, cycles)
    assert len(killing.tried) > len({*killing.tried}) > cycles // 2
