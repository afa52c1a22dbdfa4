"""Commits and refits computed on another device.

What is kept is within its budget, and reads alike everywhere.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import share_registry as sr
from share_registry.registry.basis import moments
from tests.registry.elsewhere import Elsewhere
from tests.registry.planted import write_planted

SPACE = "tiny"
NO_GPU = "there is no CUDA device"
Story = Callable[[sr.Registry, dict[str, Path]], None]


def references(registry: sr.Registry, adapters: dict[str, Path]) -> None:
    registry.create_space(SPACE, base_model="acme/tiny", policy=sr.Policy(refit=False))
    for task in sorted(adapters):
        registry.commit(adapters[task], task=task)
    registry.commit(adapters["t03"], task="t00", derived_from="t00")


def versions(registry: sr.Registry, adapters: dict[str, Path]) -> None:
    registry.create_space(SPACE, base_model="acme/tiny", policy=sr.Policy(refit=False))
    registry.commit(adapters["t00"], task="t00")
    adapter = registry.checkout("t00")
    generator = torch.Generator(device="cpu").manual_seed(1)
    for _ in range(2):
        tensors = {
            key: tensor
            + 1e-3
            * torch.randn(tensor.shape, generator=generator, dtype=torch.float32, device="cpu")
            for key, tensor in adapter.tensors.items()
        }
        registry.commit(replace(adapter, tensors=tensors), task="t00")


def together(registry: sr.Registry, adapters: dict[str, Path]) -> None:
    registry.create_space(SPACE, base_model="acme/tiny")
    registry.commit_many(adapters)


def pseudo_rank(registry: sr.Registry, adapters: dict[str, Path]) -> None:
    registry.create_space(
        SPACE, base_model="acme/tiny", policy=sr.Policy(pseudo_rank=3, budget=0.9)
    )
    for task in sorted(adapters)[:3]:
        registry.commit(adapters[task], task=task)


def refits(registry: sr.Registry, adapters: dict[str, Path]) -> None:
    references(registry, adapters)
    registry.refit()
    registry.refit(max_rank=5, force=True)
    registry.refit(energy=0.9, weighting="energy")
    registry.commit(adapters["t05"], task="t06")
    registry.refit(max_rank=7, budget=0.1)


def paper(registry: sr.Registry, adapters: dict[str, Path]) -> None:
    registry.create_space(SPACE, base_model="acme/tiny", policy=sr.Policy.share(k=8))
    for task in sorted(adapters)[:4]:
        registry.commit(adapters[task], task=task)


def merges(registry: sr.Registry, adapters: dict[str, Path]) -> None:
    references(registry, adapters)
    registry.merge({"t01": 0.5, "t02": 0.5}, task="both")


STORIES = (references, versions, together, pseudo_rank, refits, paper, merges)


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_planted(tmp_path_factory.mktemp("adapters"), 6, width=64)


def run(location: Path, adapters: dict[str, Path], story: Story, device: str) -> list[str]:
    """Return the objects that a story leaves in the store: what every version is adapters of."""
    with sr.Registry.open(location, device=device) as registry:
        story(registry, adapters)
        assert registry.verify("deep").ok
    return sorted(
        path.relative_to(location).as_posix()
        for path in (location / "objects").rglob("*")
        if path.is_file()
    )


@pytest.fixture(autouse=True)
def _refits_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a refit go on from moments however few the tasks are."""
    monkeypatch.setattr(moments, "FEWEST", 1)


@pytest.mark.parametrize("story", STORIES)
def test_a_device_is_used_throughout_and_no_tensor_of_another_meets_its_own(
    tmp_path: Path, adapters: dict[str, Path], story: Story
) -> None:
    expected = run(tmp_path / "cpu", adapters, story, "cpu")
    with Elsewhere() as second:
        actual = run(tmp_path / "gpu", adapters, story, "cuda:0")
    assert actual == expected
    assert second.operations > 100


@pytest.mark.parametrize("story", [refits, paper])
def test_a_default_device_that_a_caller_gave_torch_changes_nothing(
    tmp_path: Path, adapters: dict[str, Path], story: Story
) -> None:
    expected = run(tmp_path / "expected", adapters, story, "cpu")
    # tensors of "meta" have no numbers: where one meets another, torch fails
    with torch.device("meta"):
        actual = run(tmp_path / "found", adapters, story, "cpu")
    assert actual == expected


