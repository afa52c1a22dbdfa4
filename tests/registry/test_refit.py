"""Refit: a basis for later commits, and tasks re-expressed in it within what may be lost."""

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import share_registry as sr
from share_registry.values.cost_reports import BasisReport
from tests.registry.plain import exports, files, pooled_error
from tests.registry.planted import write_planted

SPACE = "tiny"
ROUNDING = 1e-6
"""Relative: errors are recorded from float64 sums in another order than numpy's."""


ALIKE = 0.5
"""Relative: what one task saves, beside the mean of others that are like it."""


@pytest.fixture
def shared(registry: sr.Registry, tmp_path: Path) -> dict[str, Path]:
    """Six tasks that share columns, committed one by one."""
    registry.create_space(SPACE, base_model="acme/tiny", policy=sr.Policy(refit=False))
    folders = write_planted(tmp_path / "adapters", 6)
    for task, place in folders.items():
        registry.commit(place, task=task)
    return folders


def test_a_basis_changes_no_stored_task(
    registry: sr.Registry, shared: dict[str, Path], tmp_path: Path
) -> None:
    refs = [f"{task}@v1" for task in shared]
    first = exports(registry, refs, tmp_path / "first")
    commit = registry.refit(max_rank=6)
    assert (commit.kind, commit.versions, commit.created) == ("refit", {}, True)
    assert exports(registry, refs, tmp_path / "later") == first
    assert {task.version for task in registry.tasks()} == {1}
    assert registry.verify("deep").ok


def test_later_commits_refer_to_the_basis(registry: sr.Registry, tmp_path: Path) -> None:
    registry.create_space(SPACE, base_model="acme/tiny", policy=sr.Policy(refit=False))
    folders = write_planted(tmp_path / "adapters", 24, shared=24)
    for task in sorted(folders)[:23]:
        registry.commit(folders[task], task=task)
    before = registry.commit(folders["t23"], task="t23", dry_run=True).reports["t23"].bytes_added
    basis = registry.refit(max_rank=24).basis
    commit = registry.commit(folders["t23"], task="t23")
    after = commit.reports["t23"].bytes_added
    assert after < before
    assert basis is not None
    assert basis.saved_bytes_per_task == pytest.approx(before - after, rel=ALIKE)
    assert any("basis" in module.reference for module in commit.reports["t23"].modules)


def test_a_basis_is_orthonormal_and_spans_what_is_shared(
    registry: sr.Registry, shared: dict[str, Path]
) -> None:
    registry.refit(max_rank=6)
    basis = registry.basis()
    for module in basis.modules.values():
        for rows in (module.a, module.b):
            assert rows.shape == (6, 192)
            assert float((rows @ rows.mT - rows.new_ones(6).diag()).abs().max()) < 1e-12
    assert registry.space(SPACE).basis(at=basis.number).digest == basis.digest
    with pytest.raises(sr.NotFoundError, match="no basis at that moment"):
        registry.basis(at=basis.number - 1)


def test_a_basis_that_does_not_pay_is_refused(registry: sr.Registry, tmp_path: Path) -> None:
    for task, place in write_planted(tmp_path / "adapters", 4, shared=0).items():
        registry.commit(place, task=task)
    with pytest.raises(sr.RefusedError, match="gain from precision"):
        registry.refit()
    assert [commit.kind for commit in registry.log()].count("refit") == 0


def test_a_basis_that_saves_nothing_is_made_only_where_it_is_forced(
    registry: sr.Registry, tmp_path: Path
) -> None:
    for task, place in write_planted(tmp_path / "adapters", 4, shared=0).items():
        registry.commit(place, task=task)
    # room for all their directions: each is spared its own by a basis that has seen it
    preview = registry.refit(max_rank=32, dry_run=True)
    assert preview.basis is not None
    assert preview.basis.saved_bytes_per_task == 0
    assert "saves nothing a task to come" in str(preview)
    with pytest.raises(sr.RefusedError, match="save nothing") as refused:
        registry.refit(max_rank=32)
    assert "force=True" in refused.value.hint
    assert not registry.log(kind="refit")
    forced = registry.refit(max_rank=32, force=True)
    assert forced.basis is not None
    assert forced.basis.digest == preview.basis.digest
    assert forced.basis.saved_bytes_per_task is None
    again = registry.refit(max_rank=32)
    assert (again.number, again.created) == (forced.number, False)


