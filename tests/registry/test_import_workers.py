"""The processes of an import: asked again where they are killed, ended with it."""

import os
import signal
import time
from pathlib import Path

import pytest

import share_registry as sr
from share_registry.registry.commands.workers import WorkerProcesses
from share_registry.registry.context import Context


def _die_once(context: Context, flag: str, number: int) -> int:
    """Kill the own process at the third call of all, once."""
    if number == 2 and not Path(flag).exists():
        Path(flag).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def _die(context: Context, number: int) -> int:
    if number == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def test_a_worker_that_is_killed_is_asked_again(tmp_path: Path) -> None:
    with sr.Registry.open(tmp_path / "registry") as registry:
        place = registry.context.place
        assert place is not None
        with WorkerProcesses(place, 2, device="cpu", preload=__name__) as workers:
            calls = [(str(tmp_path / "flag"), number) for number in range(6)]
            assert list(workers.run(_die_once, calls)) == list(range(6))
            first, second, third = workers.run(_die, [(0,), (1,), (2,)])
            assert (first, third) == (0, 2)
            assert isinstance(second, sr.RefusedError)
            assert "signal 9" in second.message
            # they end with the import, also those of which nothing is heard
            pids = [process._process.pid for process in workers._all]
        for pid in pids:
            with pytest.raises(ProcessLookupError):
                os.kill(pid, 0)


def _sleep(context: Context, seconds: float) -> None:
    time.sleep(seconds)


def test_workers_end_in_the_middle_of_a_call_and_are_not_started_again(tmp_path: Path) -> None:
    with sr.Registry.open(tmp_path / "registry") as registry:
        place = registry.context.place
        assert place is not None
        workers = WorkerProcesses(place, 2, device="cpu", preload=__name__)
        with workers:
            list(workers.run(_sleep, [(0.0,), (0.0,)]))
            workers.run(_sleep, [(600.0,)] * 3)
            pids = [process._process.pid for process in workers._all]
        assert {process._process.pid for process in workers._all} <= {*pids}
        for pid in pids:
            with pytest.raises(ProcessLookupError):
                os.kill(pid, 0)
