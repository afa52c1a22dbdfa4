"""Import many adapters: the same for any number of workers, once each, whatever happens."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import share_registry as sr
from share_registry.errors import ShareRegistryError
from share_registry.registry.arguments import CommitOptions
from share_registry.registry.commands import import_many as importing, import_refits, import_work
from share_registry.registry.commands.import_request import ImportRequest
from share_registry.registry.commands.import_work import prepare_one
from share_registry.registry.commands.prepare import publish_prepared
from share_registry.registry.context import Context
from share_registry.values.imports import ImportSource, ImportStatus
from tests.registry.conftest import Open
from tests.registry.imported import adapters_of, statuses
from tests.registry.planted import write_planted

COUNT = 10
TENSORS = "adapter_model.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A directory of adapters of one base model, t00 to t09."""
    write_planted(tmp_path / "adapters", COUNT, modules=2, width=64)
    return tmp_path / "adapters"


def _spoil(folder: Path) -> None:
    """Put a NaN into t03, cut t07 off."""
    tensors = load_file(folder / "t03" / TENSORS)
    next(iter(tensors.values()))[0, 0] = torch.nan
    save_file(tensors, folder / "t03" / TENSORS)
    content = (folder / "t07" / TENSORS).read_bytes()
    (folder / "t07" / TENSORS).write_bytes(content[:-100])


def test_the_result_is_the_same_for_any_number_of_workers(tmp_path: Path, folder: Path) -> None:
    contents = []
    for workers in (1, 2):
        with sr.Registry.open(tmp_path / f"registry-{workers}") as registry:
            report = registry.import_many(folder, workers=workers)
            assert (report.committed, report.refused, report.workers) == (COUNT, 0, workers)
            assert registry.verify("deep").ok
            contents.append(adapters_of(registry))
    assert contents[0] == contents[1]
    assert sorted(contents[0]) == [f"tiny/t{number:02d}@v1" for number in range(COUNT)]


def test_what_was_prepared_while_a_basis_was_made_is_prepared_again(tmp_path: Path) -> None:
    """The refit after a wave runs beside the next one, and what comes out is as if it did not."""
    folder = tmp_path / "adapters"
    write_planted(folder, 24, modules=4, width=256)
    contents = []
    for workers in (1, 2):
        with sr.Registry.open(tmp_path / f"registry-{workers}") as registry:
            registry.import_many(folder, workers=workers)
            contents.append(adapters_of(registry))
            basis, reader = registry.basis(), registry.context.reader()
            assert basis is not None
            sources = [reader.open(digest).stored.sources for digest in contents[-1].values()]
            assert sum(basis.digest in each for each in sources) == 8
            assert registry.log(limit=1)[0].kind == "absorb"
    assert contents[0] == contents[1]


def test_what_is_bad_is_reported_and_what_is_there_is_left(
    open_registry: Open, folder: Path
) -> None:
    registry = open_registry()
    _spoil(folder)
    report = registry.import_many([folder], workers=2, labels={"from": "s3"}, message="first")
    assert (report.committed, report.refused) == (COUNT - 2, 2)
    nan, cut = report.of(ImportStatus.REFUSED)
    assert nan.source.endswith("t03")
    assert "NaN" in nan.reason
    assert cut.source.endswith("t07")
    assert "truncated" in cut.reason
    assert report.commits == len([c for c in registry.log(limit=None) if c.kind == "absorb"])
    assert registry.show("t00").labels["from"] == "s3"
    assert registry.show("t00").message == "first"
    again = registry.import_many([folder], workers=1)
    assert (again.committed, again.unchanged, again.refused) == (0, COUNT - 2, 2)
    assert again.of(ImportStatus.UNCHANGED)[0].ref == "tiny/t00@v1"
    assert len(registry.tasks()) == COUNT - 2
    # a tighter budget is another request
    assert registry.import_many([folder], workers=1, budget=0.001).committed == COUNT - 2


def test_errors_are_what_exports_show(tmp_path: Path, folder: Path) -> None:
    with sr.Registry.open(tmp_path / "registry") as registry:
        report = registry.import_many(folder, budget=0.05, workers=1)
        for outcome in report.outcomes:
            assert outcome.error is not None
            assert 0 < outcome.error <= 0.05
            assert registry.checkout(str(outcome.ref)).error == outcome.error
        assert report.bytes_added == sum(
            each.bytes_added or 0
            for commit in registry.log(limit=None)
            for each in commit.reports.values()
        )