def test_a_policy_without_references_has_no_use_for_a_basis(
    registry: sr.Registry, shared: dict[str, Path]
) -> None:
    assert registry.refit(max_rank=6, dry_run=True).basis.saved_bytes_per_task  # type: ignore[union-attr]
    registry.set_policy(sr.Policy(references=False), space=SPACE)
    with pytest.raises(sr.RefusedError, match="save nothing"):
        registry.refit(max_rank=6)


def test_re_expressing_within_a_budget_records_an_upper_bound(
    registry: sr.Registry, shared: dict[str, Path], tmp_path: Path
) -> None:
    commit = registry.refit(max_rank=6, budget=0.1)
    assert sorted(commit.versions) == sorted(shared)
    for task, report in commit.reports.items():
        true = pooled_error(shared[task], registry.export(f"{task}@v2", tmp_path / "out").path)
        assert report.bound
        assert report.before is not None
        assert report.budget == 0.1
        assert true <= report.error * (1 + ROUNDING)
        assert report.error <= 0.1


def test_twenty_forced_refits_stay_within_the_budget(
    registry: sr.Registry, shared: dict[str, Path], tmp_path: Path
) -> None:
    for number in range(20):
        registry.refit(
            max_rank=5 + number % 3,
            budget=0.2,
            weighting="energy" if number % 2 else "unit",
            force=True,
        )
        for task, place in shared.items():
            version = registry.resolve(task)
            report = registry.show(version).reports[task]
            true = pooled_error(place, registry.export(version, tmp_path / "out").path)
            assert true <= report.error * (1 + ROUNDING)
            assert report.error <= 0.2


def test_where_the_source_is_kept_the_error_is_true(registry: sr.Registry, tmp_path: Path) -> None:
    folders = write_planted(tmp_path / "adapters", 3)
    for task, place in folders.items():
        registry.commit(place, task=task, keep_original=True)
    commit = registry.refit(max_rank=6, allow_loss=True)
    assert commit.basis is not None
    assert commit.basis.saved_bytes is not None
    for task, report in commit.reports.items():
        true = pooled_error(folders[task], registry.export(f"{task}@v2", tmp_path / "out").path)
        assert not report.bound
        assert report.error == pytest.approx(true, rel=1e-5)


def test_what_was_said_of_a_task_stays_with_its_new_version(
    registry: sr.Registry, tmp_path: Path
) -> None:
    folders = write_planted(tmp_path / "adapters", 3)
    for task, place in folders.items():
        registry.commit(place, task=task, labels={"team": task}, metrics={"accuracy": 0.5})
    registry.refit(max_rank=4, allow_loss=True)
    assert [task.labels["team"] for task in registry.tasks()] == sorted(folders)
    assert {task.version for task in registry.tasks()} == {2}
    exported = files(registry.export("t01@v2", tmp_path / "out", name="").path)
    assert exported["adapter_config.json"] == (folders["t01"] / "adapter_config.json").read_bytes()


def test_a_dry_run_of_a_refit_writes_nothing(
    registry: sr.Registry, shared: dict[str, Path]
) -> None:
    before = files(Path(registry.location) / "objects"), len(registry.log(limit=None))
    commit = registry.refit(max_rank=4, allow_loss=True, dry_run=True)
    assert not commit.created
    assert sorted(commit.reports) == sorted(shared)
    assert (files(Path(registry.location) / "objects"), len(registry.log(limit=None))) == before


def test_a_dry_run_of_a_refit_says_what_the_basis_takes_and_captures_and_needs_no_writer(
    registry: sr.Registry, shared: dict[str, Path]
) -> None:
    with sr.Registry.open(registry.location, mode="r") as reader:
        preview = reader.refit(max_rank=6, dry_run=True).basis
    assert preview is not None
    assert len(preview.modules) == 3
    assert all(
        (module.k_a, module.k_b) == (6, 6)
        and min(module.captured_a or 0, module.captured_b or 0) > 0.99
        for module in preview.modules
    )
    commit = registry.refit(max_rank=6)
    assert commit.basis == preview
    assert re.search(r"; saves \d.* a task to come; pays from \d+ of these on", str(commit))
    assert preview.size_bytes == registry.basis().size_bytes
    assert registry.log(kind="refit")[0].basis == BasisReport(
        digest=preview.digest, size_bytes=preview.size_bytes
    )


