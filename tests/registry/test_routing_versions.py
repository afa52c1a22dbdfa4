"""A routing index of a registry: which versions, which modules, how many rows."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import share_registry as sr
from tests.cli.conftest import Runner
from tests.registry.planted import write_planted

MODULE = "layers.0.proj"


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Path]:
    return write_planted(tmp_path / "adapters", 4, modules=2, width=64, shared=0)


@pytest.fixture
def registry(tmp_path: Path, folders: dict[str, Path]) -> sr.Registry:
    registry = sr.Registry.open(tmp_path / "registry")
    registry.create_space("tiny", base_model="acme/tiny")
    for task in ("t00", "t01", "t02"):
        registry.commit(folders[task], task=task)
    registry.commit(folders["t03"], task="t00")
    registry.set_alias("t00@v1", "prod")
    registry.set_alias("t01@v1", "prod")
    return registry


def _refs(index: sr.RoutingIndex) -> list[str]:
    return [task.ref for task in index.tasks]


def test_an_input_of_the_rows_of_a_version_goes_to_it(
    registry: sr.Registry, folders: dict[str, Path]
) -> None:
    index = registry.routing_index(["t00@v1", "t00@v2", "t01", "t02"])
    for folder, ref in (("t00", "t00@v1"), ("t03", "t00@v2"), ("t02", "t02@v1")):
        rows = load_file(folders[folder] / "adapter_model.safetensors")
        x = {MODULE: rows[f"base_model.model.{MODULE}.lora_A.weight"]}
        (best,) = index.route(x, k=1)
        assert best.ref == f"tiny/{ref}"
        # as stored, within 2.5 % of dW
        assert best.share == pytest.approx(1.0, abs=0.01)


def test_versions_are_named_or_behind_an_alias_or_the_newest(registry: sr.Registry) -> None:
    assert _refs(registry.routing_index()) == ["tiny/t00@v2", "tiny/t01@v1", "tiny/t02@v1"]
    assert _refs(registry.routing_index(alias="prod")) == ["tiny/t00@v1", "tiny/t01@v1"]
    named = registry.routing_index(["t00@prod", "t00@v1", "t02"])
    assert _refs(named) == ["tiny/t00@v1", "tiny/t02@v1"]
    assert _refs(registry.routing_index(registry.resolve("t00"))) == ["tiny/t00@v2"]
    assert named.base_model == "acme/tiny"
    registry.drop("t01")
    assert _refs(registry.routing_index()) == ["tiny/t00@v2", "tiny/t02@v1"]
    assert _refs(registry.routing_index(alias="prod")) == ["tiny/t00@v1"]


def test_digests_are_those_of_the_versions(registry: sr.Registry) -> None:
    first, second = (registry.routing_index(ref).tasks[0] for ref in ("t00@v1", "t00@v2"))
    assert first.digest != second.digest
    again = registry.commit(registry.checkout("t00@v1"), task="t00", budget=0)
    assert registry.routing_index(again).tasks[0].ref == "tiny/t00@v3"


def test_modules_and_rows_are_as_asked(registry: sr.Registry) -> None:
    assert list(registry.routing_index(modules=r".*\.1\.proj").modules) == ["layers.1.proj"]
    small = registry.routing_index(max_rank=2)
    assert [len(rows) for rows in small.table.rows.values()] == [6, 6]
    whole = registry.routing_index().table.rows[MODULE]
    assert torch.equal(small.table.rows[MODULE][:2], whole[:2])


REFUSED: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "alias and references": ({"refs": ["t00"], "alias": "prod"}, sr.InvalidInputError, "beside"),
    "no references": ({"refs": []}, sr.InvalidInputError, "refs is empty"),
    "no version": ({"refs": ["t00@v9"]}, sr.NotFoundError, "v9"),
    "no alias": ({"alias": "canary"}, sr.NotFoundError, "canary"),
    "no expression": ({"modules": "(a"}, sr.InvalidInputError, "modules '\\(a'"),
    "a reference back": ({"modules": r"(a)\1"}, sr.InvalidInputError, "can be matched"),
    "no module": ({"modules": "proj"}, sr.InvalidInputError, "no task has a row"),
    "no rank": ({"max_rank": 0}, sr.InvalidInputError, "max_rank"),
    "much work": ({"modules": "a" * 1_100_000}, sr.RefusedError, "^modules: "),
}


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_cannot_be_indexed_is_refused(registry: sr.Registry, name: str) -> None:
    options, error, message = REFUSED[name]
    with pytest.raises(error, match=message):
        registry.routing_index(**options)


def test_an_index_is_of_one_space(registry: sr.Registry, folders: dict[str, Path]) -> None:
    registry.create_space("other", base_model="acme/other")
    registry.commit(folders["t00"], task="other/x", allow_base_mismatch=True)
    registry.set_alias("other/x", "prod")
    with pytest.raises(sr.InvalidInputError, match="spaces other, tiny"):
        registry.routing_index(alias="prod")
    with pytest.raises(sr.RefusedError, match="no space is named"):
        registry.routing_index()
    assert _refs(registry.space("other").routing_index(alias="prod")) == ["other/x@v1"]


def test_the_command_writes_the_file_and_says_what_is_in_it(
    registry: sr.Registry, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = registry.routing_index(alias="prod", modules=".*0.*", max_rank=3)
    registry.close()
    run = Runner(tmp_path / "registry", capsys)
    path = tmp_path / "routes.safetensors"
    options = ("--alias", "prod", "--modules", ".*0.*", "--max-rank", "3")
    said = run("routing-index", path, *options, "--json").json
    assert said == {
        "path": str(path),
        "tasks": ["tiny/t00@v1", "tiny/t01@v1"],
        "modules": [MODULE],
        "size_bytes": path.stat().st_size,
    }
    index = sr.RoutingIndex.load(path)
    assert torch.equal(index.table.rows[MODULE], expected.table.rows[MODULE])
    assert "modules     1" in run("routing-index", path, *options).out
    assert "Name the file first" in run("routing-index", "t00@v1", code=2).err
    assert run("routing-index", path, "t00@v1", "-q").lines == ["tiny/t00@v1"]