def test_a_trial_that_fails_keeps_nothing_from_being_imported(
    registry: sr.Registry,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def locked(*arguments: object, **options: object) -> None:
        raise sr.ConflictError("the catalog is locked.")

    monkeypatch.setattr(import_refits, "overridden", locked)
    assert registry.import_many(folder, workers=1).committed == COUNT
    assert "the catalog is locked" in caplog.text


def test_a_dry_run_takes_and_refuses_what_the_import_does(
    registry: sr.Registry, folder: Path, tmp_path: Path
) -> None:
    for name, donor in (("t01", "t00"), ("t03", "t02")):
        (folder / name / TENSORS).write_bytes((folder / donor / TENSORS).read_bytes())
    rows = [
        sr.ImportSource(adapter=folder / "t00", task="a"),
        # the same once more, then one that is made from it, and one of another width
        sr.ImportSource(adapter=folder / "t01", task="a"),
        sr.ImportSource(adapter=folder / "t02", task="b", derived_from=["a@v1"]),
        sr.ImportSource(
            adapter=write_planted(tmp_path / "narrow", 1, modules=2, width=48)["t00"], task="c"
        ),
    ]
    dry = registry.import_many(rows[:3], workers=1, dry_run=True)
    assert statuses(dry) == ["new", "unchanged", "new"]
    assert statuses(registry.import_many(rows[:3], workers=1)) == [
        "committed",
        "unchanged",
        "committed",
    ]
    for dry_run in (True, False):
        (outcome,) = registry.import_many(rows[3:], workers=1, dry_run=dry_run).outcomes
        assert "is 48 x 48, in space 'tiny' it is 64 x 64" in outcome.reason


def test_what_is_no_list_and_no_source_is_refused(registry: sr.Registry, folder: Path) -> None:
    with pytest.raises(sr.InvalidInputError, match="is no file"):
        registry.import_many(from_file=folder)
    with pytest.raises(sr.InvalidInputError, match="expected a path"):
        registry.import_many("")


def test_a_folder_whose_name_no_task_can_have_is_not_called_by_another(
    registry: sr.Registry, folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(folder / "t00", tmp_path / "top" / "team" / "训练")
    (outcome,) = registry.import_many(tmp_path / "top", workers=1).outcomes
    assert "no task name can be made of '训练'" in outcome.reason
    assert "in a list" in outcome.hint


SCRIPT = """
import sys
import share_registry as sr
with sr.Registry.open(sys.argv[1]) as registry:
    registry.import_many(sys.argv[2], workers=2)
"""


def _children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return list(map(int, text.split()))


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _wait(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="processes are listed in /proc")
def test_an_import_that_is_killed_goes_on_when_it_is_run_again(
    tmp_path: Path, folder: Path
) -> None:
    root = tmp_path / "registry"
    sr.Registry.open(root).close()
    _spoil(folder)
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(root), str(folder)])

    def tasks() -> int:
        with sr.Registry.open(root, mode="r") as registry:
            return len(registry.tasks()) if registry.spaces() else 0

    _wait(lambda: tasks() >= 4, "nothing is committed")
    workers = _children(process.pid)
    assert len(workers) == 2
    process.kill()
    process.wait()
    done = tasks()
    assert done < COUNT - 2
    _wait(lambda: not any(map(_runs, workers)), "workers stay behind")
    with sr.Registry.open(root) as registry:
        report = registry.import_many(folder, workers=2)
        assert (report.committed, report.unchanged, report.refused) == (COUNT - 2 - done, done, 2)
        assert sorted(adapters_of(registry)) == sorted(
            f"tiny/t{number:02d}@v1" for number in range(COUNT) if number not in (3, 7)
        )
        assert registry.verify("deep").ok


@pytest.fixture
def list_of(tmp_path: Path, folder: Path) -> Callable[..., Path]:
    def write(*rows: str, header: str) -> Path:
        path = tmp_path / "list.csv"
        path.write_text("\n".join([header, *rows]) + "\n")
        return path

    return write


