"""A policy bounds how many versions need one object, whatever is committed in whatever order."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest
import torch
from hypothesis import given, settings, strategies as st

import share_registry as sr
from share_registry.exchange.adapter import Adapter
from share_registry.format.records import AbsorbRecord, MergeRecord, RefitRecord, parse_record
from share_registry.names import Digest, SpaceName
from share_registry.registry.commands import commit, merge, prepare
from share_registry.registry.commands.dependents import closure
from share_registry.store.protocol import object_name
from tests.registry.families import adapter_from_rows
from tests.registry.planted import write_planted

SPACE: Final = SpaceName("tiny")
TASKS: Final = ("a", "b", "c")
CHANGE: Final = 0.1
"""How far a version is from the one before: near enough to be coded against it."""


class Lab:
    """A registry in memory, and tasks whose versions continue each other."""

    def __init__(self, limit: int | None) -> None:
        self.registry = sr.Registry.open("memory://")
        policy = sr.Policy(max_dependents=limit)
        self.registry.create_space(SPACE, base_model="acme/tiny", policy=policy)
        self.generator = torch.Generator().manual_seed(0)
        self.rows = {task: (self.normal(4, 96), self.normal(4, 64)) for task in TASKS}

    def normal(self, *shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=self.generator)

    def next(self, task: str) -> Adapter:
        """Return the next version of a task."""
        a, b = self.rows[task]
        self.rows[task] = (
            a + CHANGE * self.normal(*a.shape),
            b + CHANGE * self.normal(*b.shape),
        )
        return adapter_from_rows({"proj": self.rows[task]})

    def needs(self) -> dict[Digest, set[Digest]]:
        """Return what each adapter object of the log needs, with all that that needs."""
        store, reader = self.registry.context.store, self.registry.context.reader()
        needs = {}
        for number in store.numbers(SPACE):
            record = parse_record(store.record(SPACE, number) or b"", subject="record")
            if isinstance(record, AbsorbRecord | MergeRecord | RefitRecord):
                for task in record.tasks:
                    needs[task.adapter] = {*closure(reader, [task.adapter])} - {task.adapter}
        return needs

    def most(self) -> int:
        """Return how many adapter objects need the object that most of them need."""
        return max(
            Counter(each for own in self.needs().values() for each in own).values(), default=0
        )


def commit_next(lab: Lab, task: str) -> None:
    lab.registry.commit(lab.next(task), task=task)


def commit_all(lab: Lab, _: str) -> None:
    lab.registry.commit_many({task: lab.next(task) for task in TASKS})


def commit_derived(lab: Lab, task: str) -> None:
    newest = [each.ref for each in lab.registry.tasks()]
    lab.registry.commit(lab.next(task), task=task, derived_from=newest[:1])


def prepare_twice(lab: Lab, task: str) -> None:
    """Prepare two versions upon the same commit, and publish one behind the other."""
    prepared = [lab.registry.prepare(lab.next(task), task=task) for _ in range(2)]
    for each in prepared:
        lab.registry.publish(each)


def restore_first(lab: Lab, task: str) -> None:
    if versions := versions_of(lab, task):
        lab.registry.restore(versions[0])


def merge_into(lab: Lab, task: str) -> None:
    others = [each.ref for each in lab.registry.tasks() if each.name != task]
    if others:
        lab.registry.merge(dict.fromkeys(others, 0.5), task=task)


def name_again(lab: Lab, task: str) -> None:
    """Give another task's version a name here: the same object in two tasks."""
    others = [each.ref for each in lab.registry.tasks() if each.name != task]
    if others:
        lab.registry.merge({others[0]: 1.0}, task=task)


def versions_of(lab: Lab, task: str) -> list[str]:
    return [each.ref for each in lab.registry.tasks(all_versions=True) if each.name == task]


Step = Callable[[Lab, str], None]
Steps = list[tuple[Step, str]]
STEPS: Final[tuple[Step, ...]] = (
    commit_next,
    commit_next,
    commit_next,
    commit_all,
    commit_derived,
    prepare_twice,
    restore_first,
    merge_into,
    name_again,
)
some_steps = st.lists(
    st.tuples(st.sampled_from(STEPS), st.sampled_from(TASKS[:2])), min_size=4, max_size=14
)


def check_bound(limit: int, steps: Steps) -> None:
    lab = Lab(limit)
    for step, task in steps:
        step(lab, task)
        assert lab.most() <= limit
    assert lab.registry.verify("deep").ok


@settings(max_examples=12, deadline=None)
@given(limit=st.integers(1, 3), steps=some_steps)
def test_no_object_has_more_dependents_than_the_policy_allows(limit: int, steps: Steps) -> None:
    check_bound(limit, steps)


