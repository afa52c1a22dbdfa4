"""Tasks, versions and commits are found by what was measured of them, and adapters by content."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import share_registry as sr
from tests.cli.tiny import write_adapter

ACCURACY = {"cola": (0.7, 0.9, 0.8), "sst2": (0.85,), "mnli": (0.6, 0.65), "none": ()}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("search")


@pytest.fixture(scope="module")
def registry(root: Path) -> sr.Registry:
    registry = sr.Registry.open(root / "registry")
    seed = 0
    for task, values in ACCURACY.items():
        for value in values or (None,):
            seed += 1
            registry.commit(
                write_adapter(root / f"{task}-{seed}", seed=seed),
                task=task,
                metrics={} if value is None else {"acc": value, "loss": 1 - value, "raw": value},
                labels={"team": "search" if task < "n" else "speech", "run": f"r{seed}"},
            )
    registry.set_alias("cola@v2", "prod")
    return registry


def _refs(tasks: list[sr.Task]) -> list[str]:
    return [task.ref.partition("/")[2] for task in tasks]


@pytest.mark.parametrize(
    ("asked", "refs"),
    [
        ({"where": "acc>0.7"}, ["cola@v3", "sst2@v1"]),
        ({"where": "acc>=65%"}, ["cola@v3", "mnli@v2", "sst2@v1"]),
        ({"where": "acc>0.7,loss>0.18"}, ["cola@v3"]),
        ({"where": ["acc>0.7", "loss<0.18"]}, ["sst2@v1"]),
        ({"where": "acc!=0.8"}, ["mnli@v2", "sst2@v1"]),
        ({"where": "acc"}, ["cola@v3", "mnli@v2", "sst2@v1"]),
        ({"where": "raw<1"}, ["cola@v3", "mnli@v2", "sst2@v1"]),
        ({"where": "version > 1"}, ["cola@v3", "mnli@v2"]),
        ({"sort": "-acc"}, ["sst2@v1", "cola@v3", "mnli@v2", "none@v1"]),
        ({"sort": "acc", "limit": 2}, ["mnli@v2", "cola@v3"]),
        (
            {"sort": "-acc", "all_versions": True, "where": "acc>0.65"},
            ["cola@v2", "sst2@v1", "cola@v3", "cola@v1"],
        ),
        ({"all_versions": True, "where": "acc<0.75"}, ["cola@v1", "mnli@v2", "mnli@v1"]),
        ({"all_versions": True, "alias": "prod"}, ["cola@v2"]),
        ({"all_versions": True, "at": "c3"}, ["cola@v2", "cola@v1"]),
        ({"labels": {"team": "s*"}, "where": "acc>0.8"}, ["sst2@v1"]),
        ({"labels": {"run": "r[13]"}}, ["cola@v3"]),
        ({"labels": {"run": "r1"}, "all_versions": True}, ["cola@v1"]),
        ({"sort": "-time", "limit": 1}, ["none@v1"]),
    ],
)
def test_tasks_are_found_by(
    asked: dict[str, object], refs: list[str], registry: sr.Registry
) -> None:
    assert _refs(registry.tasks(**asked)) == refs  # type: ignore[arg-type]


@pytest.mark.parametrize("limit", [1, 2, 3])
@pytest.mark.parametrize(
    "asked",
    [{"all_versions": True}, {"sort": "-acc"}, {"sort": "acc", "all_versions": True}, {}],
    ids=str,
)
def test_pages_of_a_search_are_the_search(
    asked: dict[str, object], limit: int, registry: sr.Registry
) -> None:
    whole = _refs(registry.tasks(**asked))  # type: ignore[arg-type]
    assert _refs([*sr.iterate(registry.tasks, limit=limit, **asked)]) == whole
    typed, pages = [], _refs(registry.tasks(limit=limit, **asked))  # type: ignore[arg-type]
    while pages:
        typed += pages
        pages = _refs(registry.tasks(limit=limit, after=pages[-1], **asked))  # type: ignore[arg-type]
    assert typed == whole


@pytest.mark.parametrize(
    ("asked", "numbers"),
    [
        ({"metric": "acc>0.7"}, [5, 4, 3]),
        ({"metric": "acc", "limit": 2}, [7, 6]),
        ({"labels": {"run": "r[2-4]"}}, [5, 4, 3]),
        ({"labels": {"team": "speech"}, "metric": "acc"}, [5]),
    ],
)
def test_commits_are_found_by(
    asked: dict[str, object], numbers: list[int], registry: sr.Registry
) -> None:
    found = [commit.number for commit in registry.log(**asked)]  # type: ignore[arg-type]
    assert found == numbers


@pytest.mark.parametrize("where", ["acc>", "acc>x", ">0.5", "acc>nan", "acc>0.5>0.6", ""])
def test_a_condition_that_is_none_is_named(where: str, registry: sr.Registry) -> None:
    with pytest.raises(sr.InvalidInputError, match="condition") as caught:
        registry.tasks(where=where)
    assert "acc>0.8" in caught.value.hint


def test_a_sort_by_what_no_task_has_is_refused(registry: sr.Registry) -> None:
    with pytest.raises(sr.NotFoundError, match="no task has the metric 'ac'") as caught:
        registry.tasks(sort="-ac")
    assert "acc" in caught.value.hint


def test_a_directory_is_identified_as_committed_and_as_exported(
    root: Path, registry: sr.Registry
) -> None:
    (committed,) = registry.identify(root / "cola-2")
    exported = registry.export("cola@v2", root / "serve")
    (identity,) = registry.identify(exported.path)
    assert (committed.ref, committed.form) == ("tiny-model/cola@v2", "as committed")
    assert (identity.ref, identity.form) == ("tiny-model/cola@v2", "as exported")
    with pytest.raises(sr.NotFoundError, match="no version is the adapter at"):
        registry.identify(write_adapter(root / "stranger", seed=99))


def test_a_checkpoint_is_the_version_that_was_committed_from_memory(
    root: Path, registry: sr.Registry
) -> None:
    checkpoint = shutil.copytree(root / "cola-2", root / "checkpoint-20")
    (checkpoint / "trainer_state.json").write_text("{}")
    (identity,) = registry.identify(checkpoint)
    assert (identity.ref, identity.form) == ("tiny-model/cola@v2", "without its other files")
    registry.commit(checkpoint, task="whole")
    (identity,) = registry.identify(checkpoint)
    assert (identity.ref, identity.form) == ("tiny-model/whole@v1", "as committed")


@pytest.mark.parametrize("attached", [False, True], ids=["", "with a file"])
def test_an_export_of_the_newest_version_is_unchanged(root: Path, attached: bool) -> None:
    source = write_adapter(root / f"attached-{attached}", seed=9)
    if attached:
        (source / "notes.txt").write_text("read me")
    with sr.Registry.open("memory://") as registry:
        assert registry.commit(source, task="cola").report.error > 0  # type: ignore[union-attr]
        export = registry.export("cola", root / source.name / "serve").path
        again = registry.commit(export, task="cola")
        assert (again.created, again.versions) == (False, {"cola": 1})
        portable = registry.export("cola", root / source.name / "serve", profile="portable").path
        (export / "notes.txt").write_text("changed")
        for other in (export, portable):
            assert registry.commit(other, task="cola").created


def test_an_adapter_of_an_older_version_says_so(root: Path) -> None:
    with sr.Registry.open("memory://") as registry:
        for source in ("cola-1", "cola-2"):
            registry.commit(root / source, task="cola")
        again = registry.commit(root / "cola-1", task="cola")
    assert again.report is not None
    assert (again.ref, "the same adapter as v1." in again.report.notes) == (
        "tiny-model/cola@v3",
        True,
    )


def test_numbers_of_arrays_and_tensors_are_metrics(root: Path) -> None:
    import numpy as np

    with sr.Registry.open("memory://") as registry:
        commit = registry.commit(
            root / "cola-1",
            task="cola",
            metrics={"a": torch.tensor(0.5), "b": np.float32(0.25), "c": np.int64(3)},  # type: ignore[dict-item]
            labels={"run": 7},  # type: ignore[dict-item]
        )
        assert (commit.metrics, commit.labels["run"]) == ({"a": 0.5, "b": 0.25, "c": 3.0}, "7")
        for wrong in (
            torch.tensor([0.5, 0.6]),
            "0.5",
            True,
            None,
            torch.tensor(0.5, device="meta"),
        ):
            with pytest.raises(sr.InvalidInputError, match="expected one number"):
                registry.annotate("cola", metrics={"a": wrong})  # type: ignore[dict-item]
        with pytest.raises(sr.InvalidInputError, match="not a finite number"):
            registry.annotate("cola", metrics={"a": torch.tensor(float("nan"))})  # type: ignore[dict-item]


def test_lists_are_tables_in_a_notebook(registry: sr.Registry) -> None:
    lists: tuple[Any, ...] = (
        registry.tasks(),
        registry.spaces(),
        registry.aliases(),
        registry.alias_history("cola", "prod"),
    )
    for listed in lists:
        assert "<table>" in listed._repr_html_()
    empty: Any = registry.tags()
    assert '<p class="note">none</p>' in empty._repr_html_()
