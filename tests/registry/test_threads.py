"""The registry computes on the calling thread alone, and the caller's settings stay as they are."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from threading import Thread
from typing import TypeVar

import pytest
import torch

import share_registry as sr
from share_registry.algebra.threads import one_thread
from tests.registry.planted import BASE, write_planted

SPACE = "s"
THREADS = 3
_T = TypeVar("_T")


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    return [*write_planted(tmp_path / "adapters", 4).values()]


@pytest.fixture
def registry() -> Iterator[sr.Registry]:
    with sr.Registry.open("memory://") as opened:
        opened.create_space(SPACE, base_model=BASE)
        yield opened


@pytest.fixture
def _three_threads() -> Iterator[None]:
    """What the caller set for itself, and for threads that begin later."""
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    yield
    torch.set_num_threads(before)


def in_new_thread(function: Callable[[], _T]) -> _T:
    results: list[_T] = []
    thread = Thread(target=lambda: results.append(function()))
    thread.start()
    thread.join()
    return results[0]


def settings() -> tuple[int, int]:
    """The threads of this thread, and of one that begins now."""
    return torch.get_num_threads(), in_new_thread(torch.get_num_threads)


def native_threads() -> int:
    return len(os.listdir("/proc/self/task"))


def work(registry: sr.Registry, folders: list[Path]) -> Iterator[Callable[[], object]]:
    """Yield what computes, and what fails on its way."""
    for number, folder in enumerate(folders):
        yield partial(registry.commit, folder, task=f"t{number}", space=SPACE)
    yield lambda: registry.refit(max_rank=4, force=True)
    yield lambda: registry.merge({"t0": 0.5, "t1": 0.5}, task="merged")
    yield lambda: registry.checkout("t0").factor_pairs()
    yield lambda: registry.diff("t0", "t1")
    yield lambda: registry.similar("t1")
    yield lambda: registry.verify(level="deep")
    yield lambda: sr.Materializer(registry).materialize(["t0", "t1"])
    yield lambda: fail(lambda: registry.commit(folders[0] / "absent", space=SPACE))
    yield lambda: fail(lambda: registry.checkout("absent"))
    yield lambda: fail(lambda: registry.refit(max_rank=4, allow_loss=True, budget=0.1))
    yield lambda: fail(lambda: sr.Materializer(registry).materialize("absent"))


def fail(function: Callable[[], object]) -> None:
    with pytest.raises(sr.ShareRegistryError):
        function()


@pytest.mark.usefixtures("_three_threads")
def test_the_callers_threads_stay_as_they_are(registry: sr.Registry, folders: list[Path]) -> None:
    for call in work(registry, folders):
        call()
        assert settings() == (THREADS, THREADS)


@pytest.mark.usefixtures("_three_threads")
def test_threads_stay_as_they_are_where_several_compute(
    registry: sr.Registry, folders: list[Path]
) -> None:
    def commit(number: int) -> set[int]:
        before = torch.get_num_threads()
        registry.commit(folders[number], task=f"t{number}", space=SPACE)
        return {before, torch.get_num_threads()}

    seen = set()
    with ThreadPoolExecutor(len(folders)) as pool:
        futures = [pool.submit(commit, number) for number in range(len(folders))]
        while not all(future.done() for future in futures):
            seen |= {*settings()}
        for future in futures:
            seen |= future.result()
    assert seen == {THREADS}


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="counts threads as Linux does")
@pytest.mark.usefixtures("_three_threads")
def test_no_other_thread_computes(registry: sr.Registry, folders: list[Path]) -> None:
    large = torch.ones(1 << 20, dtype=torch.float64)

    # in a thread of its own, since OpenMP keeps the threads that it has once begun
    def count() -> list[int]:
        before = native_threads()
        for call in work(registry, folders):
            call()
        with one_thread():
            large.exp()
        after = native_threads()
        large.exp()
        return [after - before, native_threads() - before]

    assert in_new_thread(count) == [0, THREADS - 1]


def test_the_bytes_do_not_depend_on_the_number_of_threads(folders: list[Path]) -> None:
    before, stored = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            with sr.Registry.open("memory://") as registry:
                registry.create_space(SPACE, base_model=BASE)
                for call in [*work(registry, folders)][:6]:
                    call()
                stored.append(dict(registry.context.store.objects()))
    finally:
        torch.set_num_threads(before)
    assert stored[0] == stored[1]
