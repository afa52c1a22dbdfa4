"""The catalog is an index.

LostError, damaged, old or foreign, it is made again from the store, equal to what it was (P9); and
readers write nothing (P22).
"""

import json
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import click
import pytest

import share_registry as sr
from share_registry.cli.commands import read as cli_read
from share_registry.errors import CatalogError, RefusedError, ShareRegistryError
from share_registry.values.checks import VerifyReport
from tests.cli.tiny import SPACE
from tests.reliability.faults import VERBS
from tests.reliability.media import mounted
from tests.reliability.registries import adapters, commit, keys, opened, require_sound, rows
from tests.reliability.scenarios import NoFlush
from tests.store.trees import tree

Damage = Callable[[Path, Path], None]


def _deleted(catalog: Path, old: Path) -> None:
    catalog.unlink()


def _truncated(catalog: Path, old: Path) -> None:
    catalog.write_bytes(catalog.read_bytes()[: catalog.stat().st_size // 2])


def _emptied(catalog: Path, old: Path) -> None:
    catalog.write_bytes(b"")


def _garbled(catalog: Path, old: Path) -> None:
    content = bytearray(catalog.read_bytes())
    for position in range(4096, len(content), 97):
        content[position] ^= 0x55
    catalog.write_bytes(content)


def _no_database(catalog: Path, old: Path) -> None:
    catalog.write_bytes(b"this is no database " * 400)


def _rolled_back(catalog: Path, old: Path) -> None:
    shutil.copyfile(old, catalog)


def _head_forged(catalog: Path, old: Path) -> None:
    with sqlite3.connect(catalog) as connection:
        connection.execute("UPDATE sr_spaces SET head_id = ?", ("0" * 64,))
    connection.close()


def _swapped(catalog: Path, old: Path) -> None:
    folder = catalog.parent.parent / "other"
    with opened(folder) as registry:
        commit(registry, catalog.parent.parent / "t1", "another-history")
    shutil.copyfile(folder / "catalog.sqlite", catalog)


@pytest.fixture(scope="module")
def finished_history() -> Iterator[Path]:
    """A registry with some of everything, its adapters, and a copy of its catalog from half-way."""
    with tempfile.TemporaryDirectory() as top:
        first, second = adapters(Path(top), 2)
        root = Path(top) / "registry"
        with opened(root) as registry:
            commit(registry, first, "one")
            registry.set_alias("t0@v1", "prod", reason="first")
        shutil.copyfile(root / "catalog.sqlite", Path(top) / "old.sqlite")
        with opened(root) as registry:
            commit(registry, second, "two")
            commit(registry, first, "three")
            registry.set_alias("t0@v2", "prod", reason="second")
            registry.tag("release", "@c5")
            registry.annotate("t1@v1", labels={"team": "search"}, metrics={"accuracy": 0.5})
            registry.export("t1", Path(top) / "serve", record=True)
            registry.rename("t1", "renamed")
            registry.drop("t0")
            registry.restore("t0@v1")
        yield Path(top)


@pytest.fixture
def history(finished_history: Path, quick_path: Path) -> Path:
    """A copy of it for one test."""
    shutil.copytree(finished_history, quick_path / "copy")
    return quick_path / "copy" / "registry"


@pytest.mark.parametrize(
    "damage",
    [_deleted, _truncated, _emptied, _garbled, _no_database, _rolled_back, _head_forged, _swapped],
    ids=lambda damage: damage.__name__[1:],
)
@pytest.mark.parametrize("mode", ["r", "w"])
def test_a_catalog_in_any_state_is_made_again_equal(
    history: Path, damage: Damage, mode: str
) -> None:
    with opened(history, mode="r") as registry:
        before = rows(registry)
    damage(history / "catalog.sqlite", history.parent / "old.sqlite")
    with opened(history, mode=mode) as registry:
        if damage is _garbled and mode == "w":
            registry.rebuild()
        assert rows(registry) == before
    if mode == "w":
        with opened(history, mode="w") as registry:
            assert commit(registry, history.parent / "t0", "next").created


READS: list[Callable[[sr.Registry], object]] = [
    lambda registry: registry.spaces(),
    lambda registry: registry.log(SPACE),
    lambda registry: registry.tasks(SPACE),
    lambda registry: registry.show("t0"),
    lambda registry: registry.resolve("t0@prod"),
    lambda registry: registry.lineage("t0"),
    lambda registry: registry.diff("t0@v1", "t0@v2"),
    lambda registry: registry.space(SPACE).aliases(),
    lambda registry: registry.alias_history("t0", "prod"),
    lambda registry: registry.space(SPACE).tags(),
    lambda registry: registry.checkout("t0@v1").state_dict(),
    lambda registry: registry.verify("deep"),
]


ANSWERS: dict[str, Callable[[sr.Registry, Path], object]] = {
    "spaces": lambda registry, _: registry.spaces(),
    "log": lambda registry, _: registry.log(SPACE, limit=None),
    "log of a task": lambda registry, _: registry.log(task="t0"),
    "tasks": lambda registry, _: registry.tasks(SPACE, all_versions=True),
    "tasks then": lambda registry, _: registry.tasks(SPACE, at=3),
    "show": lambda registry, _: [registry.show(ref) for ref in ("t0@prod", "@c4", "renamed")],
    "resolve": lambda registry, _: [
        registry.resolve(ref)
        for ref in ("t0", "t0@prod", "t0@prod~1", "t1@v1", "t0@c3", "t0@release", "@head")
    ],
    "lineage": lambda registry, _: registry.lineage("t0"),
    "diff": lambda registry, _: registry.diff("t0@v1", "t0@v2"),
    "aliases": lambda registry, _: registry.aliases(),
    "alias_history": lambda registry, _: registry.alias_history("t0", "prod"),
    "tags": lambda registry, _: registry.space(SPACE).tags(),
    "identify": lambda registry, top: registry.identify(top / "t0"),
    "checkout": lambda registry, _: {
        key: tensor.numpy().tobytes()
        for key, tensor in registry.checkout("t0@prod").tensors.items()
    },
    "export": lambda registry, top: (
        registry.export("t0@prod", top / "out", profile="portable", overwrite=True).digest
    ),
    "report": lambda registry, _: registry.report("t0@prod").content,
    "retention": lambda registry, _: registry.retention().rows,
    "similar": lambda registry, _: registry.similar("t0").neighbours,
    "changes": lambda registry, _: registry.changes("2020-01-01").tasks,
    "lint": lambda registry, _: registry.lint("t0").verdicts,
    "routing_index": lambda registry, _: registry.space(SPACE).routing_index().tasks,
    "checkpoint": lambda registry, _: registry.checkpoint(),
    "audit": lambda registry, _: registry.audit(),
    "verify": lambda registry, _: _of_the_store(registry.verify("data", raise_on_damage=False)),
}


def _of_the_store(report: VerifyReport) -> VerifyReport:
    """Leave out what is said of the catalog, which a reader cannot make again."""
    findings = [finding for finding in report.findings if finding.code != "CATALOG"]
    return replace(report, findings=tuple(findings))


def test_every_verb_that_reads_is_among_those_whose_answers_are_compared() -> None:
    verbs = {name for name, member in vars(cli_read).items() if isinstance(member, click.Command)}
    # the second exports, which is compared; the last asks no registry
    assert verbs - {"ls", "sync", "verify_export"} <= ANSWERS.keys()


def answers(registry: sr.Registry, top: Path) -> dict[str, object]:
    return {name: read(registry, top) for name, read in ANSWERS.items()}


@pytest.mark.parametrize(
    "damage",
    [_deleted, _truncated, _emptied, _no_database, _rolled_back, _head_forged, _swapped],
    ids=lambda damage: damage.__name__[1:],
)
@pytest.mark.parametrize("mode", ["r", "w"])
def test_every_verb_answers_alike_whatever_became_of_the_catalog(
    history: Path, damage: Damage, mode: str
) -> None:
    with opened(history, mode="r") as registry:
        before = answers(registry, history.parent)
    damage(history / "catalog.sqlite", history.parent / "old.sqlite")
    with opened(history, mode=mode) as registry:
        assert answers(registry, history.parent) == before
        assert mode == "r" or registry.verify("data").ok


@pytest.mark.parametrize("verb", ANSWERS)
def test_a_garbled_catalog_is_answered_from_rightly_or_not_at_all(history: Path, verb: str) -> None:
    with opened(history, mode="r") as registry:
        before = ANSWERS[verb](registry, history.parent)
    _garbled(history / "catalog.sqlite", history.parent / "old.sqlite")
    with opened(history, mode="w") as registry:
        hint = "rebuild"
        try:
            assert ANSWERS[verb](registry, history.parent) == before
        except ShareRegistryError as error:
            hint = error.hint
        assert "rebuild" in hint


@pytest.mark.parametrize("mode", ["r", "w"])
def test_the_catalog_of_another_registry_is_refused_and_both_are_named(
    history: Path, quick_path: Path, mode: str
) -> None:
    ours, theirs = quick_path / "ours.sqlite", quick_path / "theirs.sqlite"
    identities = {}
    for catalog, root in ((ours, history), (theirs, quick_path / "second")):
        sr.Registry.open(root).close()
        identities[catalog] = json.loads((root / "FORMAT").read_bytes())["store"]
        with sr.Registry.open(f"sqlite:///{catalog}", store=root) as registry:
            registry.spaces()
    with pytest.raises(CatalogError) as refused:
        sr.Registry.open(f"sqlite:///{theirs}", store=history, mode=mode)
    assert all(identity in str(refused.value) for identity in identities.values())


class ReadingOnly(NoFlush):
    """System calls of which those that write are not there."""


def _forbidden(verb: str) -> Callable[..., None]:
    def call(*_: object, **__: object) -> None:
        raise AssertionError(f"a reader called {verb}")

    return call


for _verb in set(VERBS) - {"open", "close", "read", "status", "find", "listdir"}:
    setattr(ReadingOnly, _verb, _forbidden(_verb))


@pytest.mark.parametrize("lacking", [False, True], ids=["whole", "catalog-behind"])
def test_no_read_verb_writes_anything(history: Path, lacking: bool) -> None:
    if lacking:
        _rolled_back(history / "catalog.sqlite", history.parent / "old.sqlite")
    before = tree(history)
    with opened(history, mode="r", system=ReadingOnly()) as registry:
        for read in READS:
            read(registry)
        with pytest.raises(RefusedError, match="reading only"):
            commit(registry, history.parent / "t0", "never")
    assert tree(history) == before


def test_a_registry_on_a_read_only_medium_answers_every_read_verb(
    history: Path, mount: Path
) -> None:
    mounted("--bind", str(history), str(mount))
    mounted("-o", "remount,ro,bind", str(mount))
    with opened(mount, mode="r") as registry:
        for read in READS:
            read(registry)
    with pytest.raises(ShareRegistryError), opened(mount, mode="w") as registry:
        commit(registry, history.parent / "t0", "never")


@pytest.mark.parametrize("size_kib", [300, 420])
def test_a_full_medium_leaves_a_registry_that_can_be_read_and_goes_on_with_more_space(
    quick_path: Path, mount: Path, size_kib: int
) -> None:
    mounted("-t", "tmpfs", "-o", f"size={size_kib}k", "none", str(mount))
    root = mount / "registry"
    sources = adapters(quick_path, 3)
    acknowledged: list[str] = []
    attempted: list[str] = []
    with pytest.raises(ShareRegistryError, match=r"space|full"):
        _fill(root, sources, acknowledged, attempted)
    with opened(root, mode="r") as reader:
        assert set(acknowledged) <= set(keys(reader)) <= set(attempted)
        assert reader.verify("data").ok
    mounted("-o", "remount,size=16m", str(mount))
    with opened(root) as registry:
        commit(registry, sources[0], attempted[-1])
    assert set(require_sound(root, acknowledged=acknowledged, attempted=attempted)) >= {
        attempted[-1]
    }


def _fill(root: Path, sources: list[Path], acknowledged: list[str], attempted: list[str]) -> None:
    with opened(root) as registry:
        for number in range(200):
            attempted.append(f"{number}")
            commit(registry, sources[number % 3], f"{number}")
            acknowledged.append(f"{number}")
