"""The shards of a verification find together what the whole finds, each thing once."""

import json
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pytest
import torch
from typing_extensions import override

import share_registry as sr
from share_registry.format import adapter_object
from share_registry.format.canonical import dump, load, sha256
from share_registry.format.notes import Note
from share_registry.names import Digest
from share_registry.outside.files import Outside
from share_registry.registry.opening import open_context
from share_registry.store.blobs import MemoryStore
from share_registry.store.protocol import Store, object_name, record_name
from share_registry.values.checks import VerifyReport
from share_registry.values.shards import MAX_SHARDS, Shard
from tests.registry.planted import write, write_planted

SPACE: Final = "tiny"
COUNTS: Final = ("spaces", "records", "objects", "bytes", "versions")
# A head of 64 KiB or more is an object of its own
HEAD: Final = (160, 128)

NO_SHARDS: Final = (
    *("0/8", "9/8", "3/0", "x", "3", " 3/8", "3/8 ", "3/8\n", "03/8", "3/08", "-1/8", "1/10001"),
    *("", "/", "3/", "/8", "1/2/3", "３/８", "3.0/8", "1/" + "9" * 5_000, 3, (3, 8), b"3/8", 0.5),
)

# The files of a store by their names
Files = dict[str, bytes]


def write_with_head(directory: Path, seed: int, head: torch.Tensor) -> Path:
    """Write an adapter with a module that is kept whole."""
    generator = torch.Generator().manual_seed(seed)
    key = "base_model.model.layers.9.proj"
    tensors = {
        f"{key}.lora_A.weight": torch.randn(4, 64, generator=generator),
        f"{key}.lora_B.weight": torch.randn(64, 4, generator=generator),
        "base_model.model.score.weight": head,
    }
    write(directory, tensors, 4)
    path = directory / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"modules_to_save": ["score"]}))
    return directory


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a registry of two spaces: a basis, chains of versions, shared heads, alike notes."""
    folder = tmp_path_factory.mktemp("shards")
    planted = write_planted(folder / "planted", 4, modules=1, width=96)
    torch.manual_seed(1)
    heads = torch.randn(2, *HEAD)
    with sr.Registry.open(folder / "registry") as registry:
        space = registry.create_space(SPACE, base_model="acme/tiny")
        for task, place in planted.items():
            space.commit(place, task=task)
        space.refit(max_rank=6, allow_loss=True)
        for number, head in enumerate((heads[0], heads[0], heads[1])):
            place = write_with_head(folder / f"h{number}", number, head)
            space.commit(place, task=f"h{number}", allow_base_mismatch=True)
        for version in (1, 2):
            space.set_alias(f"t00@v{version}", "prod", author="ada")
        registry.create_space("other", base_model="acme/tiny")
        registry.commit(planted["t01"], task="alone", space="other")
        # a version that is coded against the one before
        near = {
            key: tensor * (1 + 1e-3 * torch.randn(tensor.shape))
            for key, tensor in space.checkout("t03@v2").tensors.items()
        }
        space.commit(write(folder / "near", near, 4), task="t03")
        space.commit(write_with_head(folder / "h3", 3, heads[1]), task="h3")
    return folder / "registry"


@pytest.fixture(scope="module")
def files(sound: Path) -> Files:
    """Return the files of the sound registry's store."""
    return {
        path.relative_to(sound).as_posix(): path.read_bytes()
        for path in sorted(sound.rglob("*"))
        if path.is_file() and not path.name.startswith("catalog.sqlite")
    }


