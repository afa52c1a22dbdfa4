"""Registries whose store is in a bucket, opened by its address, in Python and on the command line."""

import hashlib
import json
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

import share_registry as sr
from share_registry.cli.main import main
from share_registry.errors import IntegrityError
from share_registry.format.canonical import sha256
from share_registry.outside.files import Outside
from share_registry.store.bucket import Bucket
from tests.cli.tiny import SPACE, write_adapter
from tests.store.faulty_proxy import Proxy
from tests.store.object_servers import BUCKET, variables


@pytest.fixture
def place(proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of an empty place in a bucket, for this process and those it starts."""
    for name, value in variables(proxy.url).items():
        monkeypatch.setenv(name, value)
    on_another_machine(monkeypatch, tmp_path / "cache")
    return f"s3://{BUCKET}/{uuid.uuid4().hex}"


def on_another_machine(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setenv("SHARE_REGISTRY_CACHE", str(folder))


def exported(registry: sr.Registry, folder: Path) -> str:
    """Return a digest of an export's tensors and config."""
    export = registry.export("t0@v2", folder)
    files = ("adapter_model.safetensors", "adapter_config.json")
    return hashlib.sha256(b"".join((export.path / name).read_bytes() for name in files)).hexdigest()


def fill(registry: sr.Registry, top: Path) -> None:
    for number, (task, near) in enumerate((("t0", None), ("t1", None), ("t0", 0))):
        registry.commit(
            write_adapter(top / f"a{number}", seed=number, near=near),
            task=task,
            idempotency_key=f"key-{number}",
        )
    registry.set_alias("t0@v1", "prod")


def test_it_does_what_one_in_a_directory_does(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "local").mkdir()
    with sr.Registry.open(tmp_path / "registry") as local:
        fill(local, tmp_path / "local")
        expected = exported(local, tmp_path / "local" / "served")
    with sr.Registry.open(place) as registry:
        assert registry.location == place
        fill(registry, tmp_path)
        assert exported(registry, tmp_path / "served") == expected
        assert registry.verify(level="deep").ok
        assert [commit.number for commit in registry.log(SPACE)] == [5, 4, 3, 2, 1]
        assert registry.gc(dry_run=True).garbage == ()
        assert registry.rebuild() == 5
    on_another_machine(monkeypatch, tmp_path / "elsewhere")
    with sr.Registry.open(place, mode="r") as reader:
        assert reader.resolve("t0@prod").version == 1
        assert exported(reader, tmp_path / "read") == expected


def test_readers_and_writers_elsewhere_see_each_commit_at_once(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with sr.Registry.open(place) as first:
        first.commit(write_adapter(tmp_path / "a", seed=0), task="t0")
        on_another_machine(monkeypatch, tmp_path / "elsewhere")
        with (
            sr.Registry.open(place, mode="w") as second,
            sr.Registry.open(place, mode="r") as reader,
        ):
            for number in range(1, 4):
                writer = (first, second)[number % 2]
                writer.commit(write_adapter(tmp_path / f"b{number}", seed=number), task="t0")
                for registry in (first, second, reader):
                    assert registry.resolve("t0").version == number + 1


def test_a_checkout_takes_six_requests_and_a_second_one_fewer(
    place: str, proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with sr.Registry.open(place) as registry:
        for number in range(3):
            registry.commit(write_adapter(tmp_path / f"a{number}", seed=number), task=f"t{number}")
    monkeypatch.setenv("SHARE_REGISTRY_CACHE_BYTES", "0")
    proxy.requests.clear()
    with sr.Registry.open(place, mode="r") as reader:
        assert kinds(proxy) == ["FORMAT"]
        reader.checkout("t1")
        # whether the log goes on; the version's record; its note, adapter, layout and config
        assert kinds(proxy) == ["ends", *["object"] * 4, "record"]
        reader.checkout("t1")
        assert kinds(proxy) == ["ends", *["object"] * 2]


def kinds(proxy: Proxy) -> list[str]:
    """Return what was asked for since the last call, sorted."""
    paths = [path for _, path in proxy.requests]
    proxy.requests.clear()
    parts = {"FORMAT": "FORMAT", "ends": "sqlite.ends", "object": "/objects/", "record": "/log/"}
    return sorted(next(kind for kind, part in parts.items() if part in path) for path in paths)


def test_copies_of_objects_serve_every_later_reader_of_this_machine(
    place: str, proxy: Proxy, tmp_path: Path
) -> None:
    with sr.Registry.open(place) as registry:
        registry.commit(write_adapter(tmp_path / "a", seed=0), task="t0")
    with sr.Registry.open(place, mode="r") as reader:
        reader.checkout("t0")
    proxy.requests.clear()
    with sr.Registry.open(place, mode="r") as reader:
        reader.checkout("t0")
    assert kinds(proxy) == ["FORMAT", "ends", "record"]


def test_verify_reads_the_bucket_and_not_the_copies(place: str, tmp_path: Path) -> None:
    with sr.Registry.open(place) as registry:
        registry.commit(write_adapter(tmp_path / "a", seed=0), task="t0")
        registry.checkout("t0")
        name = next(name for name, _ in Bucket.at(place).keys("objects"))
        Bucket.at(place).replace(name, b"rotten")
        with pytest.raises(IntegrityError, match="OBJ-01"):
            registry.verify()


def test_the_catalog_of_a_bucket_lies_in_the_users_cache_and_may_be_lost(
    place: str, tmp_path: Path
) -> None:
    with sr.Registry.open(place) as registry:
        registry.commit(write_adapter(tmp_path / "a", seed=0), task="t0")
    catalogs = list((tmp_path / "cache" / "catalogs").glob("*/catalog.sqlite"))
    assert len(catalogs) == 1
    catalogs[0].write_bytes(b"no database")
    with sr.Registry.open(place, mode="r") as reader:
        assert reader.resolve("t0").version == 1
    catalogs[0].unlink()
    with sr.Registry.open(place, mode="r") as reader:
        assert reader.resolve("t0").version == 1


def test_a_user_who_can_keep_nothing_reads_the_bucket(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with sr.Registry.open(place) as registry:
        registry.commit(write_adapter(tmp_path / "a", seed=0), task="t0")
    (tmp_path / "file").write_text("")
    on_another_machine(monkeypatch, tmp_path / "file")
    with sr.Registry.open(place, mode="w") as registry:
        assert registry.resolve("t0").version == 1
        registry.commit(write_adapter(tmp_path / "b", seed=1), task="t0")
        assert registry.resolve("t0").version == 2


def test_a_new_store_under_an_old_address_has_a_catalog_of_its_own(
    place: str, tmp_path: Path
) -> None:
    with sr.Registry.open(place) as registry:
        registry.commit(write_adapter(tmp_path / "a", seed=0), task="t0")
    bucket = Bucket.at(place)
    for name, _ in [*bucket.keys("")]:
        bucket.remove(name)
    with sr.Registry.open(place) as registry:
        assert registry.spaces() == []


def test_a_catalog_elsewhere_may_have_its_store_in_a_bucket(place: str, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/catalog.sqlite"
    with sr.Registry.open(url, store=place) as registry:
        registry.commit(write_adapter(tmp_path / "a", seed=0), task="t0")
    assert not (tmp_path / "cache" / "catalogs").exists()
    with sr.Registry.open(url, store=place, mode="r") as reader:
        assert reader.resolve("t0").version == 1


def test_a_directory_is_repaired_from_a_bucket(place: str, tmp_path: Path) -> None:
    with sr.Registry.open(tmp_path / "registry") as registry:
        registry.commit(write_adapter(tmp_path / "a", seed=0), task="t0")
        bucket = Bucket.at(place)
        for path in (tmp_path / "registry").rglob("*"):
            name = path.relative_to(tmp_path / "registry").as_posix()
            if path.is_file() and not name.startswith("catalog"):
                bucket.create(name, path.read_bytes())
        lost = next(
            path for path in (tmp_path / "registry" / "objects").rglob("*") if path.is_file()
        )
        lost.unlink()
        report = registry.repair(place)
        assert [file.name for file in report.files] == [f"object {lost.parent.name}{lost.name}"]
        assert registry.verify(level="deep").ok


def test_a_bucket_is_repaired_from_a_directory(place: str, tmp_path: Path) -> None:
    with sr.Registry.open(place) as registry:
        registry.commit(write_adapter(tmp_path / "a", seed=0), task="t0")
        bucket, copy = Bucket.at(place), tmp_path / "copy"
        for name, _ in [*bucket.keys("")]:
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / name).write_bytes(bucket.read(name, 1 << 20) or b"")
        name = next(name for name, _ in bucket.keys("objects"))
        bucket.replace(name, b"rotten")
        with pytest.raises(sr.InvalidInputError, match="no copy of itself"):
            registry.repair(f"{place}/")
        registry.repair(copy)
        assert registry.verify(level="deep").ok
        assert any(True for _ in bucket.keys("quarantine"))
    with sr.Registry.open(copy, mode="r") as copied:
        assert copied.verify(level="deep").ok, "a copy in a directory is a store, marks and all"


def test_records_that_a_tool_copied_behind_the_marks_are_there_after_a_rebuild(
    place: str, tmp_path: Path
) -> None:
    """Marks of the bucket's own records say that nothing follows them (spec STO-17)."""
    folder = tmp_path / "copy"
    with sr.Registry.open(place) as registry:
        registry.commit(write_adapter(tmp_path / "a", seed=0), task="t0")
    sr.clone(place, folder)
    with sr.Registry.open(folder) as registry:
        registry.commit(write_adapter(tmp_path / "b", seed=1), task="t0")
    bucket = Bucket.at(place)
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name.startswith(("objects/", "spaces/")):
            bucket.replace(name, path.read_bytes())
    with sr.Registry.open(place) as registry:
        registry.rebuild()
    with sr.Registry.open(place, mode="r") as reader:
        assert reader.resolve("t0@latest").version == 2
        assert reader.verify(level="deep").ok
    with sr.Registry.open(place) as registry:
        commit = registry.commit(write_adapter(tmp_path / "c", seed=2), task="t0")
        assert commit.version == 3


def test_garbage_is_removed_by_the_age_that_the_service_gives(place: str, tmp_path: Path) -> None:
    with sr.Registry.open(place) as registry:
        registry.commit(write_adapter(tmp_path / "a", seed=0), task="t0")
        content = b"garbage"
        registry.context.store.put(content, sha256(content))
        assert registry.gc(dry_run=False).garbage == ()
        removed = registry.gc(grace_days=0, dry_run=False).garbage
        assert [entry.digest for entry in removed] == [sha256(content)]
        assert registry.verify(level="deep").ok


def test_the_command_line_takes_addresses(
    place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHARE_REGISTRY_URI", place)
    assert main(["ls"]) == 3
    assert "share-registry -R" in capsys.readouterr().err
    assert main(["init"]) == 0
    assert place in capsys.readouterr().out
    assert main(["-q", "commit", str(write_adapter(tmp_path / "t0", seed=0))]) == 0
    assert main(["--json", "verify", "--level", "deep"]) == 0
    capsys.readouterr()
    assert main(["--json", "ls"]) == 0
    assert [task["name"] for task in json.loads(capsys.readouterr().out)] == ["t0"]
    assert main(["doctor"]) == 0
    assert place in capsys.readouterr().out


def test_without_the_library_it_says_what_to_install(place: str) -> None:
    program = (
        "import sys\n"
        "sys.modules['obstore'] = None\n"
        "import share_registry as sr\n"
        "try:\n"
        f"    sr.Registry.open({place!r})\n"
        "except sr.ShareRegistryError as error:\n"
        "    print(error.hint)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == "pip install 'share-registry[s3]'\n"


def test_outside_of_a_home_nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    from share_registry.store.object_cache import ObjectCache, index_folder

    for name in ("HOME", "USERPROFILE", "XDG_CACHE_HOME", "SHARE_REGISTRY_CACHE"):
        monkeypatch.delenv(name, raising=False)
    assert index_folder("s3://bucket", Outside()) is None
    ObjectCache.of_user(Outside()).put(sha256(b"x"), b"x")
    assert ObjectCache.of_user(Outside()).get(sha256(b"x"), 1) is None


def test_a_registry_is_copied_into_a_bucket_and_back(place: str, tmp_path: Path) -> None:
    def files(root: Path) -> dict[str, bytes]:
        paths = [*root.glob("objects/*/*"), *root.glob("spaces/*/log/*"), root / "FORMAT"]
        return {path.relative_to(root).as_posix(): path.read_bytes() for path in paths}

    with sr.Registry.open(tmp_path / "registry") as local:
        fill(local, tmp_path)
        assert sr.clone(tmp_path / "registry", place).records == 5
        assert local.push(place).records == 0
        local.set_alias("t0@v2", "prod")
        report = local.push(place)
        assert (report.ok, report.records, report.objects) == (True, 1, 0)
    assert sr.clone(place, tmp_path / "copy").ok
    assert files(tmp_path / "copy") == files(tmp_path / "registry")
    with sr.Registry.open(place, mode="r") as reader:
        assert reader.resolve("t0@prod").version == 2
        assert reader.verify("deep").ok
