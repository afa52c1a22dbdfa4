"""In which order adapters are imported, for any list."""

from collections import Counter

from hypothesis import given, strategies as st

from share_registry.names import SpaceName, TaskName
from share_registry.registry.commands.import_order import MAX_WAVE, ImportRow, next_wave

SPACES = [SpaceName("a"), SpaceName("b")]
TASKS = [TaskName(f"t{number}") for number in range(6)]


@st.composite
def _lists(draw: st.DrawFn) -> list[ImportRow]:
    return [
        ImportRow(
            number=number,
            space=draw(st.sampled_from(SPACES)),
            task=draw(st.sampled_from(TASKS)),
            parents=frozenset(draw(st.lists(st.sampled_from(TASKS), max_size=2))),
            stands_alone=draw(st.booleans()),
        )
        for number in range(draw(st.integers(1, 40)))
    ]


def _waves(rows: list[ImportRow], tasks: Counter[SpaceName]) -> list[list[ImportRow]]:
    left, waves, names = list(rows), [], set[tuple[str, str]]()
    while left:
        wave = next_wave(left, tasks)
        assert wave[0] is left[0]
        for row in wave:
            tasks[row.space] += (row.space, row.task) not in names
            names.add((row.space, row.task))
        left = [row for row in left if row not in wave]
        waves.append(wave)
    return waves


@given(_lists(), st.integers(0, 700))
def test_every_row_has_its_turn_after_what_it_waits_for(rows: list[ImportRow], there: int) -> None:
    waves = _waves(rows, Counter({SPACES[0]: there}))
    turn = {row.number: number for number, wave in enumerate(waves) for row in wave}
    assert sorted(turn) == [row.number for row in rows]
    for row in rows:
        for earlier in rows[: row.number]:
            if earlier.space == row.space and earlier.task in (row.task, *row.parents):
                assert turn[earlier.number] < turn[row.number]


def _alone(count: int) -> list[ImportRow]:
    return [
        ImportRow(number=number, space=SPACES[0], task=TaskName(f"t{number}"))
        for number in range(count)
    ]


def test_a_wave_is_as_large_as_what_is_there() -> None:
    sizes = [len(wave) for wave in _waves(_alone(1400), Counter())]
    assert sizes == [1, 1, 2, 4, 8, 16, 32, 64, 128, 256, 500, 388]


def test_spaces_do_not_wait_for_one_another() -> None:
    rows = [
        ImportRow(number=number, space=SPACES[number % 2], task=TaskName(f"t{number}"))
        for number in range(8)
    ]
    assert [len(wave) for wave in _waves(rows, Counter())] == [2, 2, 4]


def test_what_stands_alone_comes_in_the_largest_waves() -> None:
    rows = [
        ImportRow(number=number, space=SPACES[0], task=TaskName(f"t{number}"), stands_alone=True)
        for number in range(MAX_WAVE + 3)
    ]
    assert [len(wave) for wave in _waves(rows, Counter())] == [MAX_WAVE, 3]