class Sound:
    """Where things are in the sound store."""

    def __init__(self, files: Files) -> None:
        self.files = files
        self.logs: dict[str, list[Any]] = {
            space: [
                load(files[name], subject="record")
                for name in sorted(files)
                if name.startswith(f"spaces/{space}/log/")
            ]
            for space in (SPACE, "other")
        }

    def task(self, ref: str) -> Mapping[str, Any]:
        """Return what the log says of a version."""
        name, version = ref.split("@v")
        (task,) = (
            task
            for record in self.logs[SPACE]
            for task in record.get("tasks", ())
            if (task["task"], task["version"]) == (name, int(version))
        )
        return dict(task)

    def adapter(self, ref: str) -> str:
        return object_name(Digest(self.task(ref)["adapter"]))

    def header(self, ref: str) -> adapter_object.Header:
        return adapter_object.header(self.files[self.adapter(ref)])

    def head(self, ref: str) -> str:
        return object_name(self.header(ref).external[0].object)

    def basis(self) -> str:
        (digest,) = {record["basis"] for record in self.logs[SPACE] if "basis" in record}
        return object_name(Digest(str(digest)))

    def number(self, ref: str) -> int:
        """Return the number of the commit of a version."""
        return next(
            number
            for number, record in enumerate(self.logs[SPACE], start=1)
            if self.task(ref) in record.get("tasks", ())
        )

    def record(self, number: int, space: str = SPACE) -> str:
        return record_name(space, number)  # type: ignore[arg-type]

    def last(self) -> str:
        return self.record(len(self.logs[SPACE]))

    def note(self, number: int) -> str:
        return object_name(Digest(str(self.logs[SPACE][number - 1]["note"])))

    def config(self, number: int) -> str:
        config = Note.from_bytes(self.files[self.note(number)]).tasks[0].config
        return object_name(Digest(str(config)))


def without(*names: str) -> Callable[[Files], None]:
    def damage(files: Files) -> None:
        for name in names:
            del files[name]

    return damage


def rotten(*names: str) -> Callable[[Files], None]:
    def damage(files: Files) -> None:
        for name in names:
            content = bytearray(files[name])
            content[len(content) // 2] ^= 1
            files[name] = bytes(content)

    return damage


def last_task(sound: Sound, **members: object) -> Callable[[Files], None]:
    """Return what changes the record that no other follows: its chain stays whole."""

    def damage(files: Files) -> None:
        record: Any = load(files[sound.last()], subject="record")
        record["tasks"][0] |= members
        files[sound.last()] = dump(record)

    return damage


def impossible(sound: Sound) -> Callable[[Files], None]:
    """Return what goes on with a record that cannot follow those before it."""

    def damage(files: Files) -> None:
        record: Any = load(files[sound.last()], subject="record")
        number = len(sound.logs[SPACE]) + 1
        follows = {"number": number, "parent": sha256(files[sound.last()])}
        files[sound.record(number)] = dump(record | follows)

    return damage


def adapters(sound: Sound) -> list[str]:
    return [
        object_name(Digest(task["adapter"]))
        for log in sound.logs.values()
        for record in log
        for task in record.get("tasks", ())
    ]


def objects(files: Files) -> list[str]:
    return [name for name in files if name.startswith("objects/")]


def leave_rubbish(files: Files) -> None:
    files["objects/leftover"] = files["rubbish"] = b"no part of a store"
    files[object_name(sha256(b"unreferenced"))] = b"unreferenced"


def both(*damages: Callable[[Files], None]) -> Callable[[Files], None]:
    def damage(files: Files) -> None:
        for each in damages:
            each(files)

    return damage


# By name: what does the damage, and clauses that must be told of at level deep
DAMAGES: Final[Mapping[str, tuple[Callable[[Sound], Callable[[Files], None]], set[str]]]] = {
    "none": (lambda _: without(), set()),
    "a lost adapter": (lambda at: without(at.adapter("t03@v2")), {"OBJ-02", "DEC-12"}),
    "a rotten adapter": (lambda at: rotten(at.adapter("t01@v1")), {"OBJ-01", "DEC-12"}),
    "a lost basis": (lambda at: without(at.basis()), {"OBJ-02", "DEC-12"}),
    "a rotten basis": (lambda at: rotten(at.basis()), {"OBJ-01", "DEC-12"}),
    "a lost layout": (
        lambda at: without(object_name(at.task("h0@v1")["layout"])),
        {"OBJ-02", "OBJ-03", "DEC-12"},
    ),
    "a lost shared head": (lambda at: without(at.head("h0@v1")), {"OBJ-02", "DEC-12"}),
    "rotten heads": (
        lambda at: rotten(at.head("h0@v1"), at.head("h2@v1")),
        {"OBJ-01", "DEC-12"},
    ),
    "a rotten adapter with a lost head": (
        lambda at: both(without(at.head("h2@v1")), rotten(at.adapter("h2@v1"))),
        {"OBJ-01", "OBJ-02", "DEC-12"},
    ),
    "a removed note": (lambda at: without(at.note(at.number("t01@v1"))), {"NOT-06"}),
    "a removed note of many records": (
        lambda at: without(at.note(len(at.logs[SPACE]) - 2)),
        {"NOT-06"},
    ),
    "a rotten note": (lambda at: rotten(at.note(at.number("t01@v1"))), {"OBJ-01"}),
    "a removed config": (lambda at: without(at.config(at.number("t01@v1"))), {"NOT-06"}),
    "a damaged record": (lambda at: rotten(at.record(at.number("t01@v1"))), {"REC-01"}),
    "damaged logs": (
        lambda at: rotten(at.record(3), at.record(2, "other")),
        {"REC-01"},
    ),
    "a lost record whose adapter others need": (
        lambda at: without(at.record(at.number("t03@v2"))),
        {"REC-03"},
    ),
    "that, and the adapter rotten": (
        lambda at: both(without(at.record(at.number("t03@v2"))), rotten(at.adapter("t03@v2"))),
        {"REC-03", "OBJ-01", "DEC-12"},
    ),
    "other tensors": (lambda at: last_task(at, tensors="0" * 64), {"DEC-12"}),
    "an impossible record": (impossible, {"COM-04"}),
    "rubbish": (lambda _: leave_rubbish, {"STO-02"}),
    "every adapter rotten": (lambda at: rotten(*set(adapters(at))), {"OBJ-01", "DEC-12"}),
    "every object lost": (lambda at: without(*objects(at.files)), {"OBJ-02", "NOT-06"}),
}


def write_files(root: Path, files: Files, catalog: bytes) -> None:
    for name, content in (files | {"catalog.sqlite": catalog}).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)