def test_the_same_refit_again_is_the_same_commit(
    registry: sr.Registry, shared: dict[str, Path]
) -> None:
    first = registry.refit(max_rank=6)
    again = registry.refit(max_rank=6)
    assert (again.number, again.created) == (first.number, False)


def test_modules_whose_product_is_zero_are_fitted_around(
    registry: sr.Registry, tmp_path: Path
) -> None:
    folders = write_planted(tmp_path / "adapters", 6, shared=4)
    for task, place in folders.items():
        tensors = load_file(place / "adapter_model.safetensors")
        tensors |= {
            key: torch.zeros_like(value)
            for key, value in tensors.items()
            if "layers.1" in key and ("lora_B" in key or task == "t00")
        }
        save_file(tensors, place / "adapter_model.safetensors")
    commit = registry.commit_many(folders)
    assert all(report.error <= (report.budget or 0) for report in commit.reports.values())
    registry.refit(max_rank=4, force=True)
    registry.refit(max_rank=4, allow_loss=True)
    paper = registry.create_space("paper", base_model="acme/tiny", policy=sr.Policy.share(k=4))
    for task, place in list(folders.items())[:3]:
        paper.commit(place, task=task)
    assert not any("layers.1" in module for module in registry.space(SPACE).basis().modules)
    assert registry.verify("deep").ok


def test_a_task_is_re_expressed_from_the_version_nearest_to_its_source(
    registry: sr.Registry, shared: dict[str, Path], tmp_path: Path
) -> None:
    registry.refit(max_rank=2, allow_loss=True)
    lost = {task: registry.show(f"{task}@v2").reports[task].error for task in shared}
    commit = registry.refit(max_rank=6, allow_loss=True)
    for task, report in commit.reports.items():
        true = pooled_error(shared[task], registry.export(f"{task}@v3", tmp_path / "out").path)
        assert true <= report.error * (1 + ROUNDING)
        assert report.before == lost[task]
        assert report.error < 0.2 < lost[task]


def test_metrics_do_not_pass_to_a_version_they_were_not_measured_on(
    registry: sr.Registry, tmp_path: Path
) -> None:
    for task, place in write_planted(tmp_path / "adapters", 3).items():
        registry.commit(place, task=task, metrics={"accuracy": 0.5})
    registry.refit(max_rank=2, allow_loss=True)
    assert [task.metrics for task in registry.tasks()] == [{}, {}, {}]


def test_an_adapter_that_a_refit_re_expressed_may_be_committed_again(
    registry: sr.Registry, shared: dict[str, Path], tmp_path: Path
) -> None:
    registry.refit(max_rank=6, budget=0.2)
    again = registry.commit(shared["t01"], task="t01")
    assert (again.created, again.ref) == (True, f"{SPACE}/t01@v3")
    assert (
        pooled_error(shared["t01"], registry.export("t01@v3", tmp_path / "out").path)
        <= sr.Policy().budget
    )


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"allow_loss": True, "budget": 0.1}, "allow_loss"),
        ({"weighting": "equal"}, "weighting"),
        ({"energy": 1.5}, "energy"),
        ({"max_rank": 0}, "max_rank"),
        ({"budget": 2.0}, "budget"),
        ({"author": "x" * 257}, "author"),
        ({"message": "x" * 16_385}, "message"),
    ],
)
def test_a_malformed_refit_is_refused(
    registry: sr.Registry, shared: dict[str, Path], asked: dict[str, object], message: str
) -> None:
    with pytest.raises(sr.InvalidInputError, match=message):
        registry.refit(**asked)  # type: ignore[arg-type]


def test_a_space_without_tasks_has_nothing_to_fit(registry: sr.Registry) -> None:
    registry.create_space(SPACE)
    with pytest.raises(sr.NotFoundError, match="no live task"):
        registry.refit(max_rank=4)
