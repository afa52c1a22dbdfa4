"""Who made a record: every verb that writes one says so."""

from collections.abc import Callable
from pathlib import Path

import pytest

import share_registry as sr
from share_registry.values.sheet import as_text, sheet_of
from tests.registry.conftest import DEMO

FIRST, SECOND = DEMO / "wn-pos-gloss" / "v1", DEMO / "wn-pos-gloss" / "v2"
SPACE = "all-minilm-l6-v2"
WRITES: dict[str, Callable[..., object]] = {
    "create": lambda registry, **who: registry.create_space("new", **who),
    "policy": lambda registry, **who: registry.set_policy(sr.Policy(budget=0.1), **who),
    "absorb": lambda registry, **who: registry.commit(FIRST, task="more", **who),
    "several": lambda registry, **who: registry.commit_many({"more": FIRST}, **who),
    "merge": lambda registry, **who: registry.merge({"cola": 1}, task="more", **who),
    "refit": lambda registry, **who: registry.refit(max_rank=2, allow_loss=True, **who),
    "alias": lambda registry, **who: registry.set_alias("cola", "next", **who),
    "removal": lambda registry, **who: registry.remove_alias("cola", "prod", **who),
    "tag": lambda registry, **who: registry.tag("now", "cola", **who),
    "annotate": lambda registry, **who: registry.annotate("cola", labels={"a": "b"}, **who),
    "rename": lambda registry, **who: registry.rename("cola", "new", **who),
    "drop": lambda registry, **who: registry.drop("cola", **who),
    "restore": lambda registry, **who: registry.restore("cola@v1", **who),
    "export": lambda registry, **who: registry.export(
        "cola", Path(registry.location).parent / "serve", record=True, **who
    ),
}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A registry with cola@v1, cola@v2 and the alias prod, by nobody."""
    place = tmp_path / "registry"
    with sr.Registry.open(place) as registry:
        registry.commit(FIRST, task="cola")
        registry.commit(SECOND, task="cola")
        registry.set_alias("cola", "prod")
    return place


@pytest.mark.parametrize("kind", sorted(WRITES))
def test_every_record_names_its_author(kind: str, place: Path) -> None:
    space = "new" if kind == "create" else SPACE
    with sr.Registry.open(place, author="ada", space=SPACE) as registry:
        WRITES[kind](registry)
        assert registry.log(space)[0].author == "ada"
        assert registry.verify("quick").ok
    with sr.Registry.open(place, mode="r") as reader:
        assert reader.log(space)[0].author == "ada"


@pytest.mark.parametrize(("who", "author"), [({"author": "bob"}, "bob"), ({"author": ""}, None)])
def test_a_call_names_another_author_than_the_registry(
    who: dict[str, str], author: str | None, place: Path
) -> None:
    with sr.Registry.open(place, author="ada") as registry:
        for kind in ("alias", "annotate", "absorb"):
            WRITES[kind](registry, **who)
            assert registry.log()[0].author == author


def test_a_new_space_is_by_the_author_of_its_first_commit(tmp_path: Path) -> None:
    with sr.Registry.open(tmp_path / "new", author="ada") as registry:
        registry.commit(FIRST, task="cola", author="bob")
        assert [commit.author for commit in registry.log()] == ["bob", "bob"]


def test_the_environment_names_the_author_where_nobody_does(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHARE_REGISTRY_AUTHOR", "eve")
    with sr.Registry.open(place) as registry:
        assert registry.tag("now", "cola").author == "eve"


def test_history_shows_authors_on_a_narrow_terminal(place: Path) -> None:
    with sr.Registry.open(place, author="ada") as registry:
        registry.set_alias("cola@v1", "prod", reason="roll back to what was served before")
        registry.commit(FIRST, task="cola", message="trained again, with more data")
        history = registry.log(), registry.alias_history("cola", "prod"), registry.lineage("cola")
        for listed in history:
            lines = as_text(sheet_of(listed), width=80).splitlines()
            assert any("ada" in line for line in lines), lines


@pytest.mark.parametrize("author", ["x" * 257, "caf\udce9", 7])
def test_an_author_that_no_note_can_hold_is_refused(author: object, tmp_path: Path) -> None:
    with pytest.raises(sr.InvalidInputError, match="author is"):
        sr.Registry.open(tmp_path / "new", author=author)  # type: ignore[arg-type]
    assert not (tmp_path / "new").exists()
    with (
        sr.Registry.open(tmp_path / "new") as registry,
        pytest.raises(sr.InvalidInputError, match="author is"),
    ):
        registry.create_space("tiny", author=author)  # type: ignore[arg-type]