def store_of(files: Files) -> Store:
    identity = str(load(files["FORMAT"], subject="FORMAT")["store"])
    store = MemoryStore(identity)
    for name, content in files.items():
        store.create(name, content)
    return store


@pytest.fixture(params=["sqlite", "memory"])
def open_files(
    request: pytest.FixtureRequest, tmp_path: Path, sound: Path
) -> Iterator[Callable[[Files], sr.Registry]]:
    """Open a store of some files to be read: a directory with its catalog, or one in memory."""
    opened: list[sr.Registry] = []

    def make(files: Files) -> sr.Registry:
        if request.param == "sqlite":
            write_files(tmp_path / "registry", files, (sound / "catalog.sqlite").read_bytes())
            opened.append(sr.Registry.open(tmp_path / "registry", mode="r"))
        else:
            opened.append(sr.Registry.open(store=store_of(files), mode="r"))
        return opened[-1]

    yield make
    for registry in opened:
        registry.close()


def shards_of(registry: sr.Registry, level: str, count: int) -> list[VerifyReport]:
    return [
        registry.verify(level, shard=f"{number}/{count}", raise_on_damage=False)
        for number in range(1, count + 1)
    ]


def check_union(whole: VerifyReport, shards: list[VerifyReport]) -> None:
    """Check that shards tell of each thing once, and of nothing else."""
    assert Counter(item for shard in shards for item in shard.findings) == Counter(whole.findings)
    assert max(Counter(whole.findings).values(), default=1) == 1
    assert sorted(ref for shard in shards for ref in shard.unexportable) == sorted(
        whole.unexportable
    )
    for name in COUNTS:
        assert sum(getattr(shard, name) for shard in shards) == getattr(whole, name), name
    assert all(shard.ok for shard in shards) == whole.ok


