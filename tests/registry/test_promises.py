"""The two promises: a version never changes, and the store alone says everything."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import share_registry as sr
from tests.catalog.rows import dump
from tests.cli.tiny import SPACE, write_adapter
from tests.registry.conftest import DEMO, Open
from tests.registry.plain import exports, files

_EXPORT = """
import sys, torch
torch.set_num_threads(int(sys.argv[3]))
import share_registry as sr
with sr.Registry.open(sys.argv[1], mode="r") as registry:
    for ref in sys.argv[4:]:
        registry.export(ref, sys.argv[2])
"""


def test_a_version_exports_the_same_bytes_for_ever(registry: sr.Registry, tmp_path: Path) -> None:
    refs = ["gloss@v1", "gloss@v2", "antonyms@v1", "exact@v1"]
    registry.commit(DEMO / "wn-pos-gloss" / "v1", task="gloss")
    registry.commit(DEMO / "wn-pos-gloss" / "v2", task="gloss")
    registry.commit(DEMO / "wn-syn-ant" / "s42", task="antonyms")
    registry.commit(DEMO / "wn-syn-ant" / "v1", task="exact", budget=0)
    first = exports(registry, refs, tmp_path / "first")
    registry.commit(DEMO / "wn-pos-gloss" / "v3", task="gloss")
    registry.commit(DEMO / "wn-verb-frame" / "s42", task="frames")
    registry.restore("gloss@v1")
    registry.rename("antonyms", "opposites")
    registry.annotate("gloss@v1", labels={"note": "later"})
    registry.set_alias("gloss@v1", "prod")
    registry.drop("exact")
    assert exports(registry, refs, tmp_path / "later") == first
    registry.rebuild()
    assert exports(registry, refs, tmp_path / "rebuilt") == first
    for threads in ("1", "2"):
        target = tmp_path / f"process-{threads}"
        subprocess.run(
            [sys.executable, "-c", _EXPORT, registry.location, str(target), threads, *refs],
            check=True,
        )
        assert files(target) == first
    assert registry.verify("deep").ok


def test_what_was_exact_comes_back_bit_for_bit(registry: sr.Registry, tmp_path: Path) -> None:
    source = DEMO / "wn-verb-frame" / "v1"
    registry.commit(source, task="frames", budget=0)
    exported = registry.export("frames", tmp_path / "out").path
    for name in ("adapter_model.safetensors", "adapter_config.json", "head.safetensors"):
        assert (exported / name).read_bytes() == (source / name).read_bytes()


def test_the_original_comes_back_exactly_where_it_was_kept(registry: sr.Registry) -> None:
    source = DEMO / "wn-verb-frame" / "v1"
    registry.commit(source, task="frames", keep_original=True)
    registry.commit(DEMO / "wn-syn-ant" / "v1", task="antonyms")
    adapter = registry.checkout("frames", exact=True)
    assert (
        dict(adapter.original)["adapter_model.safetensors"]
        == (source / "adapter_model.safetensors").read_bytes()
    )
    assert adapter.error == 0
    with pytest.raises(sr.RefusedError, match="original was not kept"):
        registry.checkout("antonyms", exact=True)


def test_restoring_gives_the_earlier_bytes_as_a_new_version(registry: sr.Registry) -> None:
    for version in ("v1", "v2"):
        registry.commit(DEMO / "wn-pos-gloss" / version, task="gloss")
    commit = registry.restore("gloss@v1", reason="v2 was worse")
    assert commit.ref.endswith("gloss@v3")
    first, third = registry.checkout("gloss@v1"), registry.checkout("gloss@v3")
    assert all(bool((first.tensors[key] == third.tensors[key]).all()) for key in first.tensors)


READS: dict[str, Callable[[sr.Registry], Any]] = {
    "spaces": lambda r: r.spaces(),
    "log": lambda r: r.log(limit=None),
    "log of a task": lambda r: r.log(task="new"),
    "tasks": lambda r: r.tasks(),
    "tasks then": lambda r: r.tasks(SPACE, at=4),
    "tasks with a label": lambda r: r.tasks(labels={"team": "search"}),
    "tasks with an alias": lambda r: r.tasks(alias="prod"),
    "show": lambda r: r.show("new@v2"),
    "resolve": lambda r: [
        r.resolve(ref).long
        for ref in ("old", "new@v1", "new@prod", "@release", "new@release", "new@c3")
    ],
    "lineage": lambda r: r.lineage("new@v3"),
    "aliases": lambda r: r.space(SPACE).aliases(),
    "alias history": lambda r: r.alias_history("new", "prod"),
    "tags": lambda r: r.tags(),
    "diff": lambda r: r.diff("new@v1", "new@v2"),
    "diff of states": lambda r: r.diff("@c3", "@latest"),
}


def eventful(registry: sr.Registry, folder: Path) -> None:
    """Do everything that leaves a record."""
    adapters = [write_adapter(folder / f"adapter{seed}", seed=seed, near=1) for seed in range(2, 6)]
    registry.commit(
        adapters[0], task="old", labels={"team": "search"}, metrics={"accuracy": 0.5}, author="ann"
    )
    registry.commit(adapters[1], task="old", derived_from=["old@v1"], message="more data")
    registry.commit(adapters[2], task="gone", budget=0)
    registry.annotate(
        "old@v2",
        labels={"team": "search", "stage": "test"},
        metrics={"f1": 0.25},
        reason="evaluated",
    )
    registry.annotate("old@v2", remove=["stage"])
    registry.set_alias("old@v1", "prod", reason="first")
    registry.set_alias("old@v2", "prod", reason="second")
    registry.set_alias("old@v1", "canary")
    registry.remove_alias("old", "canary")
    registry.tag("release", "@latest")
    registry.drop("gone", reason="unused")
    registry.restore("old@v1")
    registry.rename("old", "new")
    registry.set_policy(sr.Policy(budget=0.02), space=SPACE)
    registry.commit_many({"many-a": adapters[3], "many-b": adapters[0]}, space=SPACE)
    registry.merge({"many-a": 0.5, "many-b": 0.5}, task="merged", labels={"nul": "a\0b"})
    registry.refit(max_rank=1, allow_loss=True)


def dumped(registry: sr.Registry) -> dict[str, list[tuple[object, ...]]]:
    with registry.context.catalog.begin() as session:
        return dump(session)


def test_a_rebuild_answers_every_read_verb_alike(open_registry: Open, tmp_path: Path) -> None:
    with open_registry() as registry:
        eventful(registry, tmp_path)
        before = {name: read(registry) for name, read in READS.items()}
        rows = dumped(registry)
        registry.rebuild()
        assert {name: read(registry) for name, read in READS.items()} == before
        assert dumped(registry) == rows  # what commits wrote is what their records say
    with open_registry(mode="r") as registry:
        assert {name: read(registry) for name, read in READS.items()} == before


@pytest.mark.parametrize("damage", ["missing", "truncated", "garbage", "of an earlier day"])
def test_a_damaged_catalog_loses_nothing(damage: str, tmp_path: Path) -> None:
    place, catalog = tmp_path / "registry", tmp_path / "registry" / "catalog.sqlite"
    with sr.Registry.open(place) as registry:
        early = catalog.read_bytes()
        eventful(registry, tmp_path)
        before = {name: read(registry) for name, read in READS.items()}
    content = {
        "missing": None,
        "truncated": catalog.read_bytes()[:5000],
        "garbage": os.urandom(9000),
        "of an earlier day": early,
    }[damage]
    catalog.unlink()
    if content is not None:
        catalog.write_bytes(content)
    for mode in ("r", "w"):
        with sr.Registry.open(place, mode=mode) as registry:
            assert {name: read(registry) for name, read in READS.items()} == before


def test_a_copy_of_the_store_alone_is_the_registry(tmp_path: Path) -> None:
    import shutil

    with sr.Registry.open(tmp_path / "registry") as registry:
        eventful(registry, tmp_path)
        before = {name: read(registry) for name, read in READS.items()}
    shutil.copytree(
        tmp_path / "registry", tmp_path / "copy", ignore=shutil.ignore_patterns("catalog.sqlite*")
    )
    with sr.Registry.open(tmp_path / "copy", mode="r") as registry:
        assert {name: read(registry) for name, read in READS.items()} == before
        assert not (tmp_path / "copy" / "catalog.sqlite").exists()


def record_file(place: Path, space: str, number: int) -> Path:
    return place / "spaces" / space / "log" / f"{number:020}.json"


def test_a_store_that_lost_its_last_record_is_found_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place = tmp_path / "registry"
    with sr.Registry.open(place) as registry:
        eventful(registry, tmp_path)
        last = registry.log(SPACE, limit=1)[0]
    record_file(place, SPACE, last.number).unlink()
    with sr.Registry.open(place, mode="r") as registry:
        assert registry.log(SPACE, limit=1)[0].number == last.number
        assert "is not in the store" in caplog.text
        with pytest.raises(sr.IntegrityError, match=f"c{last.number}"):
            registry.verify("quick")
    with sr.Registry.open(place) as registry:
        with pytest.raises(
            sr.IntegrityError, match=f"c{last.number} of space {SPACE} is not in the store"
        ):
            registry.tag("more", "@latest")
        with pytest.raises(sr.RefusedError, match=f"@c{last.number}"):
            registry.rebuild()
        registry.rebuild(accept_loss=True)
        assert registry.log(SPACE, limit=1)[0].number == last.number - 1


@pytest.mark.parametrize("damage", ["gone", "cut"])
@pytest.mark.parametrize("number", [1, 4])
@pytest.mark.parametrize("catalog", ["kept", "lost"])
def test_a_damaged_log_is_read_up_to_the_damage_and_never_written(
    damage: str, number: int, catalog: str, tmp_path: Path
) -> None:
    place = tmp_path / "registry"
    with sr.Registry.open(place) as registry:
        eventful(registry, tmp_path)
        count = len(registry.log(limit=None))
    path = record_file(place, SPACE, number)
    content = path.read_bytes()
    path.unlink()
    if damage == "cut":
        path.write_bytes(content[:30])
    if catalog == "lost":
        (place / "catalog.sqlite").unlink()
    before = files(place / "spaces")
    with sr.Registry.open(place, mode="r") as registry:
        if catalog == "kept":
            assert len(registry.log(limit=None)) == count
        else:
            with pytest.raises(sr.IntegrityError, match=f"c{number}.*newest state"):
                registry.log(limit=None)
        if catalog == "lost" and number > 1:
            earlier = registry.log(before=f"@c{number - 1}", limit=None)
            assert [commit.number for commit in earlier] == [*range(number - 2, 0, -1)]
        with pytest.raises(sr.IntegrityError, match=f"c{number}"):
            registry.verify("quick")
    with sr.Registry.open(place) as registry:
        with pytest.raises(sr.IntegrityError, match=f"c{number}"):
            registry.rebuild()
        if catalog == "lost":
            with pytest.raises(sr.IntegrityError, match=f"c{number}"):
                registry.create_space(SPACE, exist_ok=True)
            with pytest.raises(sr.IntegrityError, match=f"c{number}"):
                registry.tasks()
    assert files(place / "spaces") == before
    path.unlink(missing_ok=True)
    path.write_bytes(content)
    with sr.Registry.open(place) as registry:
        assert len(registry.log(limit=None)) == count
        assert registry.verify("deep").ok


def test_a_stray_file_named_like_a_space_is_reported_and_read_by_nobody(tmp_path: Path) -> None:
    place = tmp_path / "registry"
    with sr.Registry.open(place) as registry:
        eventful(registry, tmp_path)
        (place / "spaces" / "stray").touch()
        assert registry.log(limit=1)
        assert [finding.code for finding in registry.verify(raise_on_damage=False).findings] == [
            "STO-02"
        ]
        with pytest.raises(
            sr.IntegrityError,
            match=r"not belong into a store\. Move what does not belong there out",
        ) as raised:
            registry.verify()
        assert str(raised.value).count("..") == 0


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{}", "says no format version, expected 1"),
        ('{"format":2}', "has format 2, this release reads 1"),
    ],
)
def test_a_record_of_no_format_is_damaged_and_one_of_another_asks_for_an_upgrade(
    tmp_path: Path, content: str, said: str
) -> None:
    place = tmp_path / "registry"
    with sr.Registry.open(place) as registry:
        eventful(registry, tmp_path)
        space = registry.spaces()[0].name
    (place / "catalog.sqlite").unlink()
    record = place / "spaces" / space / "log" / f"{2:020d}.json"
    record.unlink()
    record.write_text(content)
    with (
        pytest.raises(
            sr.FormatError if "2" in content else sr.IntegrityError, match=said
        ) as raised,
        sr.Registry.open(place, mode="w") as registry,
    ):
        registry.log()
    assert ("Upgrade" in raised.value.hint) == ("2" in content)
    assert raised.value.hint


def test_a_record_in_another_place_is_refused_not_followed(tmp_path: Path) -> None:
    place = tmp_path / "registry"
    with sr.Registry.open(place) as registry:
        for name in ("a", "b"):
            registry.create_space(name)
            registry.set_policy(sr.Policy(budget=0.1), space=name)
    foreign = place / "spaces" / "b" / "log" / f"{2:020}.json"
    (place / "spaces" / "a" / "log" / f"{3:020}.json").write_bytes(foreign.read_bytes())
    with (
        sr.Registry.open(place) as registry,
        pytest.raises(sr.IntegrityError, match="says it is c2 of space b"),
    ):
        registry.log()
    with sr.Registry.open(place, mode="r") as registry:
        with pytest.raises(sr.IntegrityError, match="newest state of space a"):
            registry.log("a")
        assert registry.show("a/@c2").kind == "policy"
        assert len(registry.log("b")) == 2
        assert {finding.code for finding in registry.verify(raise_on_damage=False).findings} == {
            "REC-02",
            "REC-03",
        }


def test_a_store_that_needs_unknown_features_is_only_read(tmp_path: Path) -> None:
    place = tmp_path / "registry"
    sr.Registry.open(place).close()
    path = place / "FORMAT"
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content.replace(b'"write":[]', b'"write":["later"]'))
    with pytest.raises(sr.FormatError, match="later"):
        sr.Registry.open(place, mode="w")
    with sr.Registry.open(place, mode="r") as registry:
        assert registry.spaces() == []
