"""What commit accepts, returns again, and refuses; and that a refusal leaves nothing behind."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from sqlalchemy import Engine, Select, event

import share_registry as sr
from share_registry.catalog.queries import version_lookups
from share_registry.registry.commands import spaces
from share_registry.registry.commands.publish import publish
from tests.cli.tiny import BASE, SPACE, write_adapter
from tests.registry.conftest import DEMO
from tests.registry.plain import files

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
MOST_QUESTIONS = 33
"""What a commit of one adapter asks its catalog, each 20 microseconds.

Of the heads, of the record that gave the space its policy, of what it may refer to, and of what its
record changes.
"""


def change_config(source: Path, target: Path, **config: object) -> Path:
    """Copy an adapter with another config."""
    shutil.copytree(source, target)
    path = target / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))
    return target


def test_names_are_derived_and_a_space_is_made(registry: sr.Registry, adapter: Path) -> None:
    commit = registry.commit(adapter)
    assert (commit.space, commit.task, commit.version, commit.number) == (SPACE, "cola", 1, 2)
    assert registry.spaces()[0].base_model == BASE


def test_a_space_that_came_meanwhile_for_another_base_is_a_conflict(
    registry: sr.Registry, adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The space is not there until the very moment at which the commit makes it."""

    def come_second(*arguments: Any, **options: Any) -> sr.Commit:
        monkeypatch.setattr(spaces, "publish", publish)
        registry.create_space(SPACE, base_model="other-org/Tiny-Model")
        return publish(*arguments, **options)

    monkeypatch.setattr(spaces, "publish", come_second)
    with pytest.raises(sr.ConflictError, match="exists with base model other-org/Tiny-Model"):
        registry.commit(adapter)
    assert [commit.kind for commit in registry.log()] == ["create"]


def test_the_same_adapter_again_is_the_same_commit(registry: sr.Registry, adapter: Path) -> None:
    first = registry.commit(adapter)
    again = registry.commit(adapter)
    assert first.created
    assert not again.created
    assert (again.number, again.id, again.ref) == (first.number, first.id, first.ref)
    assert registry.commit(adapter, allow_duplicate=True).version == 2


def test_a_retry_with_the_same_key_makes_no_second_commit(
    registry: sr.Registry, adapter: Path
) -> None:
    first = registry.commit(adapter, idempotency_key="run-41")
    again = registry.commit(adapter, allow_duplicate=True, idempotency_key="run-41")
    assert (again.number, again.created) == (first.number, False)
    registry.rename("cola", "grammar")
    assert registry.commit(adapter, idempotency_key="run-41").number == first.number
    assert [task.version for task in registry.tasks()] == [1]


def test_a_key_used_again_for_other_content_is_a_conflict(
    registry: sr.Registry, adapter: Path, tmp_path: Path
) -> None:
    registry.commit(adapter, idempotency_key="run-41")
    second = write_adapter(tmp_path / "other", seed=2)
    with pytest.raises(
        sr.ConflictError,
        match=r"'run-41' made c2 .* with cola \(source .*now it comes with cola \(source",
    ):
        registry.commit(second, task="cola", idempotency_key="run-41")
    with pytest.raises(sr.ConflictError, match="now it comes with grammar"):
        registry.commit(adapter, task="grammar", idempotency_key="run-41")
    with pytest.raises(sr.ConflictError, match="run-41"):
        registry.commit_many({"cola": adapter, "other": second}, idempotency_key="run-41")
    assert [task.version for task in registry.tasks()] == [1]


def test_the_same_adapter_kept_better_is_a_new_version(
    registry: sr.Registry, adapter: Path
) -> None:
    assert registry.commit(adapter, budget=0.1).report
    assert registry.commit(adapter, budget=0.1).version == 1
    exact = registry.commit(adapter, budget=0)
    assert (exact.version, exact.created) == (2, True)
    assert exact.report
    assert exact.report.error == 0
    assert registry.commit(adapter, budget=0.05).version == 2
    kept = registry.commit(adapter, keep_original=True)
    assert (kept.version, kept.created) == (3, True)
    assert registry.commit(adapter, keep_original=True).version == 3


