"""The file of a routing index: the same index again, or an error of the family."""

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings, strategies as st
from safetensors.torch import load_file, save_file

import share_registry as sr
from tests.routing.drawn import MODULES, WIDTH, draw_task, index_of, normal

ENTRY = "share_registry.routing"


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return index_of([draw_task(n, rank) for n, rank in enumerate((4, 2))]).save(tmp_path / "index")


def _facts(path: Path) -> dict[str, Any]:
    content = path.read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    facts: dict[str, Any] = json.loads(header["__metadata__"][ENTRY])
    return facts


def test_a_saved_index_is_the_same_again(tmp_path: Path) -> None:
    index = index_of([draw_task(n, rank) for n, rank in enumerate((4, 2, 1))])
    x = {name: normal(n, 6, WIDTH) for n, name in enumerate(MODULES)}
    examples = [
        {name: normal(20 * n + i, 6, WIDTH) for i, name in enumerate(MODULES)} for n in range(5)
    ]
    for written in (index, index.standardised(examples)):
        path = written.save(tmp_path / "index.safetensors")
        again = sr.RoutingIndex.load(path)
        assert torch.equal(again.scores(x), written.scores(x))
        assert again.route(x) == written.route(x)
        assert (again.tasks, again.modules) == (written.tasks, written.modules)
        assert (again.base_model, again.examples) == (written.base_model, written.examples)
        assert again.save(tmp_path / "again").read_bytes() == path.read_bytes()


def test_other_programs_read_it(saved: Path, tmp_path: Path) -> None:
    tensors = load_file(saved)
    assert tensors[f"rows.{MODULES[0]}"].shape == (6, WIDTH)
    assert tensors[f"rows.{MODULES[0]}"].dtype == torch.float16
    assert tensors["counts"].tolist() == [[4, 2], [4, 2]]
    # which order they write tensors in does not matter
    header = {ENTRY: json.dumps(_facts(saved))}
    save_file(dict(sorted(tensors.items(), reverse=True)), tmp_path / "other", metadata=header)
    x = {MODULES[1]: normal(3, 2, WIDTH)}
    other, index = sr.RoutingIndex.load(tmp_path / "other"), sr.RoutingIndex.load(saved)
    assert torch.equal(other.scores(x), index.scores(x))


Change = Callable[[dict[str, torch.Tensor], dict[str, Any]], object]
HOSTILE: dict[str, Change] = {
    "no entry": lambda tensors, facts: facts.clear(),
    "version 0": lambda tensors, facts: facts.update(version=0),
    "version true": lambda tensors, facts: facts.update(version=True),
    "tasks twice": lambda tensors, facts: facts.update(tasks=[facts["tasks"][0]] * 2),
    "no tasks": lambda tensors, facts: facts.update(tasks=[]),
    "tasks of texts": lambda tensors, facts: facts.update(tasks=["a", "b"]),
    "no digest": lambda tensors, facts: facts["tasks"][0].__setitem__(1, "f" * 63),
    "one task more": lambda tensors, facts: facts["tasks"].append(["x", "0" * 64]),
    "modules twice": lambda tensors, facts: facts.update(modules=[MODULES[0]] * 2),
    "modules in lists": lambda tensors, facts: facts.update(modules=[[], []]),
    "a module less": lambda tensors, facts: facts.update(modules=[MODULES[0]]),
    "examples": lambda tensors, facts: facts.update(examples=-1),
    "base model": lambda tensors, facts: facts.update(base_model=None),
    "another tensor": lambda tensors, facts: tensors.update(x=torch.ones(1)),
    "counts of floats": lambda tensors, facts: tensors.update(counts=tensors["counts"].float()),
    "negative counts": lambda tensors, facts: tensors["counts"].copy_(torch.tensor([[7, -1]] * 2)),
    "more rows than there are": lambda tensors, facts: tensors["counts"].add_(1),
    "counts beyond the width": lambda tensors, facts: tensors["counts"].fill_(2**31 - 1),
    "no rows": lambda tensors, facts: tensors.update(
        {"counts": tensors["counts"] * 0, f"rows.{MODULES[0]}": torch.zeros(0, WIDTH).half()}
    ),
    "rows of one dimension": lambda tensors, facts: tensors.update(
        {f"rows.{MODULES[0]}": torch.ones(6).half()}
    ),
    "rows of float32": lambda tensors, facts: tensors.update(
        {f"rows.{MODULES[0]}": tensors[f"rows.{MODULES[0]}"].float()}
    ),
    "long rows": lambda tensors, facts: tensors[f"rows.{MODULES[0]}"].mul_(1.1),
    "rows of NaN": lambda tensors, facts: tensors[f"rows.{MODULES[1]}"].fill_(torch.nan),
    "a spread of 0": lambda tensors, facts: tensors["spread"].zero_(),
    "an infinite spread": lambda tensors, facts: tensors["spread"].fill_(torch.inf),
    "an expected share above 1": lambda tensors, facts: tensors["expected"].fill_(1.5),
    "expected of another shape": lambda tensors, facts: tensors.update(
        expected=tensors["expected"][:1].clone()
    ),
}


