"""A log that goes on in a format of a later release is no damage, and its end is not known."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import share_registry as sr
from share_registry.format.canonical import dump, sha256
from share_registry.values.checks import Outcome
from tests.cli.tiny import SPACE, write_adapter

MEMBERS: dict[str, dict[str, object]] = {
    "feature": {"requires": ["arithmetic-coder"]},
    "format": {"format": 2, "unknown": ["member"]},
}
ENDS: dict[str, Callable[[sr.Registry], object]] = {
    "newest": lambda registry: registry.checkout("cola"),
    "latest": lambda registry: registry.resolve("cola@latest"),
    "back": lambda registry: registry.resolve("cola@latest~1"),
    "head": lambda registry: registry.show("@head"),
    "alias": lambda registry: registry.resolve("cola@prod"),
    "time": lambda registry: registry.resolve("cola@2999-01-01"),
    "beyond": lambda registry: registry.show("@c9"),
    "version beyond": lambda registry: registry.resolve("cola@v3"),
    "task beyond": lambda registry: registry.resolve("sst2"),
    "log": lambda registry: registry.log(),
    "tasks": lambda registry: registry.tasks(),
    "aliases": lambda registry: registry.aliases(),
    "alias history": lambda registry: registry.alias_history("cola", "prod"),
    "tags": lambda registry: registry.tags(),
    "spaces": lambda registry: registry.spaces(),
    "similar": lambda registry: registry.similar("cola@v1"),
    "analyze": lambda registry: registry.analyze(),
    "retention": lambda registry: registry.retention(),
}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with a registry of two versions, an alias and a tag, and its adapters."""
    tmp_path = tmp_path_factory.mktemp("newer")
    root = tmp_path / "registry"
    with sr.Registry.open(root) as registry:
        for seed in (1, 2):
            registry.commit(write_adapter(tmp_path / f"cola{seed}", seed=seed), task="cola")
        registry.set_alias("cola@v1", "prod")
        registry.tag("release", "cola@v1")
    return tmp_path


@pytest.fixture
def store(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written / "registry", tmp_path / "registry"))


def extend(root: Path, members: dict[str, object], *, space: str = SPACE) -> None:
    """Add a record of a later release behind the newest."""
    log = root / "spaces" / space / "log"
    last = sorted(log.iterdir())[-1]
    record = json.loads(last.read_bytes())
    record |= {"number": record["number"] + 1, "parent": sha256(last.read_bytes()), "key": "newer"}
    record |= {"tag": "later"} | members
    (log / f"{record['number']:020}.json").write_bytes(dump(record))


@pytest.mark.parametrize("members", MEMBERS.values(), ids=list(MEMBERS))
@pytest.mark.parametrize("mode", ["r", "w"])
def test_what_the_end_of_a_newer_log_decides_is_not_answered(
    store: Path, mode: str, members: dict[str, object]
) -> None:
    extend(store, members)
    with sr.Registry.open(store, mode=mode) as registry:
        for ask in ENDS.values():
            with pytest.raises(sr.FormatError, match="newest state of space"):
                ask(registry)


@pytest.mark.parametrize("mode", ["r", "w"])
def test_what_came_before_the_newer_record_is_answered_as_ever(store: Path, mode: str) -> None:
    refs = ["cola@v1", "cola@v2", "cola@c2", "cola@c3", "cola@release", "@c4", "@release"]
    with sr.Registry.open(store) as registry:
        before = [registry.resolve(ref) for ref in refs]
        tasks, shown = registry.tasks(at=3), registry.show("@c3")
        tensors = registry.checkout("cola@v2").tensors
    extend(store, MEMBERS["feature"])
    with sr.Registry.open(store, mode=mode) as registry:
        assert [registry.resolve(ref) for ref in refs] == before
        assert registry.tasks(at=3) == tasks
        assert registry.show("@c3") == shown
        assert registry.checkout("cola@v2").tensors.keys() == tensors.keys()
        assert [commit.number for commit in registry.log(before="@c4")] == [3, 2, 1]


def test_nothing_is_committed_behind_a_newer_record_and_other_spaces_go_on(
    store: Path, written: Path
) -> None:
    extend(store, MEMBERS["feature"])
    with sr.Registry.open(store, mode="w") as registry:
        with pytest.raises(sr.FormatError):
            registry.commit(written / "cola1", task="sst2")
        with pytest.raises(sr.FormatError):
            registry.set_alias("cola@v1", "next")
        other = registry.create_space("other", base_model="tiny/base")
        assert other.summary.commits == 1


@pytest.mark.parametrize("members", MEMBERS.values(), ids=list(MEMBERS))
def test_verify_calls_a_newer_record_newer_and_not_damaged(
    store: Path, members: dict[str, object]
) -> None:
    extend(store, members)
    with sr.Registry.open(store, mode="r") as registry:
        report = registry.verify("deep", raise_on_damage=False)
        assert [(item.outcome, item.what) for item in report.findings] == [
            (Outcome.NEWER, f"{SPACE}/@c6")
        ]
        with pytest.raises(sr.FormatError, match="c6") as refused:
            registry.verify("deep")
    assert "upgrade" in refused.value.hint
    assert refused.value.exit_code == 6


def test_damage_before_a_newer_record_stays_damage(store: Path) -> None:
    extend(store, MEMBERS["feature"])
    (store / "spaces" / SPACE / "log" / f"{3:020}.json").unlink()
    with (
        sr.Registry.open(store, mode="r") as registry,
        pytest.raises(sr.IntegrityError, match="c3"),
    ):
        registry.verify("quick")
