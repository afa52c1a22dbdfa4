"""Tasks among several spaces: one grammar, `[space/]task`, wherever a task is named."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import share_registry as sr
from tests.registry.conftest import DEMO

FIRST, SECOND = DEMO / "wn-pos-gloss" / "v1", DEMO / "wn-pos-gloss" / "v2"


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Spaces one and two with a task cola each, and a task sst2 in two."""
    place = tmp_path_factory.mktemp("spaces") / "registry"
    with sr.Registry.open(place) as opened:
        for name in ("one", "two"):
            opened.create_space(name, base_model="sentence-transformers/all-MiniLM-L6-v2")
            opened.commit(FIRST, task=f"{name}/cola")
            opened.set_alias(f"{name}/cola", "prod")
        opened.commit(FIRST, task="two/sst2")
        opened.set_alias("two/sst2", "prod")
    return place


@pytest.fixture
def registry(template: Path, tmp_path: Path) -> Iterator[sr.Registry]:
    """A copy of the template."""
    shutil.copytree(template, tmp_path / "registry")
    with sr.Registry.open(tmp_path / "registry") as opened:
        yield opened


ASKS: dict[str, Callable[[sr.Registry, str], object]] = {
    "log": lambda registry, task: [commit.space for commit in registry.log(task=task)],
    "aliases": lambda registry, task: registry.aliases(task=task),
    "alias-history": lambda registry, task: registry.alias_history(task, "prod"),
    "resolve": lambda registry, task: registry.resolve(task),
    "show": lambda registry, task: registry.show(f"{task}@prod"),
    "lineage": lambda registry, task: registry.lineage(f"{task}@v1"),
    "checkout": lambda registry, task: registry.checkout(task).ref,
    "diff": lambda registry, task: registry.diff(f"{task}@v1", task),
    "annotate": lambda registry, task: registry.annotate(task, labels={"a": "b"}).ref,
    "set-alias": lambda registry, task: registry.set_alias(f"{task}@v1", "next").ref,
    "remove-alias": lambda registry, task: registry.remove_alias(task, "prod").ref,
    "tag": lambda registry, task: registry.tag("t", f"{task}@v1").space,
    "rename": lambda registry, task: registry.rename(task, "new").space,
    "drop": lambda registry, task: registry.drop(task).space,
    "merge": lambda registry, task: registry.merge({task: 1}, task=f"{task}-copy").ref,
    "materialize": lambda registry, task: [
        adapter.ref for adapter in sr.Materializer(registry).materialize([task]).values()
    ],
}
SEVERAL = {"log"}
"""What is asked of every space where none is named."""


@pytest.mark.parametrize("verb", sorted(ASKS))
def test_a_task_may_be_named_with_its_space(verb: str, registry: sr.Registry) -> None:
    assert "one" in str(ASKS[verb](registry, "one/cola"))


@pytest.mark.parametrize("verb", sorted(ASKS))
def test_a_task_of_one_space_needs_none(verb: str, registry: sr.Registry) -> None:
    assert "two" in str(ASKS[verb](registry, "sst2"))


@pytest.mark.parametrize("verb", sorted({*ASKS} - SEVERAL))
def test_a_task_of_several_spaces_is_refused_with_what_to_write(
    verb: str, registry: sr.Registry
) -> None:
    with pytest.raises(sr.RefusedError, match="several have a task 'cola'") as error:
        ASKS[verb](registry, "cola")
    assert error.value.hint == "Name one of them: one/cola, two/cola."


@pytest.mark.parametrize("verb", sorted(ASKS))
def test_a_task_of_no_space_is_not_found(verb: str, registry: sr.Registry) -> None:
    with pytest.raises(sr.NotFoundError, match="task 'sst'") as error:
        ASKS[verb](registry, "sst")
    assert error.value.hint == "Did you mean two/sst2?"


def test_a_log_of_a_task_is_of_the_space_that_it_names(registry: sr.Registry) -> None:
    assert {commit.space for commit in registry.log(task="one/cola")} == {"one"}
    assert {commit.space for commit in registry.log(task="cola")} == {"one", "two"}
    assert {commit.space for commit in registry.log("two", task="cola")} == {"two"}
    with pytest.raises(sr.NotFoundError, match="task one/sst2 does not exist"):
        registry.log(task="one/sst2")


def test_an_older_name_leads_to_the_space_too(registry: sr.Registry) -> None:
    registry.rename("sst2", "sentiment")
    assert registry.resolve("sst2").ref == "two/sentiment@v1"


def test_the_space_of_a_task_goes_before_the_scope(registry: sr.Registry) -> None:
    scoped = registry.space("two")
    assert scoped.commit(SECOND, task="one/cola").ref == "one/cola@v2"
    assert scoped.resolve("cola").space == "two"
    with pytest.raises(sr.RefusedError, match="the parents are of space 'two'"):
        scoped.merge({"cola": 1}, task="one/both")
    with pytest.raises(sr.InvalidInputError, match="several spaces: one, two"):
        registry.commit_many({"one/x": FIRST, "two/x": FIRST})


def test_without_a_space_the_first_commit_is_hinted_at(tmp_path: Path) -> None:
    with sr.Registry.open(tmp_path / "empty") as empty:
        for ask in (empty.analyze, empty.retention, empty.report):
            with pytest.raises(sr.RefusedError, match="there is no space yet") as error:
                ask()
            assert "commit ADAPTER" in error.value.hint
