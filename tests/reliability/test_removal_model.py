"""The steps of chapter 16 keep its invariants, and each of its rules is needed."""

from collections.abc import Iterable

import pytest

from tests.reliability.removal_model import (
    WRITERS,
    Rules,
    State,
    explore,
    needed,
    objects_of,
    remove_alone,
)


def _broken(states: Iterable[State], rules: Rules) -> set[str]:
    """Return the invariants that some state breaks."""
    broken = set()
    for state in states:
        if not needed(state) <= state.present.keys():
            broken.add("INV-1")
        if any(
            state.writers[number].acknowledged and number not in state.log for number in WRITERS
        ):
            broken.add("INV-2")
        if any(state.writers[number].at == "put" and number in state.log for number in WRITERS):
            broken.add("INV-3")
        cleaned = remove_alone(remove_alone(state, rules), rules)
        if not cleaned.present.keys() <= needed(cleaned):
            broken.add("INV-4")
    return broken


@pytest.mark.parametrize("grace", [0, 1, 2])
def test_with_the_lock_every_invariant_holds_for_any_grace(grace: int) -> None:
    rules = Rules(grace=grace)
    states = explore(rules)
    assert _broken(states, rules) == set()
    # all that the invariants are about happens: both publish, and objects are removed
    assert any(len(state.log) == len(WRITERS) for state in states)
    assert any(state.remover.at == "done" and len(state.present) < 2 for state in states)
    assert any(
        state.remover.at == "done" and {*objects_of(0)} <= state.present.keys() for state in states
    )


def test_without_the_lock_prompt_writers_are_safe() -> None:
    rules = Rules(lock=False)
    states = explore(rules)
    assert _broken(states, rules) == set()
    assert any(len(state.log) == len(WRITERS) for state in states)


@pytest.mark.parametrize(
    "rules",
    [
        Rules(looks=False),
        Rules(follows=False),
        Rules(lock=False, prompt=False),
        Rules(lock=False, ages=False),
    ],
    ids=["looks", "follows", "prompt", "ages"],
)
def test_a_rule_left_out_breaks_an_invariant(rules: Rules) -> None:
    assert "INV-1" in _broken(explore(rules), rules)