@pytest.mark.parametrize("damage", DAMAGES)
def test_shards_find_each_thing_once(
    damage: str,
    files: Files,
    open_files: Callable[[Files], sr.Registry],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.CRITICAL)
    do_damage, clauses = DAMAGES[damage]
    damaged = dict(files)
    do_damage(Sound(files))(damaged)
    registry = open_files(damaged)
    for level in ("quick", "data"):
        check_union(registry.verify(level, raise_on_damage=False), shards_of(registry, level, 3))
    whole = registry.verify("deep", raise_on_damage=False)
    for count in (1, 2, 3, 8):
        check_union(whole, shards_of(registry, "deep", count))
    codes = {finding.code for finding in whole.findings}
    assert clauses <= codes
    assert bool(clauses) == bool(codes)


def test_the_sound_registry_has_what_is_hard_to_cut(files: Files) -> None:
    at = Sound(files)
    assert at.header("t03@v3").previous == at.task("t03@v2")["adapter"]
    assert {at.head("h0@v1")} == {at.head("h1@v1")} != {at.head("h2@v1")}
    assert at.note(len(at.logs[SPACE]) - 2) == at.note(len(at.logs[SPACE]) - 3)


@pytest.mark.parametrize("level", ["data", "deep"])
def test_an_object_names_every_version_that_builds_on_it(
    level: str, files: Files, open_files: Callable[[Files], sr.Registry]
) -> None:
    at, damaged = Sound(files), dict(files)
    rotten(at.adapter("t03@v2"))(damaged)
    registry = open_files(damaged)
    (finding,) = (
        item
        for shard in shards_of(registry, level, 8)
        for item in shard.findings
        if item.code == "OBJ-01"
    )
    assert {"tiny/t03@v2", "tiny/t03@v3"} <= set(finding.refs)


def test_a_sound_shard_reads_no_adapter_of_another(files: Files) -> None:
    reads: Counter[str] = Counter()

    class Counting(MemoryStore):
        """Counts how often an object is read."""

        def get(self, digest: Digest, *, limit: int = 1 << 40) -> bytes:
            reads[digest] += 1
            return super().get(digest, limit=limit)

    # of one space without heads: nothing that adapters alone name
    kept = {name: content for name, content in files.items() if f"/{SPACE}/" not in name}
    store = Counting(str(load(files["FORMAT"], subject="FORMAT")["store"]))
    for name, content in kept.items():
        store.create(name, content)
    (record,) = Sound(files).logs["other"][1:]
    adapter = record["tasks"][0]["adapter"]
    with sr.Registry.open(store=store, mode="r") as registry:
        reads.clear()
        shards_of(registry, "data", 8)
    assert reads[adapter] == 1


@pytest.mark.parametrize("count", [2, 3, 5, 8])
def test_a_commit_between_two_shards_takes_no_object_from_either(count: int, files: Files) -> None:
    # its last commit is of the head of an earlier one
    at, after = Sound(files), dict(files)
    assert at.head("h3@v1") == at.head("h2@v1")
    rotten(at.head("h2@v1"))(after)
    before = dict(after)
    without(at.last())(before)
    with (
        sr.Registry.open(store=store_of(before), mode="r") as early,
        sr.Registry.open(store=store_of(after), mode="r") as late,
    ):
        earlier, later = shards_of(early, "data", count), shards_of(late, "data", count)
    for split in range(count + 1):
        for shards in (earlier[:split] + later[split:], later[:split] + earlier[split:]):
            codes = [item.code for shard in shards for item in shard.findings]
            assert codes == ["OBJ-01"]


@pytest.mark.parametrize("count", [2, 3, 8, MAX_SHARDS])
def test_every_digest_and_every_space_is_of_one_shard(count: int) -> None:
    shards = [Shard(number=number, count=count) for number in range(1, count + 1)]
    digests = [sha256(str(number).encode()) for number in range(20)]
    assert [sum(shard.has(digest) for shard in shards) for digest in digests] == [1] * 20
    assert sum(shard.has_space(SPACE) for shard in shards) == 1  # type: ignore[arg-type]