def test_a_list_says_what_each_adapter_is(
    registry: sr.Registry, list_of: Callable[..., Path]
) -> None:
    path = list_of(
        "adapters/t00,cola,first,team=a;kind=x,2026-01-02,,0.5",
        "adapters/t01,cola,second,team=b,2026-02-03T04:05Z,,0.6",
        "adapters/t02,sst2,second,,,cola@v2,",
        "adapters/t03,cola,third,,,,0.7",
        "adapters/t99,lost,third,,,,",
        header="source,task,message,labels,source_time,derived_from,metric.f1",
    )
    report = registry.import_many(from_file=path, workers=2, metrics={"f1": 0.1})
    assert statuses(report) == ["committed"] * 4 + ["refused"]
    assert [outcome.ref for outcome in report.outcomes[:4]] == [
        "tiny/cola@v1",
        "tiny/cola@v2",
        "tiny/sst2@v1",
        "tiny/cola@v3",
    ]
    first, second = registry.show("cola@v1"), registry.show("cola@v2")
    assert (first.message, first.labels["team"], first.labels["kind"]) == ("first", "a", "x")
    assert (second.message, second.labels["team"]) == ("second", "b")
    assert (first.metrics, second.metrics) == ({"f1": 0.5}, {"f1": 0.6})
    assert first.labels["source.time"] == "2026-01-02T00:00:00.000000Z"
    assert registry.show("sst2").metrics == {"f1": 0.1}
    parents = [node.ref for node in registry.lineage("sst2").nodes]
    assert "tiny/cola@v2" in parents
    again = registry.import_many(from_file=path, workers=1)
    assert statuses(again) == ["unchanged"] * 4 + ["refused"]


def test_the_same_adapter_twice_in_a_list_is_two_versions_once(
    registry: sr.Registry, folder: Path
) -> None:
    """Committed, replaced and brought back: the list is history, and is imported once."""
    sources = [ImportSource(adapter=folder / name, task="cola") for name in ("t00", "t01", "t00")]
    assert registry.import_many(sources, workers=1).committed == 3
    assert registry.import_many(sources, workers=1).unchanged == 3
    assert registry.resolve("cola").version == 3


def test_a_dry_run_predicts_and_writes_nothing(registry: sr.Registry, folder: Path) -> None:
    _spoil(folder)
    before = sorted(path for path in Path(registry.location).rglob("*") if path.is_file())
    report = registry.import_many(folder, workers=1, dry_run=True)
    after = sorted(path for path in Path(registry.location).rglob("*") if path.is_file())
    assert after == before
    assert registry.spaces() == []
    assert (report.committed, report.refused, report.commits) == (COUNT - 2, 2, 0)
    assert report.outcomes[0].ref == "tiny/t00"
    actual = registry.import_many(folder, workers=1)
    # what adapters share with each other is not predicted
    assert actual.bytes_added <= report.bytes_added < 4 * actual.bytes_added
    assert report.raw_bytes == actual.raw_bytes
    assert "dry run: 8 of 10 adapters would be committed" in str(report)


def test_a_wave_may_be_in_any_order(registry: sr.Registry, folder: Path) -> None:
    names = [f"t{number:02d}" for number in reversed(range(COUNT))]
    report = registry.import_many([folder / name for name in names], workers=1)
    assert [outcome.ref for outcome in report.outcomes] == [f"tiny/{name}@v1" for name in names]


def test_stopping_at_the_first_refusal_commits_nothing_after_it(
    registry: sr.Registry, folder: Path
) -> None:
    _spoil(folder)
    with pytest.raises(sr.InvalidInputError, match=r"t03: .*NaN"):
        registry.import_many(folder, workers=1, on_error="stop")
    assert registry.spaces() == []


def test_adapters_of_several_base_models_go_to_several_spaces(
    registry: sr.Registry, folder: Path
) -> None:
    for number in range(0, COUNT, 2):
        path = folder / f"t{number:02d}" / "adapter_config.json"
        config = json.loads(path.read_text()) | {"base_model_name_or_path": "acme/large"}
        path.write_text(json.dumps(config))
    report = registry.import_many(folder, workers=2)
    assert report.committed == COUNT
    assert {space.name: space.tasks for space in registry.spaces()} == {
        "tiny": COUNT // 2,
        "large": COUNT // 2,
    }


