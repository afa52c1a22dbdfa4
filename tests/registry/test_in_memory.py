"""Adapters given in memory.

They are what their tensors are now, not what they were read as.
"""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import share_registry as sr
from share_registry.exchange.adapter import Adapter
from tests.registry.planted import write_planted


@pytest.fixture
def committed(registry: sr.Registry, tmp_path: Path) -> sr.Registry:
    registry.commit(write_planted(tmp_path / "adapters", 1)["t00"], task="cola")
    return registry


def distance(actual: Adapter, expected: Adapter) -> float:
    """Return the relative difference of dW."""
    actual_dw, expected_dw = (
        [pair.scale * pair.b.mT @ pair.a for pair in a.factor_pairs()] for a in (actual, expected)
    )
    wrong = sum(float((x - y).square().sum()) for x, y in zip(actual_dw, expected_dw, strict=True))
    return float((wrong / sum(float(y.square().sum()) for y in expected_dw)) ** 0.5)


def test_an_adapter_changed_in_memory_is_another_one(committed: sr.Registry) -> None:
    adapter = committed.checkout("cola")
    for key, tensor in adapter.tensors.items():
        if "lora_B" in key:
            tensor.mul_(0.5)
    commit = committed.commit(adapter, task="cola")
    assert (commit.created, commit.version) == (True, 2)
    assert distance(committed.checkout("cola@v2"), adapter) <= sr.Policy().budget
    assert [node.via for node in committed.lineage("cola@v2").nodes][1] in ("version", "derived")


def test_an_adapter_that_is_as_it_was_checked_out_is_there_already(committed: sr.Registry) -> None:
    commit = committed.commit(committed.checkout("cola"), task="cola")
    assert (commit.created, commit.version) == (False, 1)


def test_other_attachments_are_another_adapter(committed: sr.Registry) -> None:
    commit = committed.commit(
        replace(committed.checkout("cola"), attachments={"notes.txt": b"new"}), task="cola"
    )
    assert (commit.created, commit.version) == (True, 2)


def test_a_checkout_under_another_name_is_derived_from_it_and_measured_against_what_was_handed_in(
    committed: sr.Registry,
) -> None:
    adapter = committed.checkout("cola")
    commit = committed.commit(adapter, task="copy")
    assert [(node.via, node.ref) for node in committed.lineage(commit.ref).nodes] == [
        ("", commit.ref),
        ("derived", "tiny/cola@v1"),
    ]
    assert committed.lineage(commit.ref).nodes[0].source == "tiny/cola@v1, checked out"
    assert distance(committed.checkout("copy"), adapter) == pytest.approx(
        commit.reports["copy"].error, rel=1e-3
    )


@pytest.mark.parametrize("how", ["checkout", "materializer"])
def test_no_error_is_told_of_numbers_that_it_was_not_measured_on(
    committed: sr.Registry, how: str
) -> None:
    if how == "checkout":
        adapter, same = (
            committed.checkout("cola", dtype="bfloat16"),
            committed.checkout("cola", dtype="float64"),
        )
    else:
        with (
            sr.Materializer(committed, dtype="bfloat16") as narrow,
            sr.Materializer(committed, dtype="float32") as wide,
        ):
            adapter, same = narrow.materialize("cola")["cola"], wide.materialize("cola")["cola"]
    assert (adapter.error, same.error) == (None, committed.show("cola").reports["cola"].error)
    assert any("narrower" in remark for remark in adapter.remarks)


def test_several_unchanged_adapters_of_one_commit_are_there_already(
    registry: sr.Registry, tmp_path: Path
) -> None:
    folders = write_planted(tmp_path / "adapters", 3)
    first = registry.commit_many(folders)
    again = registry.commit_many(folders)
    assert (again.number, again.created) == (first.number, False)
    folders["t01"] = write_planted(tmp_path / "other", 1, seed=3)["t00"]
    assert registry.commit_many(folders).created


def test_a_dry_run_of_several_says_what_the_commit_takes(
    registry: sr.Registry, tmp_path: Path
) -> None:
    folders = write_planted(tmp_path / "adapters", 8)
    told = registry.commit_many(folders, dry_run=True)
    done = registry.commit_many(folders)
    assert {task: report.bytes_added for task, report in told.reports.items()} == {
        task: report.bytes_added for task, report in done.reports.items()
    }
    assert told.basis == done.basis or (
        told.basis is not None and done.basis is not None and told.basis.digest == done.basis.digest
    )


def test_what_cannot_be_read_of_several_is_named(registry: sr.Registry, tmp_path: Path) -> None:
    folders = write_planted(tmp_path / "adapters", 3)
    (folders["t01"] / "adapter_config.json").write_text("{")
    with pytest.raises(sr.InvalidInputError, match=r"^t01: "):
        registry.commit_many(folders)


def test_rows_of_a_block_that_only_other_modules_have_do_not_matter(
    registry: sr.Registry, tmp_path: Path
) -> None:
    """A task whose first version has a module with a product of zero, and whose second has none."""
    first, second = (
        write_planted(tmp_path / str(seed), 1, modules=2, rank=8, width=64, shared=10, seed=seed)[
            "t00"
        ]
        for seed in (1, 2)
    )
    tensors = load_file(first / "adapter_model.safetensors")
    save_file(
        {
            key: torch.zeros_like(value) if "layers.0" in key and "lora_B" in key else value
            for key, value in tensors.items()
        },
        first / "adapter_model.safetensors",
    )
    registry.commit(first, task="a")
    report = registry.commit(second, task="a").reports["a"]
    assert report.error <= sr.Policy().budget
    assert registry.verify("deep").ok
