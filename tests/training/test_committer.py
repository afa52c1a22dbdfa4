"""Steps of a training loop become versions, and nothing of it reaches the loop."""

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import share_registry as sr
from share_registry.exchange.peft_model import read_model, take_snapshot
from share_registry.training import Committer
from tests.house.tree import ROOT
from tests.training.conftest import BASE, STORED, distance, lora, scatter

QUICK_S = 0.2
"""How long `close` waits for a commit that does not end."""
PATIENCE_S = 60.0
"""How long a test waits for what is about to happen."""


def _wait_until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.01)


def _run(registry: sr.Registry, values: dict[int, float], **options: Any) -> Any:
    """Commit steps, each with a value of the metric `acc` and weights of its own."""
    with Committer(registry, task="cola", metric="acc", max_waiting=99, **options) as committer:
        model = lora()
        for step, value in values.items():
            committer.commit(scatter(model, step), step=step, metrics={"acc": value})
    return committer.close()


def _aliases(registry: sr.Registry) -> dict[str, int]:
    return {each.name: each.version for each in registry.aliases()}


@pytest.fixture
def gate() -> Iterator[Event]:
    """Commits to the registry `gated` end when this is set."""
    opened = Event()
    yield opened
    opened.set()


@pytest.fixture
def gated(gate: Event) -> Iterator[sr.Registry]:
    """A registry whose commits wait for a check."""

    def wait(_: object) -> None:
        gate.wait(60)

    with sr.Registry.open("memory://", checks={"gate": wait}) as registry:
        policy = sr.Policy(require=("gate",))
        registry.create_space("llama", base_model=BASE, policy=policy)
        yield registry


def test_a_step_is_a_version_that_says_where_it_comes_from(registry: sr.Registry) -> None:
    with Committer(registry, task="cola", run="r1", labels={"team": "nlp"}) as committer:
        assert committer.commit(
            lora(3), step=20, metrics={"eval_loss": 0.5}, labels={"epoch": "2"}, message="tuned"
        )
        report = committer.close()
    version = registry.show(report.committed[20])
    assert version.labels == {"team": "nlp", "run": "r1", "step": "20", "epoch": "2"} | {
        name: text for name, text in version.labels.items() if "." in name
    }
    assert (version.metrics, version.message) == ({"eval_loss": 0.5}, "tuned")
    assert (report.created, report.failed, report.skipped) == ((20,), {}, ())
    assert distance(registry.checkout("cola@v1"), read_model(lora(3))) < STORED


def test_a_step_that_is_passed_again_makes_no_second_version(
    registry: sr.Registry, caplog: pytest.LogCaptureFixture
) -> None:
    _run(registry, {10: 0.1, 20: 0.2}, run="r1")
    with closing(Committer(registry, task="cola", run="r1", max_waiting=9)) as committer:
        # the first as it was, the second with other weights, the third anew
        for step, seed in ((10, 10), (20, 21), (30, 30)):
            committer.commit(lora(seed), step=step)
        report = committer.close()
    assert report.committed == {step: f"llama/cola@v{step // 10}" for step in (10, 20, 30)}
    assert report.created == (30,)
    assert len(registry.tasks(all_versions=True)) == 3
    assert "step 20 of run r1 is llama/cola@v2 already, with other weights" in caplog.text
    assert "step 10 of run" not in caplog.text


def test_two_runs_may_pass_the_same_step(registry: sr.Registry) -> None:
    _run(registry, {10: 0.1})
    with Committer(registry, task="cola") as committer:
        committer.commit(lora(99), step=10)
    assert len(registry.tasks(all_versions=True)) == 2


@pytest.mark.parametrize(
    ("metric", "values", "best"),
    [("acc", (0.1, 0.3, 0.2), 2), ("eval_loss", (0.3, 0.1, 0.2), 2), ("acc", (0.3, 0.2, 0.1), 1)],
)
def test_best_moves_to_a_better_version_alone_and_latest_to_every_one(
    registry: sr.Registry, metric: str, values: tuple[float, ...], best: int
) -> None:
    options: Any = {"metric": metric, "latest": "newest", "max_waiting": 9}
    with Committer(registry, task="cola", **options) as committer:
        for step, value in enumerate(values):
            committer.commit(lora(step), step=step, metrics={metric: value})
    assert _aliases(registry) == {"best": best, "newest": 3}


def test_best_of_another_run_is_what_is_to_be_beaten(registry: sr.Registry) -> None:
    _run(registry, {1: 0.5})
    _run(registry, {2: 0.4})
    assert _aliases(registry) == {"best": 1}
    _run(registry, {3: 0.6})
    assert _aliases(registry) == {"best": 3}


