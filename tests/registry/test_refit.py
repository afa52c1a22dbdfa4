"""Refit: a basis for later commits, and tasks re-expressed in it within what may be lost."""

from pathlib import Path

import pytest

import share_registry as sr
from tests.registry.plain import files, pooled_error
from tests.registry.planted import write_planted
from tests.registry.test_promises import exports

SPACE = "tiny"
ROUNDING = 1e-6
"""Relative: errors are recorded from float64 sums in another order than numpy's."""


@pytest.fixture
def shared(registry: sr.Registry, tmp_path: Path) -> dict[str, Path]:
    """Six tasks that share columns, committed one by one."""
    registry.create_space(SPACE, base_model="acme/tiny", policy=sr.Policy(refit=False))
    made = write_planted(tmp_path / "adapters", 6)
    for task, place in made.items():
        registry.commit(place, task=task)
    return made


def test_a_basis_changes_no_stored_task(registry: sr.Registry, shared: dict[str, Path], tmp_path: Path) -> None:
    refs = [f"{task}@v1" for task in shared]
    first = exports(registry, refs, tmp_path / "first")
    commit = registry.refit(max_rank=6)
    assert (commit.kind, commit.versions, commit.created) == ("refit", {}, True)
    assert exports(registry, refs, tmp_path / "later") == first
    assert {task.version for task in registry.tasks()} == {1}
    assert registry.verify("deep").ok


def test_later_commits_refer_to_the_basis(registry: sr.Registry, tmp_path: Path) -> None:
    registry.create_space(SPACE, base_model="acme/tiny", policy=sr.Policy(refit=False))
    made = write_planted(tmp_path / "adapters", 24, shared=24)
    for task in sorted(made)[:23]:
        registry.commit(made[task], task=task)
    before = registry.commit(made["t23"], task="t23", dry_run=True).reports["t23"].bytes_added
    registry.refit(max_rank=24)
    commit = registry.commit(made["t23"], task="t23")
    assert commit.reports["t23"].bytes_added < before
    assert any("basis" in module.reference for module in commit.reports["t23"].modules)


def test_a_basis_is_orthonormal_and_spans_what_is_shared(registry: sr.Registry, shared: dict[str, Path]) -> None:
    registry.refit(max_rank=6)
    basis = registry.basis()
    for module in basis.modules.values():
        for rows in (module.a, module.b):
            assert rows.shape == (6, 192)
            assert float((rows @ rows.mT - rows.new_ones(6).diag()).abs().max()) < 1e-12
    assert registry.space(SPACE).basis(at=basis.number).digest == basis.digest
    with pytest.raises(sr.NotFound, match="no basis at that moment"):
        registry.basis(at=basis.number - 1)


def test_a_basis_that_does_not_pay_is_refused(registry: sr.Registry, tmp_path: Path) -> None:
    for task, place in write_planted(tmp_path / "adapters", 4, shared=0).items():
        registry.commit(place, task=task)
    with pytest.raises(sr.Refused, match="gain from precision"):
        registry.refit()
    assert [commit.kind for commit in registry.log()].count("refit") == 0


def test_re_expressing_within_a_budget_records_an_upper_bound(registry: sr.Registry, shared: dict[str, Path], tmp_path: Path) -> None:
    commit = registry.refit(max_rank=6, budget=0.1)
    assert sorted(commit.versions) == sorted(shared)
    for task, report in commit.reports.items():
        true = pooled_error(shared[task], registry.export(f"{task}@v2", tmp_path / "out").path)
        assert report.bound
        assert report.before is not None
        assert report.budget == 0.1
        assert true <= report.error * (1 + ROUNDING)
        assert report.error <= 0.1


def test_twenty_forced_refits_stay_within_the_budget(registry: sr.Registry, shared: dict[str, Path], tmp_path: Path) -> None:
    for number in range(20):
        registry.refit(max_rank=5 + number % 3, budget=0.2, weighting="energy" if number % 2 else "unit")
        for task, place in shared.items():
            version = registry.resolve(task)
            report = registry.show(version).reports[task]
            true = pooled_error(place, registry.export(version, tmp_path / "out").path)
            assert true <= report.error * (1 + ROUNDING)
            assert report.error <= 0.2


def test_where_the_source_is_kept_the_error_is_true(registry: sr.Registry, tmp_path: Path) -> None:
    made = write_planted(tmp_path / "adapters", 3)
    for task, place in made.items():
        registry.commit(place, task=task, keep_original=True)
    commit = registry.refit(max_rank=6, allow_loss=True)
    for task, report in commit.reports.items():
        true = pooled_error(made[task], registry.export(f"{task}@v2", tmp_path / "out").path)
        assert not report.bound
        assert report.error == pytest.approx(true, rel=1e-5)


def test_what_was_said_of_a_task_stays_with_its_new_version(registry: sr.Registry, tmp_path: Path) -> None:
    made = write_planted(tmp_path / "adapters", 3)
    for task, place in made.items():
        registry.commit(place, task=task, labels={"team": task}, metrics={"accuracy": 0.5})
    registry.refit(max_rank=4, allow_loss=True)
    assert [task.labels["team"] for task in registry.tasks()] == sorted(made)
    assert {task.version for task in registry.tasks()} == {2}
    exported = files(registry.export("t01@v2", tmp_path / "out", name="").path)
    assert exported["adapter_config.json"] == (made["t01"] / "adapter_config.json").read_bytes()


def test_a_rehearsed_refit_writes_nothing(registry: sr.Registry, shared: dict[str, Path]) -> None:
    before = files(Path(registry.location) / "objects"), len(registry.log(limit=None))
    commit = registry.refit(max_rank=4, allow_loss=True, dry_run=True)
    assert not commit.created
    assert sorted(commit.reports) == sorted(shared)
    assert (files(Path(registry.location) / "objects"), len(registry.log(limit=None))) == before


@pytest.mark.parametrize(
    ("asked", "message"),
    [({"weighting": "equal"}, "weighting"), ({"energy": 1.5}, "energy"), ({"max_rank": 0}, "max_rank"), ({"budget": 2.0}, "budget")],
)
def test_a_malformed_refit_is_refused(registry: sr.Registry, shared: dict[str, Path], asked: dict[str, object], message: str) -> None:
    with pytest.raises(sr.InvalidInput, match=message):
        registry.refit(**asked)  # type: ignore[arg-type]


def test_a_space_without_tasks_has_nothing_to_fit(registry: sr.Registry) -> None:
    registry.create_space(SPACE)
    with pytest.raises(sr.NotFound, match="no live task"):
        registry.refit(max_rank=4)
