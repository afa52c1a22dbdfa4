"""Where a registry is opened: directories, memory, Store objects; a refusal leaves nothing."""

import shutil
import socket
import uuid
from pathlib import Path

import pytest

import share_registry as sr
from share_registry.store.blobs import MemoryStore
from tests.cli.tiny import SPACE, write_adapter


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore(str(uuid.uuid4()))


@pytest.fixture
def closed_port() -> int:
    """A port of this machine on which nobody listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port


def test_a_registry_on_a_store_object_commits_and_checks_out(
    store: MemoryStore, adapter: Path
) -> None:
    with sr.Registry.open(store=store) as registry:
        commit = registry.commit(adapter, budget=0.0)
        checked_out = registry.checkout("cola")
    assert (commit.space, commit.number, commit.created) == (SPACE, 2, True)
    assert checked_out.ref == f"{SPACE}/cola@v1"
    assert store.numbers(commit.space) == [1, 2]


def test_a_store_object_is_opened_again_with_a_catalog_made_from_it(
    store: MemoryStore, adapter: Path, tmp_path: Path
) -> None:
    with sr.Registry.open(store=store) as registry:
        first = registry.commit(adapter, message="first")
        before = registry.export("cola@v1", tmp_path / "before").digest
    with sr.Registry.open(store=store) as registry:
        assert [commit.id for commit in registry.log()] == [first.id, first.parent]
        assert registry.export("cola@v1", tmp_path / "after").digest == before
        second = registry.commit(write_adapter(tmp_path / "next", seed=2), task="cola")
    assert second.version == 2
    assert store.numbers(first.space) == [1, 2, 3]


def test_two_registries_on_one_store_object_see_each_other(
    store: MemoryStore, adapter: Path
) -> None:
    with sr.Registry.open(store=store) as writer, sr.Registry.open(store=store, mode="r") as reader:
        assert list(reader.tasks()) == []
        commit = writer.commit(adapter)
        assert [task.ref for task in reader.tasks()] == [commit.ref]
        with pytest.raises(sr.RefusedError, match="reading only"):
            reader.commit(adapter)


def test_memory_is_a_registry_that_goes_with_its_object(adapter: Path) -> None:
    with sr.Registry.open("memory://") as registry:
        registry.commit(adapter)
        assert [task.name for task in registry.tasks()] == ["cola"]
        assert registry.verify("deep").ok
    with sr.Registry.open("memory://") as another:
        assert list(another.tasks()) == []


def test_a_store_object_may_have_its_catalog_in_a_database(
    store: MemoryStore, adapter: Path, catalog_url: str
) -> None:
    with sr.Registry.open(catalog_url, store=store) as registry:
        commit = registry.commit(adapter)
    with sr.Registry.open(catalog_url, store=store, mode="r") as registry:
        assert next(iter(registry.log())).id == commit.id


def test_a_catalog_of_another_store_object_is_refused(store: MemoryStore, catalog_url: str) -> None:
    with sr.Registry.open(catalog_url, store=store):
        pass
    another = MemoryStore(str(uuid.uuid4()))
    with pytest.raises(sr.CatalogError, match=f"of store {store.identity}, the store is"):
        sr.Registry.open(catalog_url, store=another)


@pytest.mark.parametrize("location", ["registry", "memory://"])
def test_a_store_object_beside_another_store_is_refused(
    store: MemoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, location: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(sr.InvalidInputError, match="store= MemoryStore is given beside"):
        sr.Registry.open(location, store=store)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("url", "error", "message"),
    [
        ("s3://bucket/x", sr.InvalidInputError, "kind 's3' is not supported, expected sqlite"),
        ("mysql://h/db", sr.InvalidInputError, "kind 'mysql' is not supported, expected sqlite"),
        ("sqlite:////nowhere/c.sqlite", sr.CatalogError, "directory '/nowhere' is not there"),
        ("sqlite://", sr.InvalidInputError, "names no SQLite file"),
        ("postgresql://127.0.0.1:{port}/db", sr.CatalogError, "127.0.0.1.*refused"),
    ],
)
@pytest.mark.parametrize("before", ["nothing", "an empty directory"])
def test_a_catalog_that_cannot_be_used_leaves_no_store_behind(
    tmp_path: Path,
    closed_port: int,
    before: str,
    url: str,
    error: type[sr.ShareRegistryError],
    message: str,
) -> None:
    place = tmp_path / "st"
    if before == "an empty directory":
        place.mkdir()
    with pytest.raises(error, match=message) as raised:
        sr.Registry.open(url.format(port=closed_port), store=place)
    assert raised.value.hint
    assert list(tmp_path.rglob("*")) == ([place] if before == "an empty directory" else [])


def test_a_new_store_beside_the_catalog_of_another_leaves_nothing(
    tmp_path: Path, catalog_url: str
) -> None:
    with sr.Registry.open(catalog_url, store=tmp_path / "first"):
        pass
    with pytest.raises(sr.CatalogError, match="expected none yet: the store is new"):
        sr.Registry.open(catalog_url, store=tmp_path / "second")
    assert not (tmp_path / "second").exists()


def test_a_file_that_is_no_database_leaves_no_store_behind(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no database, but a text that is longer than a header" * 9)
    with pytest.raises(sr.CatalogError, match="not a database"):
        sr.Registry.open(f"sqlite:///{tmp_path}/notes.txt", store=tmp_path / "st")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_an_empty_file_may_become_the_catalog_of_a_new_store(tmp_path: Path) -> None:
    (tmp_path / "catalog.db").touch()
    with sr.Registry.open(f"sqlite:///{tmp_path}/catalog.db", store=tmp_path / "st") as registry:
        assert registry.spaces() == []


def test_a_store_that_lost_its_format_says_so_before_its_catalog_does(
    adapter: Path, tmp_path: Path
) -> None:
    url, root = f"sqlite:///{tmp_path / 'catalog.sqlite'}", tmp_path / "store"
    with sr.Registry.open(url, store=root) as registry:
        registry.commit(adapter)
    (root / "FORMAT").rename(tmp_path / "FORMAT")
    for mode in ("r", "w", "c"):
        with pytest.raises(sr.IntegrityError, match="no FORMAT file"):
            sr.Registry.open(url, store=root, mode=mode)


def test_a_store_that_is_not_there_is_not_found_whatever_its_catalog_is(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'missing' / 'catalog.sqlite'}"
    for mode in ("r", "w"):
        with pytest.raises(sr.NotFoundError, match="no registry at"):
            sr.Registry.open(url, store=tmp_path / "store", mode=mode)


def test_closing_a_space_leaves_its_registry_open(adapter: Path, tmp_path: Path) -> None:
    with sr.Registry.open(tmp_path / "registry") as registry:
        registry.commit(adapter)
        with registry.space(SPACE) as space:
            assert [task.name for task in space.tasks()] == ["cola"]
        assert [task.name for task in registry.tasks()] == ["cola"]


def test_an_empty_name_of_a_space_is_no_default(adapter: Path, tmp_path: Path) -> None:
    with sr.Registry.open(tmp_path / "registry") as registry:
        registry.commit(adapter)
        for verb in (registry.tasks, registry.log):
            with pytest.raises(sr.InvalidInputError, match="space name ''"):
                verb(space="")
        with pytest.raises(sr.InvalidInputError, match="space name ''"):
            registry.commit(adapter, task="other", space="")


def test_a_version_is_compared_with_the_tasks_of_its_own_space(tmp_path: Path) -> None:
    with sr.Registry.open(tmp_path / "registry", space="one") as registry:
        for name in ("one", "two"):
            space = registry.create_space(name, base_model=name)
            for seed, task in enumerate(("cola", "sst2")):
                adapter = write_adapter(tmp_path / name / task, seed=seed)
                space.commit(adapter, task=task, allow_base_mismatch=True)
        assert [near.ref for near in registry.similar("two/cola").neighbours] == ["two/sst2@v1"]


def test_every_verb_works_on_a_catalog_in_memory(tmp_path: Path) -> None:
    # it has one connection: a transaction inside another would fail
    folders = [write_adapter(tmp_path / f"task{seed}", seed=seed) for seed in range(3)]
    with sr.Registry.open("memory://") as registry:
        assert registry.location == "memory://"
        registry.commit_many({f"many{seed}": folder for seed, folder in enumerate(folders)})
        for folder in folders:
            registry.commit(folder, allow_duplicate=True)
        registry.merge({"task0": 0.5, "task1": 0.5}, task="both")
        registry.merge({"task0": 1.0}, task="again", dry_run=True)
        registry.refit(max_rank=2, force=True)
        registry.refit(max_rank=2, force=True)
        registry.refit(max_rank=2, allow_loss=True)
        registry.set_alias("task0@v1", "prod")
        registry.annotate("task0", labels={"a": "b"})
        registry.tag("here", "@latest")
        registry.drop("both")
        registry.restore("both@v1")
        assert registry.show("task0").reports
        assert registry.diff("task0@v1", "task1").tasks
        assert registry.retention().rows
        assert registry.similar("task0").neighbours
        assert registry.analyze().verdict
        assert registry.basis().modules
        assert registry.lineage("both").nodes
        assert registry.export("task0", tmp_path / "out").path.is_dir()
        assert registry.verify(level="deep").ok
        assert registry.rebuild() == registry.log()[0].number


def test_verify_does_not_take_a_store_that_is_gone_for_an_empty_one(tmp_path: Path) -> None:
    place = tmp_path / "registry"
    with sr.Registry.open(place, mode="c") as registry:
        registry.create_space("tiny", base_model="acme/tiny")
    with sr.Registry.open(place, mode="r") as registry:
        place.rename(tmp_path / "elsewhere")
        with pytest.raises(sr.StoreError, match="not there any more"):
            registry.verify("quick")
        with sr.Registry.open(place, mode="c"), pytest.raises(sr.StoreError, match="another"):
            registry.verify("quick")
        shutil.rmtree(place)
        (tmp_path / "elsewhere").rename(place)
        assert registry.verify("quick").ok