def test_an_alias_that_somebody_else_moved_is_left_alone(
    gated: sr.Registry, gate: Event, caplog: pytest.LogCaptureFixture
) -> None:
    with Committer(gated, task="cola", metric="acc") as committer:
        gate.set()
        committer.commit(lora(1), step=1, metrics={"acc": 0.1})
        _wait_until(lambda: 1 in committer.report().committed)
        gate.clear()
        committer.commit(lora(2), step=2, metrics={"acc": 0.2})
        gated.remove_alias("cola", "best")
        gate.set()
        report = committer.close()
    assert report.created == (1, 2)
    assert _aliases(gated) == {}
    assert "alias 'best' of llama/cola is left where it is" in caplog.text
    assert "set_alias('llama/cola@v2', 'best')" in caplog.text


def test_a_copy_is_of_the_moment_it_was_taken_at() -> None:
    model = lora(1)
    snapshot = take_snapshot(model, copied=True)
    scatter(model, 2)
    assert snapshot.adapter().source_digest == read_model(lora(1)).source_digest


def test_where_commits_are_slower_than_steps_the_oldest_that_waits_is_given_up(
    gated: sr.Registry, gate: Event, caplog: pytest.LogCaptureFixture
) -> None:
    committer = Committer(gated, task="cola", max_waiting=2)
    committer.commit(lora(1), step=1)
    _wait_until(lambda: not committer._waiting)
    for step in (2, 3, 4):
        assert committer.commit(lora(step), step=step)
    gate.set()
    report = committer.close()
    assert (report.created, report.skipped) == ((1, 3, 4), (2,))
    assert "step 2 is not committed: commits take longer than steps come" in caplog.text


def test_closing_waits_no_longer_than_told(
    gated: sr.Registry, gate: Event, caplog: pytest.LogCaptureFixture
) -> None:
    committer = Committer(gated, task="cola", timeout_s=QUICK_S)
    committer.commit(lora(1), step=1)
    _wait_until(lambda: not committer._waiting)
    committer.commit(lora(2), step=2)
    assert committer.close().failed == {
        1: f"the registry has not answered for {QUICK_S:g} s: it may be committed or not.",
        2: "there was no time left.",
    }
    assert "step 1 may be committed or not" in caplog.text
    gate.set()
    committer._thread.join(PATIENCE_S)
    report = committer.close()
    assert (report.created, list(report.failed)) == ((1,), [2])


def test_a_process_that_is_killed_is_started_again_and_what_cannot_be_sent_stops_no_other_step(
    tmp_path: Path,
) -> None:
    committer = Committer(tmp_path / "registry", task="cola", max_waiting=9)
    _wait_until(lambda: committer._helper is not None)
    helper: Any = committer._helper
    os.kill(helper._process._process.pid, signal.SIGKILL)
    committer.commit(lora(1), step=1)
    unsent: Any = {"file": lambda: None}
    committer.commit(replace(read_model(lora(2)), attachments=unsent), step=2)
    committer.commit(read_model(lora(3)), step=3)
    report = committer.close()
    assert (report.created, list(report.failed)) == ((1, 3), [2])


def test_metrics_that_are_no_finite_number_do_not_stop_a_version(registry: sr.Registry) -> None:
    with Committer(registry, task="cola") as committer:
        metrics: Any = {"loss": float("nan"), "name": "x", "acc": torch.tensor(0.5), "step": 3.0}
        committer.commit(lora(1), step=1, metrics=metrics)
    assert registry.show("cola@v1").metrics == {"acc": 0.5}


def test_a_model_without_an_adapter_is_named_and_the_loop_goes_on(
    registry: sr.Registry, caplog: pytest.LogCaptureFixture
) -> None:
    with Committer(registry, task="cola") as committer:
        assert not committer.commit(torch.nn.Linear(2, 2), step=1)
        assert not committer.commit(None, step=2)
        assert committer.commit(lora(), step=3)
        report = committer.close()
        assert not committer.commit(lora(), step=4)
    assert (list(report.failed), report.created) == ([1, 2], (3,))
    assert "step 1 is not committed" in caplog.text
    assert "step 4 is not committed: the run is closed" in caplog.text