def test_expected_must_hold(registry: sr.Registry, adapter: Path, tmp_path: Path) -> None:
    second = write_adapter(tmp_path / "second", seed=2)
    registry.commit(adapter, expected=sr.ABSENT)
    with pytest.raises(sr.ConflictError, match="at v1, expected absent"):
        registry.commit(second, task="cola", expected=sr.ABSENT)
    with pytest.raises(sr.ConflictError, match="at v1, expected v3"):
        registry.commit(second, task="cola", expected=3)
    assert registry.commit(second, task="cola", expected=1).version == 2


def test_a_dry_run_measures_and_writes_nothing(registry: sr.Registry, adapter: Path) -> None:
    before = files(Path(registry.location))
    commit = registry.commit(adapter, dry_run=True)
    assert files(Path(registry.location)) == before
    assert not commit.created
    assert commit.report is not None
    done = registry.commit(adapter).report
    assert done is not None
    assert (commit.report.error, commit.report.bytes_added) == (done.error, done.bytes_added)


def test_many_are_one_commit_or_none(registry: sr.Registry, adapter: Path, tmp_path: Path) -> None:
    commit = registry.commit_many(
        {"a": adapter, "b": write_adapter(tmp_path / "b", seed=2)}, message="both"
    )
    assert dict(commit.refs) == {"a": f"{SPACE}/a@v1", "b": f"{SPACE}/b@v1"}
    assert set(commit.reports) == {"a", "b"}
    before = files(Path(registry.location))
    with pytest.raises(sr.RefusedError):
        registry.commit_many(
            {
                "a": write_adapter(tmp_path / "c", seed=3),
                "x": change_config(adapter, tmp_path / "d", use_dora=False, peft_type="LOHA"),
            }
        )
    assert files(Path(registry.location)) == before


def test_a_generic_or_taken_name_is_refused_with_a_hint(
    registry: sr.Registry, adapter: Path, tmp_path: Path
) -> None:
    for name in (
        "v1",
        "s42",
        "checkpoint-500",
        "final",
        "best",
        "adapter",
        "output_2",
        "lora",
        "default",
    ):
        with pytest.raises(sr.RefusedError, match="task"):
            registry.commit(shutil.copytree(adapter, tmp_path / "runs" / name))
    registry.commit(adapter)
    with pytest.raises(sr.RefusedError, match="taken"):
        registry.commit(write_adapter(tmp_path / "elsewhere" / "cola", seed=2))
    assert registry.commit(tmp_path / "elsewhere" / "cola", task="cola").version == 2


def test_a_renamed_task_keeps_its_name(
    registry: sr.Registry, adapter: Path, tmp_path: Path
) -> None:
    registry.commit(adapter)
    registry.rename("cola", "grammar")
    with pytest.raises(sr.RefusedError, match="renamed to 'grammar'"):
        registry.commit(write_adapter(tmp_path / "new", seed=2), task="cola")
    assert registry.resolve("cola").ref == f"{SPACE}/grammar@v1"


def test_a_new_name_may_say_the_space_that_the_task_is_in(
    registry: sr.Registry, adapter: Path
) -> None:
    registry.commit(adapter)
    registry.rename("cola", f"{SPACE}/grammar")
    assert registry.resolve("cola").ref == f"{SPACE}/grammar@v1"
    with pytest.raises(sr.ConflictError, match="another space"):
        registry.rename("cola", "elsewhere/cola")


def test_a_dropped_task_comes_back_with_its_next_version(
    registry: sr.Registry, adapter: Path
) -> None:
    registry.commit(adapter)
    registry.drop("cola")
    assert registry.tasks() == []
    with pytest.raises(sr.NotFoundError, match="dropped"):
        registry.checkout("cola")
    assert registry.checkout("cola@v1").ref == f"{SPACE}/cola@v1"
    assert registry.commit(adapter).version == 2


