"""Tensors that are decoded when they are asked for: the same, a few in memory, each decoded once."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

import share_registry as sr
from share_registry.catalog.queries.resolution import version_of
from share_registry.errors import IntegrityError, RefusedError
from share_registry.exchange.committed_file import CommittedFile
from share_registry.exchange.directory_digest import directory_digest
from share_registry.exchange.export_files import place, tensor_file
from share_registry.exchange.tensors import TensorGroup
from share_registry.format.canonical import sha256
from share_registry.materialize import tensors_in_turn
from share_registry.materialize.decoder import GroupedAdapter, Reader, StoredModules
from share_registry.materialize.tensors_in_turn import TensorsInTurn
from share_registry.outside.files import Outside
from share_registry.registry.checkout.version_export import (
    ExportOptions,
    RebuiltFiles,
    files_of_adapter,
)
from share_registry.registry.delivery.served_directory import served_name
from share_registry.serving.adapter_cache import AdapterCache
from share_registry.values.task_version import TaskVersion
from tests.registry.conftest import DEMO


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> sr.Registry:
    """Two versions of a task, the second of which refers to the first."""
    opened = sr.Registry.open(tmp_path_factory.mktemp("in turn") / "registry")
    for version in ("v1", "v2"):
        opened.commit(DEMO / "wn-pos-gloss" / version, task="gloss")
    return opened


@pytest.fixture(autouse=True)
def _small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensors_in_turn, "_TOGETHER", 1 << 14)


def version(registry: sr.Registry, ref: str) -> TaskVersion:
    with registry.context.catalog.begin() as session:
        return version_of(session, ref, space=None)


def grouped(registry: sr.Registry, ref: str) -> GroupedAdapter:
    reader = Reader(registry.context.store)
    return reader.in_groups(version(registry, ref).adapter_digest, keep=False)


def committed(registry: sr.Registry, ref: str, decoded: GroupedAdapter) -> CommittedFile:
    return CommittedFile(
        layout=decoded.layout,
        tensors=TensorsInTurn(decoded),
        digest=version(registry, ref).tensors_digest,
        ref=ref,
    )


@pytest.mark.parametrize("ref", ["gloss@v1", "gloss@v2"])
def test_any_order_gives_what_a_checkout_gives(registry: sr.Registry, ref: str) -> None:
    expected = registry.checkout(ref).tensors
    tensors = TensorsInTurn(grouped(registry, ref))
    assert [*tensors] == [*expected]
    assert len(tensors) == len(expected)
    for key in (*expected, *reversed([*expected])):
        assert torch.equal(tensors[key], expected[key])
    with pytest.raises(KeyError):
        tensors["lora_C"]


def counted(decoded: GroupedAdapter) -> tuple[GroupedAdapter, list[TensorGroup]]:
    """Return an adapter that notes which groups are decoded, and the notes."""
    made: list[TensorGroup] = []

    def count(group: TensorGroup, modules: Sequence[StoredModules]) -> dict[str, torch.Tensor]:
        made.append(group)
        return decoded.tensors(group, modules)

    return replace(decoded, tensors=count), made


def test_in_the_order_of_the_file_each_is_decoded_once(registry: sr.Registry) -> None:
    decoded, made = counted(grouped(registry, "gloss@v1"))
    file = committed(registry, "gloss@v1", decoded)
    expected = registry.checkout("gloss@v1")
    assert not made
    assert bytes(file) == tensor_file(expected.layout, expected.tensors)
    assert len(made) == len({*made}) > 2
    assert len(file) == len(bytes(file))


def test_another_form_is_made_of_tensors_decoded_once(
    registry: sr.Registry,
) -> None:
    decoded, made = counted(grouped(registry, "gloss@v1"))
    rebuilt = files_of_adapter(
        version(registry, "gloss@v1"),
        replace(registry.checkout("gloss@v1"), tensors=TensorsInTurn(decoded)),
        options=ExportOptions(profile="portable"),
        label="",
        outside=Outside(),
    )
    assert rebuilt.profile == "portable"
    assert len(made) == len({*made}) > 2


def test_what_an_export_does_not_keep_is_not_expanded_as_a_whole(registry: sr.Registry) -> None:
    decoded = grouped(registry, "gloss@v1")
    assert not any(module is not None and module.a.own.any() for module in decoded.stored.modules)


def test_a_file_that_is_something_else_is_not_placed(registry: sr.Registry, tmp_path: Path) -> None:
    file = committed(registry, "gloss@v1", grouped(registry, "gloss@v1"))
    wrong = replace(file, digest=sha256(b"something else"))
    with pytest.raises(IntegrityError, match="gloss@v1: rebuilt tensors have digest"):
        place(
            {"adapter_config.json": b"{}", "adapter_model.safetensors": wrong},
            *(tmp_path, "gloss"),
            overwrite=False,
            outside=Outside(),
        )
    assert not [*tmp_path.iterdir()]
    with pytest.raises(IntegrityError):
        place(
            {"a.safetensors": wrong}, tmp_path / "a" / "b", "c", overwrite=False, outside=Outside()
        )
    assert not [*tmp_path.iterdir()]


def test_the_same_again_is_told_by_its_digest(registry: sr.Registry, tmp_path: Path) -> None:
    decoded, made = counted(grouped(registry, "gloss@v1"))
    files = {"a.safetensors": committed(registry, "gloss@v1", decoded)}
    place_here = partial(place, files, tmp_path, "gloss", outside=Outside())
    assert place_here(overwrite=False)[1]
    made.clear()
    assert not place_here(overwrite=False)[1]
    assert not made
    path = tmp_path / "gloss" / "a.safetensors"
    path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(RefusedError, match="other files"):
        place_here(overwrite=False)


def test_a_cache_gives_others_theirs_while_it_decodes(
    registry: sr.Registry, tmp_path: Path
) -> None:
    cache = AdapterCache(tmp_path, limit_bytes=1 << 30, keep_s=0, outside=Outside())
    decoded, row = grouped(registry, "gloss@v1"), version(registry, "gloss@v1")
    threads: set[int] = set()

    def watch(group: TensorGroup, modules: Sequence[StoredModules]) -> dict[str, torch.Tensor]:
        assert not cache._lock.locked()
        threads.add(torch.get_num_threads())
        return decoded.tensors(group, modules)

    file = committed(registry, "gloss@v1", replace(decoded, tensors=watch))
    digests = {"a.safetensors": file.digest}
    rebuilt = RebuiltFiles(
        files={"a.safetensors": file},
        digests=digests,
        digest=directory_digest(digests),
        profile="native",
        notes=(),
    )
    name = served_name(row, rebuilt.digest)
    wrong = replace(rebuilt, files={"a.safetensors": replace(file, digest=sha256(b"else"))})
    with pytest.raises(IntegrityError):
        cache.put(name, wrong)
    assert [path.name for path in tmp_path.rglob("*")] == [".used"]
    assert cache.find(name) is None
    cache.put(name, rebuilt)
    assert cache.find(name) == tmp_path / name
    assert threads == {1}
