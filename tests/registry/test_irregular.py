"""Adapters that depend on one another, repeat, vanish or are huge are committed like any other.

Exactly shared rows are what adapters trained inside a basis have.
"""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import share_registry as sr
from tests.registry.planted import BASE, write

BUDGET = 0.01
KINDS = ("dependent", "duplicate", "zero rows", "noisy", "huge")


def adapters(
    kind: str, *, count: int, width: int, rank: int, layers: int = 2
) -> Iterator[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    def rows(basis: Tensor) -> Tensor:
        mixed = normal(rank, len(basis)) @ basis
        match kind:
            case "duplicate":
                return basis[:rank].clone()
            case "zero rows":
                mixed[rank // 2 :] = 0.0
            case "noisy":
                return basis[:rank] + 1e-7 * normal(rank, width)
            case "huge":
                return 1e20 * normal(rank, width)
        return mixed

    bases = [(normal(4 * rank, width), normal(4 * rank, width)) for _ in range(layers)]
    for _ in range(count):
        yield {
            f"base_model.model.layers.{index}.proj.lora_{side}.weight": (
                rows(basis) if side == "A" else rows(basis).T.contiguous()
            )
            for index, pair in enumerate(bases)
            for side, basis in zip("AB", pair, strict=True)
        }


def check_story(tmp_path: Path, kind: str, *, count: int, width: int, rank: int) -> None:
    """Commit, refit in every way, merge in every way; what each version decodes to is sound."""
    with sr.Registry.open("memory://") as registry:
        registry.create_space("s", base_model=BASE)
        space = registry.space("s")
        for number, tensors in enumerate(adapters(kind, count=count, width=width, rank=rank)):
            folder = write(tmp_path / f"t{number}", tensors, rank)
            commit = space.commit(folder, task=f"t{number % 8}", budget=BUDGET)
            assert all(report.error <= BUDGET for report in commit.reports.values())
        for options in ({}, {"energy": 0.6}, {"max_rank": rank}):
            refit(space, **options)
        space.commit(tmp_path / f"t{count - 1}", task="t0", budget=BUDGET)
        for method in ("linear", "ties", "dare"):
            weights = {"t0": 0.5, "t1": 0.25, "t2": 0.25}
            merge = space.merge(weights, task=f"merged-{method}", method=method, budget=BUDGET)
            assert all(report.error <= BUDGET for report in merge.reports.values())
        refit(space, max_rank=rank, allow_loss=True)
        registry.verify(level="deep")


def refit(space: sr.Space, **options: Any) -> None:
    # where no direction pays, none is made
    with suppress(sr.RefusedError):
        space.refit(**options, force=True)


@pytest.mark.parametrize("kind", KINDS)
def test_irregular_adapters_are_committed_refitted_and_merged(tmp_path: Path, kind: str) -> None:
    check_story(tmp_path, kind, count=8, width=16, rank=2)


@pytest.mark.soak
@pytest.mark.parametrize("kind", KINDS)
def test_wide_irregular_adapters_are_committed_refitted_and_merged(
    tmp_path: Path, kind: str
) -> None:
    check_story(tmp_path, kind, count=14, width=4096, rank=16)


def test_shared_rows_are_committed_where_elimination_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise RuntimeError("Pivots given to lu_solve must all be greater or equal to 1.")

    monkeypatch.setattr(torch.linalg, "inv_ex", refuse)
    with sr.Registry.open("memory://") as registry:
        registry.create_space("s", base_model=BASE)
        sizes = []
        for number, tensors in enumerate(adapters("dependent", count=6, width=96, rank=4)):
            folder = write(tmp_path / f"t{number}", tensors, 4)
            report = registry.commit(folder, task=f"t{number}", space="s", budget=BUDGET).reports
            sizes.append(report[f"t{number}"].bytes_added)
            assert report[f"t{number}"].error <= BUDGET
        # the rows that they share are found all the same
        assert sizes[-1] < 0.8 * sizes[0]