def unchecked_when_prepared(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(prepare, "_may_need", lambda *_: True)
    for module in (commit, merge):
        patch.setattr(module, "check_dependents", lambda *_: None)


def test_a_version_that_was_prepared_is_coded_again_where_others_came_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    steps: Steps = [(commit_next, "a"), (prepare_twice, "a")]
    check_bound(1, steps)
    with monkeypatch.context() as patch:
        unchecked_when_prepared(patch)
        with pytest.raises(AssertionError):
            check_bound(1, steps)


def test_who_loses_a_race_for_the_last_place_is_told_to_try_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lab = Lab(1)
    commit_next(lab, "a")
    late = lab.registry.prepare(lab.next("a"), task="a")
    commit_next(lab, "a")
    # as if the second had come between the look at the head and publishing
    monkeypatch.setattr(prepare, "_may_need", lambda *_: True)
    with pytest.raises(sr.ConflictError, match="task tiny/a got another version meanwhile"):
        lab.registry.publish(late)
    monkeypatch.undo()
    assert lab.registry.publish(late).created
    assert lab.most() == 1


def test_an_object_of_two_tasks_is_referred_to_by_neither() -> None:
    lab = Lab(1)
    commit_next(lab, "a")
    name_again(lab, "b")
    for task in "ab":
        commit_next(lab, task)
    assert lab.most() == 0


@pytest.mark.parametrize("limit", [1, 3, None])
def test_versions_stand_on_their_own_now_and_then(limit: int | None) -> None:
    lab = Lab(limit)
    for _ in range(9):
        commit_next(lab, "a")
    alone = [number for number, needs in enumerate(lab.needs().values()) if not needs]
    assert alone == ([0] if limit is None else [*range(0, 9, limit + 1)])


def test_a_damaged_object_takes_no_more_versions_with_it(tmp_path: Path) -> None:
    folders = write_planted(tmp_path / "adapters", 1)
    (directory,) = folders.values()
    place = tmp_path / "registry"
    with sr.Registry.open(place) as registry:
        policy = sr.Policy(max_dependents=2)
        space = registry.create_space(SPACE, base_model="acme/tiny", policy=policy)
        adapter = space.checkout(space.commit(directory, task="t").ref)
        for number in range(6):
            generator = torch.Generator().manual_seed(number)
            for tensor in adapter.tensors.values():
                tensor += 0.01 * torch.randn(tensor.shape, generator=generator) * tensor.std()
            space.commit(adapter, task="t")
        first = space.log(task="t")[-1].number
        record = parse_record(registry.context.store.record(SPACE, first) or b"", subject="record")
    assert isinstance(record, AbsorbRecord)
    path = place / object_name(record.tasks[0].adapter)
    path.chmod(0o644)
    path.write_bytes(b"rotten")
    with sr.Registry.open(place, mode="r") as registry:
        (finding,) = registry.verify(raise_on_damage=False).findings
        assert finding.refs == ("tiny/t@v1", "tiny/t@v2", "tiny/t@v3")
        assert registry.checkout("t@v4").tensors


def test_a_bounded_space_has_no_basis(tmp_path: Path) -> None:
    folders = write_planted(tmp_path / "adapters", 16, shared=12)
    with sr.Registry.open(tmp_path / "registry") as registry:
        registry.create_space(SPACE, base_model="acme/tiny", policy=sr.Policy(max_dependents=3))
        registry.commit_many(folders)
        assert not [entry for entry in registry.log() if entry.kind == "refit"]
        with pytest.raises(sr.NotFoundError):
            registry.basis()
        with pytest.raises(sr.RefusedError, match="none may refer to a basis"):
            registry.refit(max_rank=4, force=True)


def test_a_record_with_such_a_policy_is_for_readers_that_know_it(tmp_path: Path) -> None:
    """Spec COM-13."""
    with sr.Registry.open(tmp_path / "registry") as registry:
        registry.create_space(SPACE, base_model="acme/tiny", policy=sr.Policy(max_dependents=3))
        registry.set_policy(sr.Policy(max_dependents=4), space=SPACE)
        registry.set_policy(sr.Policy(), space=SPACE)
        assert registry.space(SPACE).summary.policy == sr.Policy()
        details = [entry.detail for entry in registry.log()]
        assert "at most 4 dependents" in details[1]
        assert "dependents" not in details[0]
        store = registry.context.store
        records = [
            json.loads(store.record(SPACE, number) or b"") for number in store.numbers(SPACE)
        ]
    assert [record["requires"] for record in records] == [
        ["bounded-dependents"],
        ["bounded-dependents"],
        [],
    ]


@pytest.mark.parametrize("value", [0, -1, 65_536, True, 2.0, "3"])
def test_what_is_no_limit_is_refused(value: Any) -> None:
    with pytest.raises(sr.InvalidInputError, match=r"^max_dependents .* is not a whole number"):
        sr.Policy(max_dependents=value)


def test_the_papers_protocol_bounds_nothing() -> None:
    with pytest.raises(sr.InvalidInputError, match="max_dependents 3 is given with k 8"):
        sr.Policy(k=8, max_dependents=3)
