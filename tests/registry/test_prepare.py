"""What is prepared is coded against a stated commit, and is as good as committed when published."""

import json
import pickle
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

import share_registry as sr
from tests.registry.conftest import Open
from tests.registry.planted import write_planted


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Path]:
    return write_planted(tmp_path / "adapters", 5, modules=2, width=64)


def _contents(registry: sr.Registry) -> dict[str, tuple[str, str]]:
    with registry.context.reading() as session:
        from share_registry.catalog.queries import version_lookups

        rows = version_lookups.all_versions(session)
        return {row.ref: (row.adapter_digest, row.tensors_digest) for row in rows}


def test_prepared_and_published_is_committed(tmp_path: Path, folders: dict[str, Path]) -> None:
    """The same objects, record for record, as `commit`, and nothing in the log before."""
    apart = sr.Registry.open(tmp_path / "apart")
    at_once = sr.Registry.open(tmp_path / "at-once")
    for task, folder in folders.items():
        options = {"budget": 0.05, "labels": {"team": task}, "metrics": {"f1": 0.5}}
        prepared = apart.prepare(folder, task=task, **options)  # type: ignore[arg-type]
        assert len(list(apart.log(limit=None))) == (1 + len(apart.tasks()) if apart.tasks() else 0)
        published = apart.publish(pickle.loads(pickle.dumps(prepared)), message="why")
        committed = at_once.commit(folder, task=task, message="why", **options)  # type: ignore[arg-type]
        assert published.report is not None
        assert committed.report is not None
        assert published.report.error == prepared.report.error == committed.report.error
        assert published.labels == committed.labels
        assert published.message == "why"
    assert _contents(apart) == _contents(at_once)
    assert apart.verify("deep").ok


def test_many_are_published_as_one_commit(
    open_registry: Open, folders: dict[str, Path], tmp_path: Path
) -> None:
    registry = open_registry()
    first, *rest = sorted(folders)
    base = registry.publish(registry.prepare(folders[first], task=first))
    prepared = [registry.prepare(folders[task], task=task) for task in rest]
    assert {item.at for item in prepared} == {base.number}
    # in any order
    commit = registry.publish([*reversed(prepared), registry.prepare(folders[first], task=first)])
    assert sorted(commit.versions) == rest
    assert commit.unchanged == (f"tiny/{first}@v1",)
    assert {task: report.error for task, report in commit.reports.items()} == {
        item.task: item.report.error for item in prepared
    }
    again = registry.publish(prepared)
    assert (again.created, again.number) == (False, commit.number)
    assert registry.publish(prepared, allow_duplicate=True).versions == dict.fromkeys(rest, 2)
    assert registry.verify("deep").ok


def test_what_is_prepared_as_of_a_commit_does_not_see_later_ones(
    tmp_path: Path, folders: dict[str, Path]
) -> None:
    registry = sr.Registry.open(tmp_path / "registry", space="tiny")
    registry.create_space("tiny", base_model="acme/tiny", policy=sr.Policy(refit=False))
    first, second, third, *_ = sorted(folders)
    then = registry.commit(folders[first], task=first)
    before = registry.prepare(folders[third], task=third)
    registry.commit(folders[second], task=second)
    registry.commit(folders[second], task=third)
    for at in (f"c{then.number}", f"@c{then.number}", then.number):
        prepared = registry.prepare(folders[third], task=third, at=at)
        assert prepared.at == then.number
        assert prepared.encoded.digest == before.encoded.digest
    now = registry.prepare(folders[third], task=third)
    assert now.encoded.digest != before.encoded.digest
    with pytest.raises(sr.NotFoundError, match="c99"):
        registry.prepare(folders[third], task=third, at="c99")


def test_labels_of_their_own_stay_apart(registry: sr.Registry, folders: dict[str, Path]) -> None:
    prepared = [
        registry.prepare(folder, task=task, labels={"team": task, "all": "yes"})
        for task, folder in folders.items()
    ]
    commit = registry.publish(prepared)
    assert commit.labels["all"] == "yes"
    assert "team" not in commit.labels
    for task in folders:
        assert registry.show(task).labels["team"] == task
        assert [each.number for each in registry.log(labels={"team": task})] == [commit.number]
    assert list(registry.log(labels={"team": "nobody"})) == []


def test_what_is_never_published_leaves_no_trace_in_the_log(
    tmp_path: Path, folders: dict[str, Path]
) -> None:
    registry = sr.Registry.open(tmp_path / "registry")
    task, folder = next(iter(folders.items()))
    one, two = (registry.prepare(folder, task=task) for _ in range(2))
    assert one.encoded.digest == two.encoded.digest
    assert registry.spaces() == []
    assert registry.verify("deep").ok
    with sr.Registry.open(tmp_path / "other") as other:
        report = other.commit(folder, task=task).report
        assert report is not None
        # what lay in the store already, named by nothing, is new to the registry
        assert registry.publish(two).report.bytes_added == report.bytes_added  # type: ignore[union-attr]