def test_one_that_keeps_others_from_being_published_is_refused_alone(
    registry: sr.Registry, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another writer renames a task between its being prepared and published."""
    registry.import_many([folder / f"t{number:02d}" for number in range(4)], workers=1)

    def late(
        context: Context, prepared: list[sr.Prepared], options: object, *, refit: bool
    ) -> sr.Commit:
        monkeypatch.setattr(importing, "publish_prepared", publish_prepared)
        registry.rename("t02", "renamed")
        return publish_prepared(context, prepared, options, refit=refit)  # type: ignore[arg-type]

    for name, donor in (("t00", "t05"), ("t02", "t06")):
        (folder / name / TENSORS).write_bytes((folder / donor / TENSORS).read_bytes())
    monkeypatch.setattr(importing, "publish_prepared", late)
    report = registry.import_many([folder / "t00", folder / "t02"], workers=1)
    assert statuses(report) == ["committed", "refused"]
    assert "renamed" in report.outcomes[1].reason
    assert registry.resolve("t00").version == 2


def test_a_store_that_fails_ends_the_import(
    registry: sr.Registry, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object, **options: object) -> None:
        raise sr.StoreError("no space left on device.")

    monkeypatch.setattr(import_work, "prepare_one", full)
    with pytest.raises(sr.StoreError, match="no space left") as caught:
        registry.import_many(folder, workers=1)
    assert "again" in caught.value.hint


def test_in_the_papers_protocol_adapters_are_committed_one_by_one(
    registry: sr.Registry, folder: Path
) -> None:
    registry.create_space("tiny", base_model="acme/tiny", policy=sr.Policy(k=8))
    report = registry.import_many([folder / f"t{number:02d}" for number in range(3)], workers=2)
    assert (report.committed, report.commits) == (3, 3)
    assert registry.basis() is not None


def test_a_registry_in_memory_is_imported_into_by_this_process(folder: Path) -> None:
    with sr.Registry.open("memory://") as registry:
        report = registry.import_many(folder, workers=4)
        assert (report.committed, report.workers) == (COUNT, 1)


@pytest.mark.parametrize(
    ("sources", "error", "message"),
    [
        ([], sr.InvalidInputError, "nothing to import"),
        ("nowhere", None, "nowhere"),
        ([5], None, "is of type int"),
        (5, sr.InvalidInputError, "expected adapters"),
        ([ImportSource(adapter="x", labels=5)], sr.InvalidInputError, "labels of an ImportSource"),  # type: ignore[arg-type]
        ([ImportSource(adapter="x", task=5)], sr.InvalidInputError, "task of an ImportSource"),  # type: ignore[arg-type]
    ],
)
def test_what_is_no_source_is_said(
    registry: sr.Registry, sources: object, error: type[ShareRegistryError] | None, message: str
) -> None:
    if error is not None:
        with pytest.raises(error, match=message):
            registry.import_many(sources)  # type: ignore[arg-type]
        return
    (outcome,) = registry.import_many(sources, workers=1).outcomes  # type: ignore[arg-type]
    assert message in outcome.reason
    assert outcome.hint


@pytest.mark.parametrize("at", [None, 2])
def test_prepared_by_a_worker_is_prepared_here(
    registry: sr.Registry, folder: Path, at: int | None
) -> None:
    registry.commit(folder / "t00")
    request = ImportRequest(options=CommitOptions())
    source = ImportSource(adapter=folder / "t01")
    prepared = prepare_one(registry.context, source, request, at)  # type: ignore[arg-type]
    assert prepared.encoded.digest == registry.prepare(folder / "t01", at=at).encoded.digest
    assert prepared.report.modules == ()


def test_progress_ends_at_the_end(registry: sr.Registry, folder: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    _spoil(folder)
    registry.import_many(folder, workers=1, progress=lambda *state: seen.append(state))
    assert seen[-1] == ("importing", COUNT, COUNT)
    assert {doing for doing, _, _ in seen} == {"reading adapters", "importing"}
    for doing in ("reading adapters", "importing"):
        counts = [done for name, done, _ in seen if name == doing]
        assert counts == sorted(counts)
