"""In which order adapters are imported: pure, the same for any number of workers.

The adapters of a wave are coded side by side, against what their spaces hold before it. The first
adapter of a space is a wave of its own, and every later wave is as large as what is there already:
so most adapters have others to refer to, and a basis is tried at the same counts as if they had
been committed one by one. Two versions of a task, and an adapter and what it was made from, never
share a wave.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from share_registry.names import SpaceName, TaskName

# Adapters of one record: what a wave is at most in a space
MAX_WAVE: Final = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportRow:
    """One adapter that is to be committed.

    Attributes:
        number: Its place among all that is imported.
        space, task: Where it goes.
        parents: Tasks that it is made from, as far as they are of the same space.
        stands_alone: Whether it is coded without reference to others.
    """

    number: int
    space: SpaceName
    task: TaskName
    parents: frozenset[str] = frozenset()
    stands_alone: bool = False


def next_wave(rows: Sequence[ImportRow], tasks: Mapping[SpaceName, int]) -> list[ImportRow]:
    """Return the rows that are coded next, in order: at least the first one.

    Args:
        rows: All that are left, in the order given.
        tasks: How many tasks each space has.
    """
    wave: list[ImportRow] = []
    sizes: Counter[SpaceName] = Counter()
    # tasks of which an earlier row is not committed yet
    waiting: set[tuple[SpaceName, str]] = set()
    for row in rows:
        most = MAX_WAVE if row.stands_alone else min(MAX_WAVE, max(1, tasks.get(row.space, 0)))
        needed = {(row.space, task) for task in (row.task, *row.parents)}
        if sizes[row.space] < most and not needed & waiting:
            wave.append(row)
            sizes[row.space] += 1
        waiting.add((row.space, row.task))
    return wave