def test_an_unknown_base_model_needs_a_word(
    registry: sr.Registry, adapter: Path, tmp_path: Path
) -> None:
    unknown = change_config(
        adapter, tmp_path / "other", base_model_name_or_path="mirror/Tiny-Model-4bit"
    )
    registry.create_space("tiny", base_model=BASE, base_labels=["mirror/known"])
    with pytest.raises(sr.RefusedError, match="Tiny-Model-4bit"):
        registry.commit(unknown, space="tiny")
    assert registry.commit(unknown, space="tiny", allow_base_mismatch=True).space == "tiny"
    labelled = change_config(adapter, tmp_path / "known", base_model_name_or_path="mirror/known")
    assert registry.commit(labelled).space == "tiny"


def test_a_named_unknown_space_is_not_created(registry: sr.Registry, adapter: Path) -> None:
    registry.commit(adapter)
    with pytest.raises(sr.NotFoundError, match="Did you mean tiny-model"):
        registry.commit(adapter, space="tiny-modle")


def test_conflicting_shapes_are_refused(
    registry: sr.Registry, adapter: Path, tmp_path: Path
) -> None:
    registry.commit(adapter)
    wider = shutil.copytree(adapter, tmp_path / "wider")
    tensors = {
        key: np.ascontiguousarray(
            np.concatenate([value, value], axis=1) if "lora_A" in key else value
        )
        for key, value in load_file(adapter / "adapter_model.safetensors").items()
    }
    save_file(tensors, wider / "adapter_model.safetensors", metadata={"format": "pt"})
    before = files(Path(registry.location))
    with pytest.raises(sr.RefusedError, match="is 32 x 64, in space 'tiny-model' it is 32 x 32"):
        registry.commit(wider)
    assert files(Path(registry.location)) == before


def test_a_refused_first_adapter_leaves_no_space(
    registry: sr.Registry, adapter: Path, tmp_path: Path
) -> None:
    with pytest.raises(sr.RefusedError):
        registry.commit(change_config(adapter, tmp_path / "bad", init_lora_weights="pissa"))
    assert registry.spaces() == []


def _cut(folder: Path) -> None:
    path = folder / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-5])


def _nan(folder: Path) -> None:
    tensors = load_file(folder / "adapter_model.safetensors")
    next(iter(tensors.values()))[0, 0] = np.nan
    save_file(tensors, folder / "adapter_model.safetensors")


def _pickle(folder: Path) -> None:
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")


def _pointer(folder: Path) -> None:
    (folder / "adapter_model.safetensors").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n"
    )


def _half(folder: Path) -> None:
    tensors = load_file(folder / "adapter_model.safetensors")
    tensors.pop(next(iter(tensors)))
    save_file(tensors, folder / "adapter_model.safetensors")


