"""Work side by side and ahead.

In order, bounded, and the first failure is the one that is raised.
"""

import threading
from collections.abc import Callable, Iterable
from functools import partial
from time import monotonic, sleep

import pytest

from share_registry.parallel import AHEAD, ahead, side_by_side


@pytest.mark.parametrize("count", [0, 1, 2, 50])
def test_results_come_in_order(count: int) -> None:
    assert (
        list(ahead(str, range(count)))
        == side_by_side(str, range(count))
        == [str(number) for number in range(count)]
    )


def test_no_more_than_a_few_results_wait() -> None:
    started: list[int] = []
    results = ahead(started.append, range(50))
    assert started == []
    next(results)
    _until(lambda: len(started) == 1 + AHEAD)
    sleep(0.05)
    assert started == list(range(1 + AHEAD))
    list(results)


def test_the_first_failure_is_raised_and_no_thread_is_left() -> None:
    before = threading.active_count()

    def halved(number: int) -> float:
        return 1 / (3 - number)

    results = ahead(halved, range(50))
    assert [next(results) for _ in range(3)] == [1 / 3, 1 / 2, 1.0]
    with pytest.raises(ZeroDivisionError):
        next(results)
    with pytest.raises(ZeroDivisionError):
        side_by_side(halved, range(50))
    assert threading.active_count() == before


@pytest.mark.parametrize("outer", [partial(ahead, threads=2), side_by_side])
def test_work_within_such_work_is_not_shared_out_again(
    outer: Callable[[Callable[[int], set[int]], range], Iterable[set[int]]],
) -> None:
    everyone = threading.Barrier(4, timeout=10)

    def names_within(_: int) -> set[int]:
        return set(side_by_side(lambda _: threading.get_ident(), range(8)))

    def wait(_: int) -> int:
        return everyone.wait()

    assert all(len(names) == 1 for names in outer(names_within, range(4)))
    # what waits does not compute
    [*outer(lambda _: set(side_by_side(wait, range(4), threads=4)), range(1))]


def test_one_thread_ahead_shares_its_work_out() -> None:
    both = threading.Barrier(2, timeout=10)
    [*ahead(lambda _: side_by_side(lambda _: both.wait(), range(2)), range(1))]


def _until(condition: Callable[[], bool]) -> None:
    start = monotonic()
    while not condition():
        assert monotonic() - start < 10
