"""The steps of a purge keep INV-1, INV-2, INV-5 and INV-6, and each of its rules is needed."""

from collections.abc import Iterable

import pytest

from tests.reliability.purge_model import (
    FILE,
    OF_TASK,
    WRITERS,
    Purge,
    Rules,
    State,
    explore,
    needed,
    purge_alone,
)


def _broken(states: Iterable[State], rules: Rules) -> set[str]:
    """Return the invariants that some state breaks."""
    broken = set()
    for state in states:
        if not needed(state.log) <= state.objects:
            broken.add("INV-1")
        if any(
            state.writers[number].acknowledged
            and number not in {entry.writer for entry in state.log}
            for number in WRITERS
        ):
            broken.add("INV-2")
        if state.purge.is_whole and not _is_gone(state):
            broken.add("INV-5")
        if not _is_gone(purge_alone(state, rules)):
            broken.add("INV-6")
    return broken


def _is_gone(state: State) -> bool:
    """Tell whether nothing of the task is left, but a file that another has put as well."""
    others = {FILE} if state.writers[1].has_put else set()
    return state.is_purged and not (OF_TASK & state.objects) - others


def test_every_invariant_holds() -> None:
    states = explore(Rules())
    assert _broken(states, Rules()) == set()
    # all that they are about happens: versions are stored anew, and written after the purge
    assert any(entry.anchored == {0, 1} for state in states for entry in state.log)
    assert any(state.log[0].writer is None and len(state.log) == 3 for state in states if state.log)
    assert any(state.purge == Purge(at="done") and state.is_purged for state in states)


@pytest.mark.parametrize(
    ("rules", "invariant"),
    [
        (Rules(behind=False), "INV-6"),
        (Rules(follows=False), "INV-1"),
        (Rules(lock=False), "INV-1"),
        (Rules(naming_last=False), "INV-6"),
        (Rules(replaced=False), "INV-6"),
    ],
    ids=["behind", "follows", "lock", "naming_last", "replaced"],
)
def test_a_rule_left_out_breaks_an_invariant(rules: Rules, invariant: str) -> None:
    assert invariant in _broken(explore(rules), rules)
