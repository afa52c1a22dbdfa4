"""The wrong kind of argument is InvalidInputError at once.

What a call returned may be given again as a reference.
"""

import inspect
import itertools
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import torch

import share_registry as sr
from share_registry.registry.arguments import _CHECKS
from tests.cli.tiny import SPACE, write_adapter
from tests.registry.conftest import Open
from tests.registry.strange import Mute

Verb = Callable[[sr.Registry], Any]


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sr.Registry]:
    """A registry with cola@v1 and cola@v2."""
    place = tmp_path_factory.mktemp("arguments")
    with sr.Registry.open(place / "registry") as registry:
        for seed in (1, 2):
            registry.commit(
                write_adapter(place / f"cola{seed}", seed=seed),
                task="cola",
                labels={"stage": "test"},
                metrics={"accuracy": 0.5},
            )
        yield registry


@pytest.mark.parametrize("verb", ["commit", "export", "sync"])
def test_an_empty_path_is_not_the_current_directory(verb: str, registry: sr.Registry) -> None:
    ref = ("cola",) if verb == "export" else ()
    with pytest.raises(sr.InvalidInputError, match="expected a path") as caught:
        getattr(registry, verb)(*ref, "")
    assert caught.value.hint.startswith("Name one")


REFS: dict[str, Callable[[sr.Registry, Any], Any]] = {
    "checkout": lambda registry, ref: registry.checkout(ref),
    "export": lambda registry, ref: registry.export(ref, Path(registry.location).parent / "out"),
    "show": lambda registry, ref: registry.show(ref),
    "resolve": lambda registry, ref: registry.resolve(ref),
    "lineage": lambda registry, ref: registry.lineage(ref),
    "diff": lambda registry, ref: registry.diff(ref, ref),
    "set_alias": lambda registry, ref: registry.set_alias(ref, "prod"),
    "tag": lambda registry, ref: registry.tag("first", ref),
    "annotate": lambda registry, ref: registry.annotate(ref, labels={"seen": "yes"}),
}


@pytest.mark.parametrize("verb", REFS)
def test_what_a_call_returned_is_a_reference(verb: str, registry: sr.Registry) -> None:
    asked = registry.resolve("cola@v1")
    for ref in (asked, registry.show("cola@v1"), asked.ref):
        assert REFS[verb](registry, ref)
    assert registry.space(SPACE).resolve(asked) == asked
    assert registry.log(limit=None, author=None)


@pytest.mark.parametrize("verb", [*REFS, "restore"])
@pytest.mark.parametrize("ref", [None, 1, b"cola", ["cola"], Path("cola")])
def test_what_is_no_reference_is_refused(verb: str, ref: object, registry: sr.Registry) -> None:
    with pytest.raises(sr.InvalidInputError, match="expected a reference"):
        (REFS | {"restore": lambda registry, ref: registry.restore(ref)})[verb](registry, ref)