BAD = {
    "truncated": _cut,
    "NaN": _nan,
    "pickle": _pickle,
    "git-LFS pointer": _pointer,
    "half a pair": _half,
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_named_and_changes_nothing(
    name: str, registry: sr.Registry, adapter: Path, tmp_path: Path
) -> None:
    registry.commit(adapter)
    bad = shutil.copytree(adapter, tmp_path / "bad-one")
    BAD[name](bad)
    before = files(Path(registry.location))
    with pytest.raises(sr.InvalidInputError) as caught:
        registry.commit(bad)
    assert caught.value.hint
    assert files(Path(registry.location)) == before


@pytest.mark.parametrize("budget", [-0.1, 1.0, float("nan"), float("inf"), "5%", True])
def test_a_budget_that_is_none_is_refused(
    budget: object, registry: sr.Registry, adapter: Path
) -> None:
    with pytest.raises(sr.InvalidInputError, match="budget"):
        registry.commit(adapter, budget=budget)  # type: ignore[arg-type]


@pytest.mark.parametrize("task", ["../x", "UPPER", "", "a" * 65, "con", "a..b", "a.", "a/b/c", "ä"])
def test_evil_names_are_refused(task: str, registry: sr.Registry, adapter: Path) -> None:
    with pytest.raises(sr.InvalidInputError, match="name"):
        registry.commit(adapter, task=task)


def test_adapters_of_one_commit_may_refer_to_each_other(registry: sr.Registry) -> None:
    seeds = {
        task: DEMO / task / "s42" for task in ("wn-noun-abstract", "wn-syn-ant", "wn-verb-frame")
    }
    together = registry.commit_many(
        seeds, space=registry.create_space("together", base_model=MINILM).name
    )
    assert "rows of c2" in {
        module.reference for report in together.reports.values() for module in report.modules
    }
    assert registry.verify("deep").ok


def test_siblings_of_conflicting_shapes_are_refused_before_anything_is_written(
    registry: sr.Registry, adapter: Path, tmp_path: Path
) -> None:
    wider = shutil.copytree(adapter, tmp_path / "wider")
    tensors = {
        key: np.ascontiguousarray(np.tile(value, (1, 2)) if "lora_A" in key else value)
        for key, value in load_file(adapter / "adapter_model.safetensors").items()
    }
    save_file(tensors, wider / "adapter_model.safetensors", metadata={"format": "pt"})
    before = files(Path(registry.location))
    with pytest.raises(sr.RefusedError, match="32 x 64"):
        registry.commit_many({"a": adapter, "b": wider})
    assert files(Path(registry.location)) == before


@pytest.mark.parametrize("damage", ["corrupt", "missing"])
def test_an_earlier_adapter_that_cannot_be_read_does_not_block_commits(
    damage: str, registry: sr.Registry
) -> None:
    space = registry.create_space("damaged", base_model=MINILM)
    sound, broken, later = (
        DEMO / task / "s42" for task in ("wn-noun-abstract", "wn-syn-ant", "wn-verb-frame")
    )
    space.commit(sound, task="a")
    space.commit(broken, task="b")
    with registry.context.reading() as session:
        row = version_lookups.version_row(session, space.name, "b", 1)
    assert row
    path = Path(registry.location) / "objects" / row.adapter_digest[:2] / row.adapter_digest[2:]
    content = path.read_bytes()
    path.unlink()
    if damage == "corrupt":
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with sr.Registry.open(registry.location) as again:
        for commit in (
            again.commit(later, task="c", space="damaged"),
            again.commit(later, task="b", space="damaged"),
        ):
            assert commit.report
            assert (
                "c3 could not be read and was not referred to: run verify." in commit.report.notes
            )
            assert not any("previous" in module.reference for module in commit.report.modules)
        assert again.space("damaged").checkout("b").ref == "damaged/b@v2"


def test_adapter_name_picks_nothing_where_there_is_one_adapter(
    registry: sr.Registry, adapter: Path
) -> None:
    checked_out = registry.checkout(registry.commit(adapter).ref)
    for source in (adapter, str(adapter), checked_out):
        with pytest.raises(
            sr.InvalidInputError, match=r"'second' is given for .* only applies to live PEFT models"
        ):
            registry.commit(source, task="x", adapter_name="second")


def test_a_derived_name_goes_to_any_directory_the_task_came_from(
    registry: sr.Registry, adapter: Path, tmp_path: Path
) -> None:
    registry.commit(adapter)
    registry.commit(write_adapter(tmp_path / "tuned", seed=2), task="cola")
    shutil.rmtree(adapter)
    assert registry.commit(write_adapter(adapter, seed=3)).version == 3
    with pytest.raises(sr.RefusedError, match="taken"):
        registry.commit(write_adapter(tmp_path / "elsewhere" / "cola", seed=4))


def test_what_changes_nothing_is_the_commit_that_made_it_so(
    registry: sr.Registry, adapter: Path, tmp_path: Path
) -> None:
    first = registry.commit(adapter)
    second = registry.commit(write_adapter(tmp_path / "second", seed=2), task="cola")
    moved = registry.set_alias("cola@v1", "prod")
    again = registry.set_alias("cola@v1", "prod")
    assert (moved.created, again.created, again.number) == (True, False, moved.number)
    assert registry.set_alias("cola@v2", "prod").created
    assert registry.set_alias("cola@v1", "prod").created
    with pytest.raises(sr.ConflictError):
        registry.set_alias("cola@v1", "prod", expected=2)
    same = registry.restore("cola@v2")
    assert (same.created, same.number) == (False, second.number)
    assert registry.restore("cola@v1").created
    unchanged = registry.set_policy(sr.Policy(), space=first.space)
    assert (unchanged.created, unchanged.number) == (False, 1)
    tight = registry.set_policy(sr.Policy(budget=0.01), space=first.space)
    assert (
        tight.created,
        registry.set_policy(sr.Policy(budget=0.01), space=first.space).number,
    ) == (
        True,
        tight.number,
    )


def test_a_budget_that_could_not_be_used_is_remarked(
    registry: sr.Registry, adapter: Path, tmp_path: Path
) -> None:
    def unused(commit: sr.Commit) -> list[str]:
        assert commit.report
        return [note for note in commit.report.notes if "could not be used" in note]

    assert unused(registry.commit(adapter)) == []
    assert unused(registry.commit(adapter, budget=0)) == []
    assert (
        "element types"
        in unused(registry.commit(write_adapter(tmp_path / "fine", seed=2), budget=1e-12))[0]
    )
    small = write_adapter(tmp_path / "small", seed=3)
    tensors = {
        key: np.sign(value) * np.float32(0.5)
        for key, value in load_file(small / "adapter_model.safetensors").items()
    }
    save_file(tensors, small / "adapter_model.safetensors", metadata={"format": "pt"})
    nothing = {key: value * (0 if "lora_B" in key else 1) for key, value in tensors.items()}
    zero = write_adapter(tmp_path / "zero", seed=4)
    save_file(nothing, zero / "adapter_model.safetensors", metadata={"format": "pt"})
    assert "no module has a product to code" in unused(registry.commit(zero))[0]
    assert "would not be smaller" in unused(registry.commit(small, budget=1e-4))[0]


def test_dotfiles_are_not_kept_and_named(registry: sr.Registry, adapter: Path) -> None:
    (adapter / ".gitattributes").write_text("*.safetensors filter=lfs")
    (adapter / "tokenizer.json").write_text("{}")
    commit = registry.commit(adapter)
    assert commit.report
    assert "not kept: .gitattributes (dotfile)." in commit.report.notes
    assert set(registry.checkout("cola").attachments) == {"tokenizer.json"}


@pytest.mark.parametrize(
    ("option", "error"),
    [({"derived_from": ["cola@v1"]}, sr.NotFoundError), ({"expected": 3}, sr.ConflictError)],
)
def test_what_cannot_hold_in_a_new_space_is_refused_and_makes_none(
    option: dict[str, object],
    error: type[sr.ShareRegistryError],
    registry: sr.Registry,
    adapter: Path,
) -> None:
    with pytest.raises(error):
        registry.commit(adapter, **option)  # type: ignore[arg-type]
    assert registry.spaces() == []


def test_a_report_names_its_worst_module(registry: sr.Registry, adapter: Path) -> None:
    report = registry.commit(adapter).report
    assert report is not None
    assert report.worst_module is not None
    assert report.worst_module.error == max(module.error for module in report.modules)
    assert report.worst_module.error > 0


def test_a_commit_asks_what_the_one_before_asked_over_one_connection(
    registry: sr.Registry, adapter: Path, tmp_path: Path
) -> None:
    first = change_config(adapter, tmp_path / "first", lora_dropout=0.25)
    second = change_config(adapter, tmp_path / "second", lora_dropout=0.5)
    registry.commit(adapter, task="cola")
    statements: list[Select[Any]] = []
    connections: list[object] = []

    def seen(connection: Any, statement: Any, *_: object) -> None:
        connections.append(connection.connection.driver_connection)
        if isinstance(statement, Select):
            statements.append(statement)

    event.listen(Engine, "before_execute", seen)
    try:
        registry.commit(first, task="first")
        compiled, asked = {id(statement) for statement in statements}, len(statements)
        registry.commit(second, task="second")
    finally:
        event.remove(Engine, "before_execute", seen)
    assert [
        str(statement) for statement in statements[asked:] if id(statement) not in compiled
    ] == []
    assert len(statements) == 2 * asked <= 2 * MOST_QUESTIONS
    assert len(set(connections)) == 2