@pytest.fixture(params=[torch.bfloat16, torch.float64], ids=str)
def default(request: pytest.FixtureRequest) -> Iterator[torch.dtype]:
    """A type that a test may set as torch's default one; the usual one comes back after it."""
    yield request.param
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("story", [versions, refits, merges])
def test_a_default_type_that_a_caller_gave_torch_changes_nothing(
    tmp_path: Path, adapters: dict[str, Path], story: Story, default: torch.dtype
) -> None:
    expected = run(tmp_path / "expected", adapters, story, "cpu")
    torch.set_default_dtype(default)
    assert run(tmp_path / "found", adapters, story, "cpu") == expected


@pytest.mark.parametrize("story", [references, versions])
def test_a_default_type_of_torch_changes_nothing_of_what_is_made(
    tmp_path: Path, adapters: dict[str, Path], story: Story, default: torch.dtype
) -> None:
    kinds: list[dict[str, Any]] = [{}, {"exact": True}, {"dtype": "bfloat16"}]
    with sr.Registry.open(tmp_path / "registry") as registry:
        story(registry, adapters)
    with (
        sr.Registry.open(tmp_path / "registry", mode="r") as plain,
        sr.Registry.open(tmp_path / "registry", mode="r") as typed,
    ):
        refs = [
            f"{task.name}@v{version}"
            for task in plain.tasks()
            for version in range(1, task.version + 1)
        ]
        expected = [sr.Materializer(plain, **options).materialize(refs) for options in kinds]
        checked_out = [plain.checkout(ref) for ref in refs]
        torch.set_default_dtype(default)
        actual = [sr.Materializer(typed, **options).materialize(refs) for options in kinds]
        assert typed.analyze().adapters
        for ref, adapter in zip(refs, checked_out, strict=True):
            again = typed.checkout(ref)
            assert all(
                torch.equal(tensor, again.tensors[key]) for key, tensor in adapter.tensors.items()
            )
            assert (
                typed.export(ref, tmp_path / "found").digest
                == plain.export(ref, tmp_path / "expected").digest
            )
    for values, others in zip(actual, expected, strict=True):
        for ref in refs:
            assert all(
                torch.equal(tensor, others[ref].tensors[key])
                for key, tensor in values[ref].tensors.items()
            )


def test_a_default_device_of_torch_changes_nothing_of_what_is_made(
    tmp_path: Path, adapters: dict[str, Path]
) -> None:
    kinds: list[dict[str, Any]] = [{}, {"exact": True}, {"dtype": "bfloat16"}]
    with sr.Registry.open(tmp_path / "registry") as registry:
        references(registry, adapters)
        refs = [task.ref for task in registry.tasks()]
        expected = [sr.Materializer(registry, **options).materialize(refs) for options in kinds]
        with torch.device("meta"):
            actual = [sr.Materializer(registry, **options).materialize(refs) for options in kinds]
            exported = registry.export(refs[0], tmp_path / "out")
            assert registry.analyze().adapters
        assert registry.export(refs[0], tmp_path / "again").digest == exported.digest
    for results, plain in zip(actual, expected, strict=True):
        for ref in refs:
            assert all(
                torch.equal(tensor, plain[ref].tensors[key])
                for key, tensor in results[ref].tensors.items()
            )


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason=NO_GPU)
@pytest.mark.parametrize("story", STORIES)
def test_what_a_gpu_has_computed_is_within_its_budget_and_reads_alike_on_the_cpu(
    tmp_path: Path, adapters: dict[str, Path], story: Story
) -> None:
    run(tmp_path, adapters, story, "cuda")
    with sr.Registry.open(tmp_path) as registry:
        assert registry.verify("deep").ok
        for task in registry.tasks():
            report = registry.show(task.ref).reports[task.name]
            assert report.budget is None or report.error <= report.budget


@pytest.mark.parametrize("device", ["cuda:99", "xyz", "meta"])
def test_a_device_that_is_not_there_is_refused_when_it_is_named_or_needed(
    tmp_path: Path, adapters: dict[str, Path], device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(sr.InvalidInputError, match=f"device '{device}'"):
        sr.Registry.open(tmp_path / "new", device=device)
    assert not (tmp_path / "new").exists()
    monkeypatch.setenv("SHARE_REGISTRY_DEVICE", device)
    with sr.Registry.open(tmp_path) as registry:
        assert registry.tasks() == []
        with pytest.raises(sr.InvalidInputError, match=f"device '{device}'"):
            registry.commit(adapters["t00"])
        assert registry.tasks() == []