@pytest.mark.parametrize("name", sorted(HOSTILE))
def test_a_hostile_file_is_refused(saved: Path, name: str) -> None:
    tensors, facts = load_file(saved), _facts(saved)
    HOSTILE[name](tensors, facts)
    save_file(tensors, saved, metadata={ENTRY: json.dumps(facts)} if facts else None)
    with pytest.raises(sr.IntegrityError, match="index") as raised:
        sr.RoutingIndex.load(saved)
    assert "routing_index" in raised.value.hint


def test_a_later_form_is_named(saved: Path) -> None:
    metadata = {ENTRY: json.dumps(_facts(saved) | {"version": 2})}
    save_file(load_file(saved), saved, metadata=metadata)
    with pytest.raises(sr.FormatError, match="version 2, this release reads 1"):
        sr.RoutingIndex.load(saved)


def test_a_directory_is_refused_with_what_makes_an_index(tmp_path: Path) -> None:
    with pytest.raises(sr.IntegrityError, match="not a regular file") as raised:
        sr.RoutingIndex.load(tmp_path)
    assert "routing_index" in raised.value.hint


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(sr.NotFoundError, match="nowhere"):
        sr.RoutingIndex.load(tmp_path / "nowhere")


@settings(deadline=None, max_examples=150)
@given(data=st.data())
def test_whatever_bytes_change_it_loads_or_an_error_of_the_family_says_why(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    whole, path = (tmp_path_factory.getbasetemp() / name for name in ("whole", "changed"))
    index_of([draw_task(n, 2) for n in range(2)]).save(whole)
    content = bytearray(whole.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, min(len(content), 900) - 1))
        content[place : place + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=3))
    path.write_bytes(content)
    with suppress(sr.ShareRegistryError):
        sr.RoutingIndex.load(path).route({MODULES[0]: torch.ones(WIDTH)})


def test_nothing_but_an_earlier_index_is_replaced(tmp_path: Path) -> None:
    index = index_of([draw_task(n, 2) for n in range(2)])
    place = index.save(tmp_path / "index.safetensors")
    index_of([draw_task(n, 3) for n in range(2)]).save(place)
    index.save(place)
    weights = tmp_path / "adapter_model.safetensors"
    save_file({"base_model.model.q.lora_A.weight": torch.zeros(2, 4)}, weights)
    for path in (weights, tmp_path / "empty", tmp_path / "folder"):
        if path.name == "empty":
            path.touch()
        if path.name == "folder":
            path.mkdir()
        before = path.read_bytes() if path.is_file() else None
        with pytest.raises(sr.RefusedError, match="is there and is no routing index"):
            index.save(path)
        assert before == (path.read_bytes() if path.is_file() else None)
