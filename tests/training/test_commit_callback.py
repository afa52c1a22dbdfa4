"""The Trainer of transformers makes versions, whatever becomes of it or of the registry."""

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainerCallback, TrainerControl, TrainerState

import share_registry as sr
from share_registry.exchange.load import load
from share_registry.exchange.peft_model import take_snapshot
from share_registry.outside.files import Outside
from share_registry.transformers import CommitCallback
from tests.house.tree import ROOT
from tests.training.conftest import STORED, distance, lora, scatter, trainer

STEPS = (2, 4, 6)


class Hook(TrainerCallback):  # type: ignore[misc]
    """Calls a function at a moment of the training."""

    def __init__(self, moment: str, function: Any) -> None:
        setattr(self, moment, lambda args, state, control, **_: function(state))


def _versions(registry: sr.Registry) -> dict[int, sr.Task]:
    """Return the versions by step; there is one of each."""
    tasks = registry.tasks(all_versions=True)
    steps = {int(task.labels["step"]): task for task in tasks}
    assert len(steps) == len(tasks)
    return steps


def test_every_checkpoint_is_a_version_with_the_metrics_of_its_step(tmp_path: Path) -> None:
    callback = CommitCallback(tmp_path / "registry", task="cola", max_waiting=9)
    training = trainer(lora(), tmp_path / "out", callback)
    training.train()
    evaluated = {
        entry["step"]: entry["eval_loss"]
        for entry in training.state.log_history
        if "eval_loss" in entry
    }
    with sr.Registry.open(tmp_path / "registry", mode="r") as registry:
        versions = _versions(registry)
        assert {
            step: version.metrics["eval_loss"] for step, version in versions.items()
        } == evaluated
        best = min(evaluated, key=lambda step: evaluated[step])
        assert registry.resolve("cola@best").version == versions[best].version
        assert versions[4].labels["epoch"] == "2"
        for step in STEPS:
            _, saved, _ = load(
                tmp_path / "out" / f"checkpoint-{step}",
                task="cola",
                adapter_name=None,
                outside=Outside(),
            )
            assert distance(registry.checkout(versions[step].ref), saved) < STORED
    assert callback.report is not None
    assert callback.report.created == STEPS