def test_shards_are_about_equal() -> None:
    digests = [sha256(str(number).encode()) for number in range(8_000)]
    sizes = [sum(map(Shard(number=number, count=8).has, digests)) for number in range(1, 9)]
    # five standard deviations of 1,000
    assert max(sizes) - min(sizes) < 2 * 5 * 1_000**0.5


@pytest.mark.parametrize("shard", NO_SHARDS)
def test_what_names_no_shard_is_refused(shard: Any, files: Files) -> None:
    with (
        sr.Registry.open(store=store_of(files), mode="r") as registry,
        pytest.raises(sr.InvalidInputError, match=r"^shard is .*, expected a shard K/N") as caught,
    ):
        registry.verify("quick", shard=shard)
    assert repr(shard)[:60] in caught.value.message
    assert "3/8" in str(caught.value.hint)


@pytest.mark.parametrize("shard", ["1/1", "8/8", f"{MAX_SHARDS}/{MAX_SHARDS}"])
def test_a_report_says_which_shard_it_is(shard: str, files: Files) -> None:
    with sr.Registry.open(store=store_of(files), mode="r") as registry:
        assert registry.verify("quick").shard is None
        report = registry.verify("quick", shard=shard)
    assert report.shard == shard
    assert str(report).startswith(f"quick, shard {shard}: ")


@pytest.mark.parametrize(
    ("subset", "count"),
    {"100%": 1, "60%": 1, "50%": 2, "30%": 3, "12.5%": 8, "5%": 20, "0.01%": MAX_SHARDS}.items(),
)
def test_a_subset_is_no_less_than_it_says_and_its_turns_take_every_shard(
    subset: str, count: int
) -> None:
    for first in (0, 7, 20_421):
        shards = [Shard.of_turn(subset, turn) for turn in range(first, first + count)]
        assert {shard.count for shard in shards} == {count}
        assert {shard.number for shard in shards} == {*range(1, count + 1)}
    assert 100 / count >= float(subset.removesuffix("%"))


class OnDay(Outside):
    """A computer on a certain day."""

    day = 0

    @override
    def now(self) -> datetime:
        return datetime.fromtimestamp(0, UTC) + timedelta(days=self.day, hours=23)


def test_so_many_days_check_what_the_whole_does(files: Files, caplog: Any) -> None:
    caplog.set_level(logging.CRITICAL)
    damaged = dict(files)
    rotten(Sound(files).adapter("t03@v2"))(damaged)
    store, outside = store_of(damaged), OnDay()
    with sr.Registry(
        *open_context(None, store=store, space=None, mode="r", outside=outside)
    ) as registry:
        whole = registry.verify("data", raise_on_damage=False)
        days = []
        for outside.day in range(20_421, 20_426):
            days.append(registry.verify("data", subset="20%", raise_on_damage=False))
            again = registry.verify("data", subset="20%", turn=outside.day, raise_on_damage=False)
            assert again == days[-1]
    assert sorted(str(day.shard) for day in days) == [f"{number}/5" for number in range(1, 6)]
    check_union(whole, days)


@pytest.mark.parametrize(
    "subset",
    ["5", "0%", "101%", "0.001%", "-5%", "5 %", "%", "5%%", "1e1%", "٥%", 5, 0.05, b"5%"],
)
def test_what_is_no_percentage_is_refused(subset: Any, files: Files) -> None:
    with (
        sr.Registry.open(store=store_of(files), mode="r") as registry,
        pytest.raises(sr.InvalidInputError, match=r"^subset is .*, expected a percentage"),
    ):
        registry.verify("quick", subset=subset)


def test_a_subset_is_not_also_a_shard_and_a_turn_is_of_a_subset(files: Files) -> None:
    with sr.Registry.open(store=store_of(files), mode="r") as registry:
        with pytest.raises(sr.InvalidInputError, match="shard 1/2 is given beside subset 5%"):
            registry.verify("quick", subset="5%", shard="1/2")
        with pytest.raises(sr.InvalidInputError, match="turn 3 is given without a subset"):
            registry.verify("quick", turn=3)