WRONG: dict[str, Verb] = {
    "message no unicode": lambda registry: registry.commit("x", message="caf\udce9"),
    "author no unicode": lambda registry: registry.log(author="caf\udce9"),
    "labels no unicode": lambda registry: registry.commit("x", labels={"a": "caf\udce9"}),
    "message": lambda registry: registry.commit("x", message=5),  # type: ignore[arg-type]
    "message none": lambda registry: registry.commit("x", message=None),  # type: ignore[arg-type]
    "author": lambda registry: registry.commit("x", author=b"me"),  # type: ignore[arg-type]
    "labels": lambda registry: registry.commit("x", labels=[("a", "b")]),  # type: ignore[arg-type]
    "metrics": lambda registry: registry.commit("x", metrics="f1=2"),  # type: ignore[arg-type]
    "derived": lambda registry: registry.commit("x", derived_from=7),  # type: ignore[arg-type]
    "derived in": lambda registry: registry.commit("x", derived_from=[7]),  # type: ignore[list-item]
    "expected": lambda registry: registry.commit("x", expected="v1"),  # type: ignore[arg-type]
    "expected negative": lambda registry: registry.commit("x", expected=-1),
    "expected bool": lambda registry: registry.set_alias("cola", "prod", expected=True),
    "space": lambda registry: registry.log(5),  # type: ignore[arg-type]
    "space object": lambda registry: registry.space(registry.space(SPACE)),  # type: ignore[arg-type]
    "reason": lambda registry: registry.drop("cola", reason=None),  # type: ignore[arg-type]
    "task": lambda registry: registry.drop(5),  # type: ignore[arg-type]
    "alias": lambda registry: registry.set_alias("cola", None),  # type: ignore[arg-type]
    "many": lambda registry: registry.commit_many(["x"]),  # type: ignore[arg-type]
    "policy": lambda registry: registry.set_policy({"budget": 0}, space=SPACE),  # type: ignore[arg-type]
    "root": lambda registry: registry.export("cola", 5),  # type: ignore[arg-type]
    "limit": lambda registry: registry.log(limit="all"),  # type: ignore[arg-type]
    "limit none": lambda registry: registry.log(limit=0),
    "limit negative": lambda registry: registry.similar("cola", limit=-1),
    "limit past the databases": lambda registry: registry.tasks(limit=1 << 31),
    "limit past all numbers": lambda registry: registry.log(limit=10**30),
    "before the first": lambda registry: registry.log(before=0),
    "since a commit": lambda registry: registry.log(since=3),  # type: ignore[arg-type]
    "a label that is no text": lambda registry: registry.tasks(labels={"x": True}),  # type: ignore[dict-item]
    "a label's name that is no text": lambda registry: registry.tasks(labels={1: "x"}),  # type: ignore[dict-item]
    "at no time": lambda registry: registry.tasks(at=1.5),  # type: ignore[arg-type]
    "at a truth": lambda registry: registry.basis(at=True),
    "a path with a NUL": lambda registry: registry.commit("a\0b", task="x"),
    "a path of half a character": lambda registry: registry.export("cola", "\ud800"),
    "paths with a NUL": lambda registry: registry.commit_many({"x": "a\0b"}),
    "a location with a NUL": lambda _: sr.Registry.open("sqlite:////tmp/a\0b", store="x"),
    "a location that is none": lambda _: sr.Registry.open(5),  # type: ignore[arg-type]
    "bytes as references": lambda registry: registry.commit("x", derived_from=b"cola"),  # type: ignore[arg-type]
    "a location no unicode": lambda _: sr.Registry.open("caf\udce9"),
    "a store no unicode": lambda _: sr.Registry.open("sqlite:///x", store="caf\udce9"),
    "in a space": lambda registry: registry.space(SPACE).annotate("cola", labels="x"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("name", WRONG)
def test_the_wrong_kind_of_value_is_named(name: str, registry: sr.Registry) -> None:
    with pytest.raises(sr.InvalidInputError, match=r"is .* \(.*\), expected") as caught:
        WRONG[name](registry)
    assert caught.value.hint


def test_an_argument_that_no_call_has_is_named_with_the_call(registry: sr.Registry) -> None:
    with pytest.raises(TypeError, match=r"Registry\.publish\(\) .*unexpected.*'dry_run'"):
        registry.publish([], dry_run=True)  # type: ignore[call-arg]


def test_every_parameter_of_the_facade_has_a_check() -> None:
    parameters = {
        (method, name)
        for facade in (sr.Registry, sr.Space)
        for method, function in inspect.getmembers(facade, callable)
        if not method.startswith("_")
        for name in inspect.signature(function).parameters
    }
    of_one = {check for check in _CHECKS if "." in check}
    assert of_one <= {f"{method}.{name}" for method, name in parameters}
    assert {name for _, name in parameters} - {"self"} == _CHECKS.keys() - of_one


@pytest.mark.parametrize("value", ["false", 0, 1, None])
def test_a_switch_is_true_or_false_and_nothing_else(value: Any, registry: sr.Registry) -> None:
    with pytest.raises(sr.InvalidInputError, match="expected True or False"):
        registry.refit(dry_run=value)
    with pytest.raises(sr.InvalidInputError, match="expected True or False"):
        sr.Policy(references=value)


def test_a_value_that_cannot_be_written_is_named_by_its_type(registry: sr.Registry) -> None:
    with pytest.raises(sr.InvalidInputError, match=r"limit is <.*> \(Mute\), expected"):
        registry.log(limit=Mute())  # type: ignore[arg-type]
    with pytest.raises(sr.InvalidInputError, match=r"budget <int object at .*> is not a number"):
        sr.Policy(budget=10**5000)


def test_the_first_wrong_item_ends_what_never_ends(registry: sr.Registry) -> None:
    with pytest.raises(sr.InvalidInputError, match="expected a reference"):
        registry.commit("x", derived_from=itertools.count())  # type: ignore[arg-type]


def test_a_metric_past_float64_is_no_number(registry: sr.Registry) -> None:
    with pytest.raises(sr.InvalidInputError, match="not a finite number"):
        registry.annotate("cola", metrics={"f1": 10**400})


def test_one_parent_and_one_name_may_stand_alone(registry: sr.Registry, tmp_path: Path) -> None:
    commit = registry.commit(write_adapter(tmp_path / "heir", seed=3), derived_from="cola")
    assert "derived" in {node.via for node in registry.lineage(commit).nodes}
    commit = registry.commit(
        write_adapter(tmp_path / "heir2", seed=4), derived_from=commit, labels={"stage": "test"}
    )
    registry.annotate(commit, remove="stage")
    assert "stage" not in next(task for task in registry.tasks() if task.name == "heir2").labels


@pytest.mark.parametrize("device", ["cuda:99", "xyz", object()])
def test_a_device_that_is_not_there_is_named(device: Any, registry: sr.Registry) -> None:
    with pytest.raises(sr.InvalidInputError, match="device"):
        registry.checkout("cola", device=device)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cuda_without_a_gpu_is_refused(registry: sr.Registry) -> None:
    with pytest.raises(sr.InvalidInputError, match="device 'cuda' is not there; there is cpu"):
        registry.checkout("cola", device="cuda")


def test_a_label_and_a_metric_may_not_share_a_name(registry: sr.Registry, tmp_path: Path) -> None:
    with pytest.raises(sr.InvalidInputError, match="'f1' would be a label and a metric"):
        registry.commit(
            write_adapter(tmp_path / "both", seed=5), labels={"f1": "good"}, metrics={"f1": 0.5}
        )
    with pytest.raises(sr.InvalidInputError, match="'f1' would be"):
        registry.annotate("cola@v1", labels={"f1": "good"}, metrics={"f1": 0.5})
    with pytest.raises(sr.InvalidInputError, match="'stage' would be"):
        registry.annotate("cola@v1", metrics={"stage": 1})
    with pytest.raises(sr.InvalidInputError, match="'accuracy' would be"):
        registry.annotate("cola@v1", labels={"accuracy": "good"})
    assert registry.annotate("cola@v2", labels={"accuracy": "good"}, remove=["accuracy"]).created


EARLY, LATE = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)


@pytest.mark.parametrize(
    "time", ["20261126", "2026-W48-4", "2026-11-26T120000", "0001-01-01", "9999-12-31", EARLY, LATE]
)
def test_a_time_in_another_notation_or_out_of_range_is_refused(
    registry: sr.Registry, time: str | datetime
) -> None:
    """None is taken for another moment than was meant."""
    with pytest.raises(
        sr.InvalidInputError, match=r"is not a calendar date or time|is out of range"
    ) as raised:
        registry.log(until=time)
    assert raised.value.hint


@pytest.mark.parametrize("time", ["0001-01-01", "9999-12-31", EARLY, LATE])
def test_a_state_at_a_time_out_of_range_is_refused(
    registry: sr.Registry, time: str | datetime
) -> None:
    with pytest.raises(sr.InvalidInputError, match="is out of range"):
        registry.tasks(at=time)


@pytest.mark.parametrize("budget", ["x", 2.0, float("nan"), True])
def test_a_budget_is_checked_where_the_adapter_is_there_already(
    registry: sr.Registry, tmp_path: Path, budget: Any
) -> None:
    adapter = write_adapter(tmp_path / "budgeted", seed=11)
    registry.commit(adapter, task="budgeted")
    with pytest.raises(sr.InvalidInputError, match="budget"):
        registry.commit(adapter, task="budgeted", budget=budget)


def test_numbers_past_float64_are_no_budget_and_no_weight(registry: sr.Registry) -> None:
    with pytest.raises(sr.InvalidInputError, match="budget"):
        sr.Policy(budget=10**400)
    with pytest.raises(sr.InvalidInputError, match="is beyond"):
        registry.merge({"cola@v1": 10**400}, task="x")


# Of every parameter that takes a whole number, a call with it
NUMBERED: dict[str, Callable[[sr.Registry, int], Any]] = {
    "at of tasks": lambda registry, number: registry.tasks(at=number),
    "at of basis": lambda registry, number: registry.basis(at=number),
    "at of alias_history": lambda registry, number: registry.alias_history("t", "prod", at=number),
    "before": lambda registry, number: registry.log(before=number),
    "expected": lambda registry, number: registry.commit(
        registry.checkout("t"), task="t", expected=number
    ),
    "expected of set_alias": lambda registry, number: registry.set_alias(
        "t", "prod", expected=number
    ),
    "limit": lambda registry, number: registry.log(limit=number),
    "limit of tasks": lambda registry, number: registry.tasks(limit=number),
    "max_rank": lambda registry, number: registry.refit(max_rank=number, force=True),
    "seed": lambda registry, number: registry.merge(
        {"t": 0.5, "u": 0.5}, task="merged", method="dare", seed=number
    ),
    "memory_limit": lambda registry, number: sr.Materializer(registry, memory_limit=number),
}
REFERENCES = ("t@v{}", "t@c{}", "@c{}", "t~{}", "c{}")


@pytest.mark.parametrize("bits", [31, 53, 63, 20_000])
def test_a_number_of_any_size_is_taken_or_refused(
    bits: int, open_registry: Open, tmp_path: Path
) -> None:
    registry = open_registry()
    for seed, task in enumerate("tu"):
        registry.commit(write_adapter(tmp_path / task, seed=seed), task=task)
    digits = str(1 << bits) if bits < 64 else "9" * 5000
    for call in NUMBERED.values():
        for number in ((1 << bits) - 1, 1 << bits):
            with suppress(sr.ShareRegistryError):
                call(registry, number)
    for ref in REFERENCES:
        with suppress(sr.ShareRegistryError):
            registry.resolve(ref.format(digits))
    assert registry.verify().ok
