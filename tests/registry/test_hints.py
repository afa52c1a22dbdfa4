"""What the hint of a refused commit says, done to the letter: the commit is then made."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import share_registry as sr
from tests.exchange.edits import set_config
from tests.exchange.zoo import save_live


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return save_live("rslora", tmp_path / "cola")


@pytest.fixture
def registry(tmp_path: Path) -> sr.Registry:
    return sr.Registry.open(tmp_path / "registry")


def hint(commit: Callable[[], object]) -> str:
    with pytest.raises(sr.ShareRegistryError) as caught:
        commit()
    assert caught.value.hint
    return caught.value.hint


def calls(text: str) -> list[str]:
    """Return the calls that a hint writes out."""
    return re.findall(r"create_space\(.*?\)", text)


@pytest.mark.parametrize("label", [None, "", "./checkpoint-500", "/mnt/models/model", "./x"])
def test_a_space_is_created_for_a_base_model_whose_name_says_nothing(
    label: str | None, source: Path, registry: sr.Registry
) -> None:
    set_config(source, base_model_name_or_path=label)
    (call,) = calls(hint(lambda: registry.commit(source)))
    space = eval(f"registry.{call}", {"registry": registry})
    assert registry.commit(source, space=space.name).space == space.name


@pytest.mark.parametrize("label", ["", "org/llama"])
def test_a_space_that_is_named_and_not_there_is_created_for_its_adapters(
    label: str, source: Path, registry: sr.Registry
) -> None:
    set_config(source, base_model_name_or_path=label)
    report = registry.import_many([source], space="x", workers=1)
    (call,) = calls(report.outcomes[0].hint)
    eval(f"registry.{call}", {"registry": registry})
    assert registry.import_many([source], space="x", workers=1).committed == 1
    assert [space.base_model for space in registry.spaces()] == [label or "x"]


def test_a_name_is_given_where_another_base_model_has_it(
    source: Path, registry: sr.Registry
) -> None:
    set_config(source, base_model_name_or_path="org/llama")
    registry.commit(source)
    set_config(source, base_model_name_or_path="fork/llama")
    text = hint(lambda: registry.commit(source))
    (call,) = calls(text)
    space = eval(f"registry.{call}", {"registry": registry})
    assert registry.commit(source).space == space.name
    same = re.search(r"give (space=.*? and allow_base_mismatch=True)", text)
    assert same
    set_config(source, base_model_name_or_path="third/llama")
    options = eval(f"dict({same[1].replace(' and ', ', ')})")
    assert registry.commit(source, **options).space == "llama"
    # once: the space then knows the name
    set_config(source, base_model_name_or_path="third/llama", lora_dropout=0.5)
    registry.commit(source, space="llama")


def test_one_of_several_spaces_of_a_base_model_is_named(
    source: Path, registry: sr.Registry
) -> None:
    for space in ("first", "second"):
        registry.create_space(space, base_model="org/llama")
    set_config(source, base_model_name_or_path="org/llama")
    named = re.findall("space='(.*?)'", hint(lambda: registry.commit(source)))
    assert named == ["first", "second"]
    assert registry.commit(source, space=named[1]).space == "second"


@pytest.mark.parametrize("folder", ["checkpoint-500", "adapter"])
def test_a_task_is_named_where_the_directory_says_nothing(
    folder: str, source: Path, registry: sr.Registry
) -> None:
    set_config(source, base_model_name_or_path="org/llama")
    place = source.parent / "spam-filter" / folder
    shutil.copytree(source, place)
    named = re.search(r"task='(.*?)'", hint(lambda: registry.commit(place)))
    assert named
    assert named[1] == "spam-filter"
    registry.commit(place, task=named[1])


def test_an_adapter_of_another_base_model_goes_to_another_space(
    source: Path, registry: sr.Registry, tmp_path: Path
) -> None:
    set_config(source, base_model_name_or_path="org/llama")
    registry.commit(source)
    other = save_live("gpt2", tmp_path / "other")
    set_config(other, base_model_name_or_path="org/gpt2")
    text = hint(lambda: registry.commit(other, space="llama"))
    assert "allow_base_mismatch=True" in text
    assert registry.commit(other).space == "gpt2"
