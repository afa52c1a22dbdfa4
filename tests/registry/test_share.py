"""Sharing as commits are made.

Joint initialization, the paper's protocol, refits nobody asked for.
"""

from pathlib import Path

import pytest

import share_registry as sr
from tests.registry.plain import exports, pooled_error
from tests.registry.planted import write_planted

SPACE = "tiny"


def test_adapters_of_one_commit_get_a_basis_where_that_takes_fewer_bytes(
    registry: sr.Registry, tmp_path: Path
) -> None:
    folders = write_planted(tmp_path / "adapters", 16, shared=12)
    commit = registry.commit_many(folders)
    assert registry.basis().number == commit.number
    assert all(
        report.error <= report.budget
        for report in commit.reports.values()
        if report.budget is not None
    )
    with sr.Registry.open(tmp_path / "apart") as apart:
        apart.create_space(SPACE, base_model="acme/tiny", policy=sr.Policy(refit=False))
        added = sum(
            apart.commit(place, task=task).reports[task].bytes_added
            for task, place in folders.items()
        )
    assert (
        sum(report.bytes_added for report in commit.reports.values()) + registry.basis().size_bytes
        < added
    )
    assert registry.verify("deep").ok


def test_adapters_that_share_nothing_get_no_basis(registry: sr.Registry, tmp_path: Path) -> None:
    registry.commit_many(write_planted(tmp_path / "adapters", 5, shared=0))
    with pytest.raises(sr.NotFoundError, match="no basis"):
        registry.basis()


def test_the_papers_protocol_keeps_coefficients_alone_and_refits_at_every_absorption(
    registry: sr.Registry, tmp_path: Path
) -> None:
    registry.create_space(SPACE, base_model="acme/tiny", policy=sr.Policy.share(k=6))
    folders = write_planted(tmp_path / "adapters", 5)
    for task, place in folders.items():
        registry.commit(place, task=task)
    kinds = [commit.kind for commit in reversed(list(registry.log(limit=None)))]
    assert kinds == ["create", "absorb", *["absorb", "refit"] * 4]
    assert {task.name: task.version for task in registry.tasks()} == {
        "t00": 5,
        "t01": 4,
        "t02": 3,
        "t03": 2,
        "t04": 1,
    }
    for task, place in folders.items():
        report = registry.show(task).reports[task]
        true = pooled_error(place, registry.export(task, tmp_path / "out").path)
        assert report.budget is None
        assert true <= report.error * (1 + 1e-6)
        assert true < 0.1  # noise of 2 % per factor, and what six directions of six leave
    assert registry.verify("deep").ok


def test_the_papers_protocol_can_cut_the_rank(registry: sr.Registry, tmp_path: Path) -> None:
    registry.create_space(SPACE, base_model="acme/tiny", policy=sr.Policy.share(k=6, p=2))
    folders = write_planted(tmp_path / "adapters", 3)
    registry.commit_many(folders)
    adapter = registry.checkout("t01")
    assert all(
        int(tensor.any(1).sum()) == 2 for key, tensor in adapter.tensors.items() if "lora_A" in key
    )


def test_a_budget_given_with_a_commit_holds_in_the_papers_protocol_too(
    registry: sr.Registry, tmp_path: Path
) -> None:
    registry.create_space(SPACE, base_model="acme/tiny", policy=sr.Policy.share(k=3))
    folders = write_planted(tmp_path / "adapters", 2)
    registry.commit(folders["t00"], task="t00")
    report = registry.commit(folders["t01"], task="t01", budget=0.01).reports["t01"]
    assert report.budget == 0.01
    assert pooled_error(folders["t01"], registry.export("t01", tmp_path / "out").path) <= 0.01


def test_what_follows_a_commit_may_fail_in_any_way(
    registry: sr.Registry,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(
        "share_registry.registry.commands.auto_refit._refit_where_it_pays", lambda *_: 1 // 0
    )
    commit = registry.commit(write_planted(tmp_path / "adapters", 1)["t00"], task="t00")
    assert commit.created
    assert "was not made" in caplog.text


def test_a_pseudo_rank_that_breaks_the_budget_is_refused(
    registry: sr.Registry, tmp_path: Path
) -> None:
    registry.create_space(SPACE, base_model="acme/tiny", policy=sr.Policy(pseudo_rank=1))
    place = write_planted(tmp_path / "adapters", 1)["t00"]
    with pytest.raises(sr.BudgetExceededError, match="pseudo-rank of 1"):
        registry.commit(place, task="t00")
    assert registry.tasks() == []
    assert registry.commit(place, task="t00", budget=0.9).reports["t00"].error <= 0.9


def test_a_basis_is_made_unasked_once_it_pays(registry: sr.Registry, tmp_path: Path) -> None:
    registry.create_space(SPACE, base_model="acme/tiny")
    folders = write_planted(tmp_path / "adapters", 32, shared=40, noise=0.01)
    for task, place in folders.items():
        registry.commit(place, task=task)
    assert [commit.kind for commit in registry.log(limit=None)].count("refit") >= 1
    assert {task.version for task in registry.tasks()} == {1}


def test_no_basis_is_made_unasked_where_nothing_is_shared_or_the_policy_says_no(
    registry: sr.Registry, tmp_path: Path
) -> None:
    registry.create_space("nothing", base_model="acme/tiny")
    for task, place in write_planted(tmp_path / "nothing", 9, shared=0).items():
        registry.commit(place, task=task, space="nothing")
    registry.create_space("off", base_model="acme/tiny", policy=sr.Policy(refit=False))
    for task, place in write_planted(tmp_path / "off", 9, shared=6).items():
        registry.commit(place, task=task, space="off")
    assert {commit.kind for commit in registry.log(limit=None)} == {"create", "absorb"}


def test_no_commit_changes_what_another_task_exports(registry: sr.Registry, tmp_path: Path) -> None:
    registry.create_space(SPACE, base_model="acme/tiny", policy=sr.Policy.share(k=6))
    folders = write_planted(tmp_path / "adapters", 4)
    refs: list[str] = []
    exported: dict[str, bytes] = {}
    for task, place in folders.items():
        registry.commit(place, task=task)
        again = exports(registry, refs, tmp_path / f"after-{task}")
        assert again.items() >= exported.items()
        refs = [
            f"{listed.name}@v{version}"
            for listed in registry.tasks()
            for version in range(1, listed.version + 1)
        ]
        exported = exports(registry, refs, tmp_path / f"all-{task}")