def test_a_killed_training_that_goes_on_commits_every_step_once(tmp_path: Path) -> None:
    script = Path(__file__).with_name("killed_run.py")
    killed = subprocess.run(
        [sys.executable, str(script), str(tmp_path)],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert killed.returncode == -9, killed.stderr
    callback = CommitCallback(tmp_path / "registry", task="cola", max_waiting=9)
    again = tmp_path / "out" / "checkpoint-2"
    training = trainer(lora(), tmp_path / "out", callback)
    training.train(resume_from_checkpoint=str(again))
    with sr.Registry.open(tmp_path / "registry", mode="r") as registry:
        versions = _versions(registry)
        assert {4, 6} <= set(versions) <= set(STEPS)
        assert registry.verify(level="deep").ok
    assert callback.report is not None
    runs = {version.labels["run"] for version in versions.values()}
    assert runs == {callback.report.run}
    assert list(callback.report.committed) == [4, 6]


def test_a_fresh_training_in_the_same_directory_is_a_run_of_its_own(
    registry: sr.Registry, tmp_path: Path
) -> None:
    for seed in (0, 1):
        callback = CommitCallback(registry, task="cola")
        trainer(lora(seed), tmp_path, callback, max_steps=2).train()
    versions = registry.tasks(all_versions=True)
    assert [version.labels["step"] for version in versions] == ["2", "2"]
    assert len({version.labels["run"] for version in versions}) == 2


@pytest.mark.parametrize("best_at_end", [False, True])
def test_an_evaluation_is_one_version_with_the_metrics_of_all_its_sets(
    registry: sr.Registry, tmp_path: Path, best_at_end: bool
) -> None:
    callback = CommitCallback(registry, task="cola", on="evaluate", max_waiting=9)
    training = trainer(lora(), tmp_path, callback)
    training.eval_dataset = {"a": training.train_dataset, "b": training.train_dataset[:2]}
    training.args.load_best_model_at_end = best_at_end
    training.args.metric_for_best_model = "eval_a_loss"
    training.train()
    versions = _versions(registry)
    assert tuple(sorted(versions)) == STEPS
    for version in versions.values():
        assert {"eval_a_loss", "eval_b_loss"} <= set(version.metrics)
    losses = {step: version.metrics["eval_a_loss"] for step, version in versions.items()}
    best = min(losses, key=lambda step: losses[step])
    assert registry.resolve("cola@best").version == versions[best].version


def test_a_registry_that_cannot_be_opened_costs_no_step(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "registry").write_text("no registry")
    callback = CommitCallback(tmp_path / "registry", task="cola", max_waiting=9)
    training = trainer(lora(), tmp_path / "out", callback)
    training.train()
    assert training.state.global_step == STEPS[-1]
    assert callback.report is not None
    assert (tuple(callback.report.failed), callback.report.created) == (STEPS, ())
    assert "step 2 is not committed" in caplog.text
    assert "registry.commit(directory, task=...)" in caplog.text


def test_a_locked_registry_delays_versions_and_no_step(tmp_path: Path) -> None:
    root = tmp_path / "registry"
    with sr.Registry.open(root) as registry:
        registry.create_space("llama", base_model="tiny/llama")
    with closing(sqlite3.connect(root / "catalog.sqlite", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        callback = CommitCallback(root, task="cola", max_waiting=9)
        unlock = Hook("on_train_end", lambda _: other.execute("ROLLBACK"))
        training = trainer(lora(), tmp_path / "out", unlock, callback)
        training.train()
    assert callback.report is not None
    assert callback.report.created == STEPS


def test_only_the_main_process_commits(registry: sr.Registry) -> None:
    callback = CommitCallback(registry, task="cola")
    state, control = TrainerState(is_world_process_zero=False, global_step=2), TrainerControl()
    for event in ("on_train_begin", "on_evaluate", "on_save", "on_step_begin", "on_train_end"):
        getattr(callback, event)(None, state, control, model=lora())
    assert (callback.report, registry.spaces()) == (None, [])
    assert state.stateful_callbacks == {}


def test_a_moment_that_there_is_not_is_refused_at_once() -> None:
    with pytest.raises(sr.InvalidInputError, match="'save' or 'evaluate'"):
        CommitCallback("./registry", task="cola", on="epoch")


def test_best_is_judged_by_the_callbacks_metric_and_not_by_the_trainers_direction(
    registry: sr.Registry, tmp_path: Path
) -> None:
    callback = CommitCallback(registry, task="cola", run="mine", metric="eval_loss", max_waiting=9)
    training = trainer(lora(), tmp_path, callback)
    training.args.metric_for_best_model, training.args.greater_is_better = "eval_runtime", True
    training.train()
    losses = {task.version: task.metrics["eval_loss"] for task in _versions(registry).values()}
    assert len(set(losses.values())) > 1
    best = min(losses, key=lambda version: losses[version])
    assert registry.resolve("cola@best").version == best
    assert {task.labels["run"] for task in registry.tasks(all_versions=True)} == {"mine"}


def test_the_version_of_an_evaluation_is_the_model_that_was_evaluated(
    registry: sr.Registry, tmp_path: Path
) -> None:
    evaluated = {}

    class Remember(TrainerCallback):  # type: ignore[misc]
        def on_evaluate(
            self, args: Any, state: Any, control: Any, model: Any = None, **_: Any
        ) -> None:
            evaluated[state.global_step] = take_snapshot(model, copied=True).adapter()

    class Spoil(TrainerCallback):  # type: ignore[misc]
        # some releases of the Trainer load the best model before they log the end
        def on_log(
            self, args: Any, state: Any, control: Any, model: Any = None, logs: Any = None, **_: Any
        ) -> None:
            if "train_runtime" in logs:
                scatter(model, 7)

    callback = CommitCallback(registry, task="cola", on="evaluate", max_waiting=9)
    trainer(lora(), tmp_path, Remember(), Spoil(), callback).train()
    for step, version in _versions(registry).items():
        assert distance(registry.checkout(version.ref), evaluated[step]) < STORED


def test_a_training_that_broke_off_leaves_nothing_to_the_next_of_the_callback(
    registry: sr.Registry, tmp_path: Path
) -> None:
    def break_off(state: Any) -> None:
        if state.global_step == STEPS[0]:
            raise KeyboardInterrupt

    callback = CommitCallback(registry, task="cola", on="evaluate", max_waiting=9)
    broken = trainer(lora(), tmp_path / "a", callback, Hook("on_evaluate", break_off))
    with pytest.raises(KeyboardInterrupt):
        broken.train()
    first = callback._committer
    assert first is not None
    trainer(lora(1), tmp_path / "b", callback, max_steps=1, eval_strategy="no").train()
    assert first.close().committed == {}
    assert registry.spaces() == []
    assert not first._thread.is_alive()
