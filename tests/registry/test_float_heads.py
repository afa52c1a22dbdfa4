"""Records name the feature of floats that are split where, and only where, a reader needs it."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import share_registry as sr
from share_registry.format import records
from share_registry.format.records import FLOAT_HEADS, MODULE_SHAPES
from share_registry.materialize.decoder import Opened
from share_registry.names import CommitNumber, Digest, SpaceName
from tests.spec import adapters, readers

SPACE = "base"
WIDE = {"query": ((4, 1024), (768, 4)), "value": ((4, 1024), (1024, 4))}
"""Factors of 61 kB in all: enough to be split where they are kept bit for bit."""


def requires(registry: sr.Registry, number: int | None = None) -> list[str]:
    """Return what a record requires; the newest without a number."""
    number = number or registry.resolve(f"{SPACE}/@head").number
    names: list[str] = record(registry, number)["requires"]
    return names


def record(registry: sr.Registry, number: int) -> dict[str, Any]:
    content = registry.context.store.record(SpaceName(SPACE), CommitNumber(number))
    parsed: dict[str, Any] = json.loads(content or b"")
    return parsed


def opened(registry: sr.Registry, number: int) -> Opened:
    """Return the adapter object of a record of one task."""
    (task,) = record(registry, number)["tasks"]
    return registry.context.reader().open(Digest(task["adapter"]))


@pytest.fixture
def wide(tmp_path: Path) -> Path:
    return adapters.write(tmp_path / "wide", adapters.pairs(1, WIDE))


@pytest.fixture
def headed(tmp_path: Path) -> Path:
    """Return an adapter with a head that is an object of its own."""
    return with_head(tmp_path / "headed", seed=7)


def with_head(folder: Path, *, seed: int) -> Path:
    """Write an adapter of a seed, and a classifier that is always the same."""
    passengers = adapters.passengers(8).items()
    head = {key: value for key, value in passengers if "classifier" in key}
    return adapters.write(folder, adapters.pairs(seed) | head, modules_to_save=["classifier"])


def test_a_lossless_adapter_requires_the_feature(registry: sr.Registry, wide: Path) -> None:
    registry.commit(wide, task="coded")
    assert requires(registry) == []
    registry.commit(wide, task="lossless", budget=0)
    assert requires(registry) == [FLOAT_HEADS]
    assert registry.verify("deep").ok


def test_a_small_lossless_adapter_is_read_by_every_release(
    registry: sr.Registry, tmp_path: Path
) -> None:
    registry.commit(adapters.write(tmp_path / "small", adapters.pairs(1)), task="a", budget=0)
    assert requires(registry) == []


def test_a_tensor_that_is_there_already_requires_the_feature_again(
    registry: sr.Registry, headed: Path, tmp_path: Path
) -> None:
    registry.commit(headed, task="first")
    registry.commit(with_head(tmp_path / "other", seed=9), task="second")
    external = [set(opened(registry, number).stored.external.values()) for number in (2, 3)]
    assert external[0] == external[1] != set()
    assert requires(registry, 2) == requires(registry, 3) == [FLOAT_HEADS]


def test_what_builds_upon_split_floats_requires_the_feature(
    registry: sr.Registry, wide: Path, tmp_path: Path
) -> None:
    registry.commit(wide, task="a", budget=0)
    continued = adapters.near(adapters.pairs(1, WIDE), 2, 0.02)
    registry.commit(adapters.write(tmp_path / "continued", continued), task="a")
    stored = opened(registry, 3).stored
    assert stored.previous is not None
    assert not stored.heads
    assert requires(registry) == [FLOAT_HEADS]


def test_every_kind_of_record_that_names_such_an_adapter_requires_the_feature(
    registry: sr.Registry, headed: Path, tmp_path: Path
) -> None:
    plain = adapters.write(tmp_path / "plain", adapters.pairs(1))
    registry.commit_many({"a": headed, "b": plain})
    assert requires(registry) == [FLOAT_HEADS]
    registry.merge({"a": 1.0}, task="again")
    assert requires(registry) == [FLOAT_HEADS]
    registry.merge({"a": 0.5, "again": 0.5}, task="both")
    assert requires(registry) == [FLOAT_HEADS]
    refit = registry.refit(max_rank=4, budget=0.2)
    assert set(refit.versions) & {"a", "again", "both"}
    assert requires(registry) == [FLOAT_HEADS]


def test_records_that_name_no_adapter_require_nothing(registry: sr.Registry, wide: Path) -> None:
    registry.commit(wide, task="a", budget=0)
    registry.commit(adapters.write(wide.parent / "next", adapters.pairs(2, WIDE)), task="a")
    registry.restore("a@v1")
    registry.set_alias("a@v1", "prod")
    registry.tag("release", "a@v1")
    registry.annotate("a@v1", labels={"team": "search"})
    registry.rename("a", "b")
    registry.drop("b")
    assert [requires(registry, number) for number in range(2, 10)] == [
        [FLOAT_HEADS],
        *[[]] * 7,
    ]


def test_a_basis_and_adapters_without_such_floats_require_nothing(
    registry: sr.Registry, tmp_path: Path
) -> None:
    for seed in range(3):
        folder = adapters.write(tmp_path / str(seed), adapters.pairs(seed))
        registry.commit(folder, task=f"t{seed}")
    registry.refit(max_rank=4, force=True)
    assert requires(registry) == []


def test_an_older_release_refuses_the_record_by_name(
    registry: sr.Registry, wide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.commit(wide, task="a")
    registry.commit(wide, task="b", budget=0)
    expected = registry.export("a@v1", tmp_path / "new").digest
    # what the release before knew
    monkeypatch.setattr(records, "FEATURES", (MODULE_SHAPES,))
    ignored = shutil.ignore_patterns("catalog*")
    root = shutil.copytree(tmp_path / "registry", tmp_path / "older", ignore=ignored)
    with sr.Registry.open(root) as older:
        assert older.export("a@v1", tmp_path / "old").digest == expected
        with pytest.raises(sr.FormatError, match=f"unknown features {FLOAT_HEADS}"):
            older.checkout("b")
        with pytest.raises(sr.FormatError, match=FLOAT_HEADS):
            older.commit(wide, task="c")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_both_readers_give_back_every_bit(
    dtype: torch.dtype, registry: sr.Registry, tmp_path: Path
) -> None:
    tensors = {
        key: value.to(dtype)
        for key, value in (adapters.pairs(3, WIDE) | adapters.passengers(4)).items()
    }
    strange = tensors[f"{adapters.PREFIX}.value.lora_B.weight"]
    limits = torch.finfo(dtype)
    strange[0] = torch.tensor([limits.max, -0.0, limits.smallest_normal / 4, limits.min])
    folder = adapters.write(
        tmp_path / "strange", tensors, use_dora=True, modules_to_save=["classifier"]
    )
    registry.commit(folder, task="a", budget=0)
    name = "adapter_model.safetensors"
    exported = (registry.export("a", tmp_path / "out").path / name).read_bytes()
    ((_, by_reference),) = readers.export_by_reference(tmp_path / "registry")
    assert exported == by_reference[name] == (folder / name).read_bytes()
    assert requires(registry) == [FLOAT_HEADS]