@pytest.mark.parametrize("lost", ["own", "reference"])
def test_one_that_lost_an_object_is_coded_again(
    tmp_path: Path, folders: dict[str, Path], lost: str
) -> None:
    root = tmp_path / "registry"
    registry = sr.Registry.open(root, space="tiny")
    registry.create_space("tiny", base_model="acme/tiny", policy=sr.Policy(refit=False))
    first, second, *_ = sorted(folders)
    if lost == "reference":
        tensors = load_file(folders[first] / "adapter_model.safetensors")
        scaled = {key: tensor * (1.25 if "lora_B" in key else 1) for key, tensor in tensors.items()}
        save_file(scaled, folders[second] / "adapter_model.safetensors")
        registry.commit(folders[first], task=first)
    prepared = registry.prepare(folders[second], task=second)
    assert bool(prepared.encoded.sources) == (lost == "reference")
    digest = (*prepared.encoded.sources, prepared.encoded.digest)[0]
    path = root / "objects" / digest[:2] / digest[2:]
    path.unlink()
    registry.publish(prepared)
    assert registry.checkout(second).error == pytest.approx(prepared.report.error, rel=0.5)
    registry.close()
    with sr.Registry.open(root, mode="r") as opened:
        assert opened.checkout(f"{second}@v1").error is not None


def test_one_that_changed_and_lost_an_object_is_a_conflict(
    tmp_path: Path, folders: dict[str, Path]
) -> None:
    root = tmp_path / "registry"
    registry = sr.Registry.open(root)
    first, second, *_ = sorted(folders)
    prepared = registry.prepare(folders[first], task=first)
    digest = prepared.encoded.digest
    (root / "objects" / digest[:2] / digest[2:]).unlink()
    shutil.copytree(folders[second], folders[first], dirs_exist_ok=True)
    with pytest.raises(sr.ConflictError, match="changed since it was prepared"):
        registry.publish(prepared)
    assert registry.spaces() == []


def test_an_adapter_in_memory_is_prepared_and_sent(
    registry: sr.Registry, folders: dict[str, Path]
) -> None:
    task, folder = next(iter(folders.items()))
    registry.commit(folder, task=task)
    checked_out = registry.checkout(task)
    sent = pickle.loads(pickle.dumps(registry.prepare(checked_out, task=task)))
    commit = registry.publish(sent)
    assert not commit.created
    copy = pickle.loads(pickle.dumps(registry.prepare(checked_out, task="copy")))
    assert registry.publish(copy).created
    assert registry.lineage("copy").nodes


def test_what_cannot_be_published_is_said(registry: sr.Registry, folders: dict[str, Path]) -> None:
    first, second, *_ = sorted(folders)
    prepared = registry.prepare(folders[first], task=first)
    twice = registry.prepare(folders[second], task=first)
    with pytest.raises(sr.InvalidInputError, match="more than once"):
        registry.publish([prepared, twice])
    with pytest.raises(sr.InvalidInputError, match="nothing to publish"):
        registry.publish([])
    with pytest.raises(sr.InvalidInputError, match=r"expected what `prepare` returned"):
        registry.publish(["cola"])  # type: ignore[list-item]
    with pytest.raises(sr.InvalidInputError, match="for 2 tasks"):
        registry.publish([prepared, registry.prepare(folders[second], task=second)], expected=1)
    with pytest.raises(sr.ConflictError, match="absent, expected v3"):
        registry.publish(prepared, expected=3)
    config = folders[second] / "adapter_config.json"
    config.write_text(
        json.dumps(json.loads(config.read_text()) | {"base_model_name_or_path": "acme/other"})
    )
    with pytest.raises(sr.InvalidInputError, match="several spaces"):
        registry.publish([prepared, registry.prepare(folders[second], task=second)])
    registry.create_space("paper", base_model="acme/paper", policy=sr.Policy(k=4))
    with pytest.raises(sr.RefusedError, match="nothing can be coded before it"):
        registry.prepare(folders[first], task=first, space="paper", allow_base_mismatch=True)


def test_the_key_of_a_publication_is_kept(registry: sr.Registry, folders: dict[str, Path]) -> None:
    first, second, *_ = sorted(folders)
    prepared = registry.prepare(folders[first], task=first)
    commit = registry.publish(prepared, idempotency_key="night-1")
    again = registry.publish(prepared, idempotency_key="night-1", allow_duplicate=True)
    assert (again.number, again.created) == (commit.number, False)
    with pytest.raises(sr.ConflictError, match="night-1"):
        registry.publish(registry.prepare(folders[second], task=second), idempotency_key="night-1")