def test_sharded_parameters_are_refused_by_name(registry: sr.Registry, tmp_path: Path) -> None:
    from torch import distributed
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    model = lora()
    distributed.init_process_group("gloo", f"file://{tmp_path}/meeting", rank=0, world_size=1)
    try:
        fully_shard(model.base_model.model.model.layers[0], mesh=init_device_mesh("cpu", (1,)))
        with Committer(registry, task="cola") as committer:
            assert not committer.commit(model, step=1)
    finally:
        distributed.destroy_process_group()
    assert "sharded by FSDP" in committer.close().failed[1]


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"task": "a b"}, "a b"),
        ({"task": "cola@v1"}, "cola@v1"),
        ({"run": "a b"}, "run is 'a b'"),
        ({"run": "x" * 49}, "1 to 48"),
        ({"best": "latest"}, "latest"),
        ({"latest": "best"}, "both the alias 'best'"),
        ({"budget": 2.0}, "2.0"),
        ({"max_waiting": 0}, "max_waiting"),
        ({"timeout_s": 0}, "timeout_s is 0"),
        ({"timeout_s": float("nan")}, "timeout_s is nan"),
        ({"timeout_s": float("inf")}, "timeout_s is inf"),
        ({"timeout_s": "9"}, "timeout_s is '9'"),
        ({"metric": ""}, "metric name"),
        ({"labels": {"a": 1}}, "label"),
    ],
)
def test_an_argument_that_cannot_be_used_is_refused_before_the_training(
    registry: sr.Registry, options: dict[str, Any], part: str
) -> None:
    with pytest.raises(sr.InvalidInputError, match=part):
        Committer(registry, **({"task": "cola"} | options))


def test_a_registry_that_cannot_be_written_is_refused_before_the_training(tmp_path: Path) -> None:
    sr.Registry.open(tmp_path / "r").close()
    with (
        sr.Registry.open(tmp_path / "r", mode="r") as registry,
        pytest.raises(sr.RefusedError, match="reading only"),
    ):
        Committer(registry, task="cola")
    with pytest.raises(sr.InvalidInputError, match="memory"):
        Committer("memory://", task="cola")


class _Summary(dict[str, str]):
    def __setitem__(self, name: str, value: str) -> None:
        if "broken" in name:
            raise OSError("offline")
        super().__setitem__(name, value)


@pytest.mark.parametrize("task", ["cola", "broken"])
def test_runs_of_trackers_and_versions_name_each_other(
    registry: sr.Registry, monkeypatch: pytest.MonkeyPatch, task: str
) -> None:
    summary, tags = _Summary(), []
    client = SimpleNamespace(set_tag=lambda *tag: tags.append(tag))
    current = SimpleNamespace(get=lambda: SimpleNamespace(id="t1"))
    modules = {
        "wandb": SimpleNamespace(run=SimpleNamespace(id="w1", summary=summary)),
        "mlflow": SimpleNamespace(
            active_run=lambda: SimpleNamespace(info=SimpleNamespace(run_id="m1")),
            MlflowClient=lambda: client,
        ),
        "trackio": SimpleNamespace(context_vars=SimpleNamespace(current_run=current)),
    }
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    with Committer(registry, task=task) as committer:
        committer.commit(lora(), step=1)
    labels = registry.show(f"{task}@v1").labels
    assert {"wandb.run": "w1", "mlflow.run_id": "m1", "trackio.run": "t1"}.items() <= labels.items()
    name, ref = f"share_registry.{task}", f"llama/{task}@v1"
    assert tags == [("m1", name, ref)]
    assert summary == ({} if task == "broken" else {name: ref})


def test_a_tracker_without_an_active_run_is_left_out(
    registry: sr.Registry, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(run=None))
    monkeypatch.setitem(sys.modules, "mlflow", SimpleNamespace(active_run=lambda: None))
    # a release with other names
    monkeypatch.setitem(sys.modules, "trackio", SimpleNamespace())
    with Committer(registry, task="cola") as committer:
        committer.commit(lora(), step=1)
    assert not {"wandb.run", "mlflow.run_id", "trackio.run"} & set(registry.show("cola").labels)
    assert "trackio: no link" in caplog.text


def test_what_was_handed_over_is_committed_where_the_training_ends_by_an_error(
    tmp_path: Path,
) -> None:
    script = (
        "from tests.training.conftest import lora\n"
        "from share_registry.training import Committer\n"
        f"committer = Committer({str(tmp_path / 'registry')!r}, task='cola', max_waiting=9)\n"
        "for step in (1, 2, 3):\n"
        "    committer.commit(lora(step), step=step)\n"
        "raise RuntimeError('the loss is NaN')\n"
    )
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )
    assert "the loss is NaN" in ended.stderr
    with sr.Registry.open(tmp_path / "registry", mode="r") as registry:
        steps = [version.labels["step"] for version in registry.tasks(all_versions=True)]
    assert steps == ["3", "2", "1"], "also those that still waited"
