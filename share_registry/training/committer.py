"""Commit versions of an adapter while it is trained, beside the training.

At a step the adapter is copied to the memory of the host, and that is all the training waits for.
A thread hands the copy to a process of its own, which has the registry open, codes, commits, and
moves the aliases. Few copies wait: where steps come faster than commits, the oldest one that waits
is given up, with a warning. Whatever fails is logged, and the training goes on.
"""

import atexit
import logging
import math
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from threading import Condition, Thread
from types import TracebackType
from typing import Any, Final, Protocol, Self, TypedDict, TypeVar

from typing_extensions import Unpack

from share_registry.errors import RefusedError, ShareRegistryError
from share_registry.exchange.adapter import Adapter
from share_registry.exchange.peft_model import ModelSnapshot, refuse_shards, take_snapshot
from share_registry.kinds import FilePath
from share_registry.outside.files import Outside
from share_registry.outside.processes import ProcessEndedError, WorkerProcess, can_start
from share_registry.registry.commands.workers import attempt
from share_registry.registry.registry import Registry
from share_registry.training.run_plan import RegistryPlace, RunPlan
from share_registry.training.step_commits import RunStep, StepCommitter, StepOutcome
from share_registry.training.trackers import TrackedRun, active_runs, write_reference

_LOG: Final = logging.getLogger(__name__)
_TRIES: Final = 2
_T = TypeVar("_T")
_LATER: Final = "Its checkpoint can be committed later: registry.commit(directory, task=...)."


class RunOptions(TypedDict, total=False):
    """What may be said of a run; see `Committer`."""

    run: str | None
    metric: str | None
    greater_is_better: bool | None
    best: str | None
    latest: str | None
    budget: float | None
    author: str | None
    labels: Mapping[str, str]
    adapter_name: str | None
    max_waiting: int
    timeout_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RunReport:
    """What became of the steps of a run.

    Attributes:
        run: Its id.
        committed: Step -> the version that holds it, `space/task@vN`; also where it was there from
            a life of the run before.
        created: Steps whose version was made now.
        skipped: Steps given up, since commits took longer than they came.
        failed: Step -> why it was not committed.
    """

    run: str
    committed: Mapping[int, str] = field(default_factory=dict)
    created: tuple[int, ...] = ()
    skipped: tuple[int, ...] = ()
    failed: Mapping[int, str] = field(default_factory=dict)

    def __str__(self) -> str:
        """Return it as one line."""
        refs = list(self.committed.values())
        texts = [f"run {self.run}: {len(self.created)} versions committed"]
        if refs:
            texts.append(f"the newest is {refs[-1]}")
        if self.skipped:
            texts.append(f"skipped: step {', '.join(map(str, self.skipped))}")
        if self.failed:
            texts.append(f"failed: step {', '.join(map(str, self.failed))}")
        return "; ".join(texts)


class Committer:
    """Commits steps of one training run as versions of a task; a context manager.

    No method raises because of the registry, the model or a tracker: what is not committed is
    logged, with what to do, and named in the report.

    Args:
        registry: An open registry, or where it is, as `Registry.open` takes it.
        task: Task name, or `space/task`.
        options: `run`: id of the run, which with a step is a version's idempotency key; give it
            where a training may go on from a checkpoint, else a fresh one. `metric`: what `best` is
            judged by; `greater_is_better`: unless told, of anything but a loss. `best`: alias that
            is moved to a better version; `latest`: alias that is moved to every version, where
            TASK@latest will not do. Both go forwards, never over somebody else's move; None for
            none. `budget`, `author`, `labels`, `adapter_name`: as in `Registry.commit`, for all
            versions. `max_waiting`: copies that wait while a step is committed. `timeout_s`: how
            many seconds `close` waits for them, 120 unless told.

    Raises:
        InvalidInputError, RefusedError: an argument cannot be used.
    """

    def __init__(
        self,
        registry: Registry | FilePath | None = None,
        *,
        task: str,
        **options: Unpack[RunOptions],
    ) -> None:
        options["run"] = options.get("run") or Outside().token()
        plan = RunPlan(task=task, **options)
        self.plan: Final = plan
        self.run: Final = str(plan.run)
        place = RegistryPlace.of(registry)
        in_process = place is None or not can_start()
        opened = registry if place is None and isinstance(registry, Registry) else None
        self._start: Callable[[], _Helper] = (
            (lambda: _ThisThread(StepCommitter(plan, place, opened)))
            if in_process
            else (lambda: _OwnProcess(plan, place))
        )
        self._changed = Condition()
        self._waiting: deque[tuple[RunStep, list[TrackedRun]]] = deque()
        # the step that is being committed
        self._asked: int | None = None
        self._ends = self._is_over = False
        self._helper: _Helper | None = None
        self._committed: dict[int, str] = {}
        self._created: list[int] = []
        self._skipped: list[int] = []
        self._failed: dict[int, str] = {}
        self._thread = Thread(target=self._work, daemon=True, name="share_registry.training")
        self._thread.start()
        # a training that ends by an error: what was handed over is committed all the same
        atexit.register(self.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _: type[BaseException] | None,
        __: BaseException | None,
        ___: TracebackType | None,
    ) -> None:
        self.close()

    def commit(
        self,
        model: Any,
        *,
        step: int,
        metrics: Mapping[str, float] | None = None,
        labels: Mapping[str, str] | None = None,
        message: str = "",
    ) -> bool:
        """Hand over the adapter of a model as it is now; return whether it could be copied.

        Args:
            model: A live model as `Registry.commit` takes it, an `Adapter`, or a `copy`.
            step: Number of the step; a run has one version of each.
            metrics: Names with numbers; what is no finite number is left out.
            labels: Names with texts, beside those of the run, of trackers, and `run` and `step`.
            message: Why.
        """
        request = self._guarded(
            step, lambda: self._request(model, step, metrics or {}, labels or {}, message)
        )
        return request is not None and self._hand_over(*request)

    def copy(self, model: Any, *, step: int) -> Adapter | ModelSnapshot | None:
        """Copy the adapter of a model as it is now, for a commit later; None where it cannot be.

        Args:
            model, step: As of `commit`.
        """
        return self._guarded(step, lambda: self._copy(model))

    def close(self) -> RunReport:
        """Wait for what was handed over, and report; a second time at once."""
        atexit.unregister(self.close)
        if self._is_over:
            return self.report()
        with self._changed:
            self._ends = True
            self._changed.notify_all()
        self._thread.join(self.plan.timeout_s)
        if self._thread.is_alive():
            self._give_up()
        self._is_over = True
        report = self.report()
        _LOG.log(logging.WARNING if report.failed or report.skipped else logging.INFO, "%s", report)
        return report

    def report(self) -> RunReport:
        """Return what became of the steps so far."""
        with self._changed:
            return RunReport(
                run=self.run,
                committed=dict(sorted(self._committed.items())),
                created=tuple(self._created),
                skipped=tuple(self._skipped),
                failed=dict(self._failed),
            )

    def _guarded(self, step: int, take: Callable[[], _T]) -> _T | None:
        """Return what is taken of a model at a step; what prevents it is noted."""
        try:
            return take()
        except ShareRegistryError as error:
            self._note_failure(step, error)
        # a training goes on whatever a model of somebody else's does
        except Exception as error:  # noqa: BLE001
            _LOG.exception("unexpected")
            self._note_failure(step, RefusedError(f"{type(error).__name__}: {error}"))
        return None

    def _copy(self, model: Any) -> Adapter | ModelSnapshot:
        """Copy an adapter to the memory of the host."""
        if isinstance(model, Adapter | ModelSnapshot):
            return model
        refuse_shards(model)
        return take_snapshot(model, adapter_name=self.plan.adapter_name, copied=True)

    def _request(
        self,
        model: Any,
        step: int,
        metrics: Mapping[str, float],
        labels: Mapping[str, str],
        message: str,
    ) -> tuple[RunStep, list[TrackedRun]]:
        """Copy an adapter, with what is said of it."""
        source = self._copy(model)
        runs = active_runs()
        said = {
            **{run.label: run.run_id for run in runs},
            "run": self.run,
            "step": str(step),
            **self.plan.labels,
            **labels,
        }
        numbers = {name: value for name, value in metrics.items() if name not in said}
        request = RunStep(
            step=step, source=source, message=message, labels=said, metrics=_finite(numbers)
        )
        return request, runs

    def _hand_over(self, request: RunStep, runs: list[TrackedRun]) -> bool:
        given_up = None
        with self._changed:
            if self._ends:
                error = RefusedError("the run is closed.", hint="Make another Committer.")
            else:
                error = None
                if len(self._waiting) >= self.plan.max_waiting:
                    given_up = self._waiting.popleft()[0].step
                    self._skipped.append(given_up)
                self._waiting.append((request, runs))
                self._changed.notify_all()
        if error is not None:
            self._note_failure(request.step, error)
        if given_up is not None:
            _LOG.warning(
                "step %d is not committed: commits take longer than steps come. Commit fewer of "
                "them, or give max_waiting. %s",
                given_up,
                _LATER,
            )
        return error is None

    def _next(self) -> tuple[RunStep, list[TrackedRun]] | None:
        with self._changed:
            self._asked = None
            self._changed.wait_for(lambda: self._waiting or self._ends)
            if not self._waiting:
                return None
            request, runs = self._waiting.popleft()
            self._asked = request.step
            return request, runs

    def _work(self) -> None:
        """Have steps committed until there are no more; what the thread runs."""
        try:
            self._helper = self._start()
            while (item := self._next()) is not None:
                request, runs = item
                self._settle(request.step, self._helper.ask(request), runs)
        # told of by those who wait: nobody else hears of an error in a thread
        except Exception as error:  # noqa: BLE001
            _LOG.exception("unexpected")
            refused = RefusedError(f"{type(error).__name__}: {error}")
            if self._asked is not None:
                self._note_failure(self._asked, refused)
            while (item := self._next()) is not None:
                self._note_failure(item[0].step, refused)
        finally:
            if self._helper is not None:
                self._helper.close()

    def _settle(
        self, step: int, outcome: StepOutcome | ShareRegistryError, runs: list[TrackedRun]
    ) -> None:
        if isinstance(outcome, ShareRegistryError):
            # of one that was given up it has been said
            if step not in self._failed:
                self._note_failure(step, outcome)
            return
        with self._changed:
            self._failed.pop(step, None)
            self._committed[step] = outcome.ref
            if outcome.created:
                self._created.append(step)
        _LOG.info("step %d is %s%s", step, outcome.ref, "" if outcome.created else " already")
        for remark in outcome.remarks:
            _LOG.warning("%s", remark)
        write_reference(runs, f"share_registry.{outcome.name.rpartition('/')[2]}", outcome.ref)

    def _note_failure(self, step: int, error: ShareRegistryError) -> None:
        with self._changed:
            self._failed[step] = str(error)
        _LOG.error("step %s is not committed: %s %s", step, error, _LATER)

    def _give_up(self) -> None:
        """End a commit that takes longer than anybody waits; a later one finds it whole or not."""
        with self._changed:
            steps = [request.step for request, _ in self._waiting]
            self._waiting.clear()
            asked = self._asked
        for step in steps:
            self._note_failure(step, RefusedError("there was no time left."))
            if asked is not None:
                waited = f"the registry has not answered for {self.plan.timeout_s:g} s"
                self._failed[asked] = f"{waited}: it may be committed or not."
                _LOG.error(
                    "step %d may be committed or not: %s. Ask `log`, or give more timeout_s.",
                    asked,
                    waited,
                )
        if self._helper is not None:
            self._helper.give_up()


class _Helper(Protocol):
    """Who commits."""

    def ask(self, request: RunStep) -> StepOutcome | ShareRegistryError:
        """Commit a step."""
        ...

    def give_up(self) -> None:
        """End what it does, where that can be ended; called in another thread."""
        ...

    def close(self) -> None:
        """Release what it has open."""
        ...


class _ThisThread:
    """The thread itself: for a registry that no other process can open."""

    def __init__(self, committer: StepCommitter) -> None:
        self._committer = committer

    def ask(self, request: RunStep) -> StepOutcome | ShareRegistryError:
        return attempt(self._committer, StepCommitter.commit, (request,))

    def give_up(self) -> None:
        """Do nothing: a thread cannot be ended."""

    def close(self) -> None:
        self._committer.close()


class _OwnProcess:
    """A process, started again once where it ends in the middle of a commit."""

    def __init__(self, plan: RunPlan, place: RegistryPlace | None) -> None:
        self._opening = (plan, place)
        self._given_up = False
        self._process = self._begin()

    def ask(self, request: RunStep) -> StepOutcome | ShareRegistryError:
        ended: object = None
        for _ in range(_TRIES):
            try:
                outcome: StepOutcome | ShareRegistryError
                outcome = self._process.call(attempt, StepCommitter.commit, (request,))
                return outcome
            except ProcessEndedError as error:
                ended = error
                if self._given_up:
                    return RefusedError("there was no time left.", hint="Ask `log` whether it is.")
                self._begin_again()
            # what cannot be sent leaves the pipe in the middle of a request
            except Exception as error:  # noqa: BLE001
                _LOG.exception("unexpected")
                self._begin_again()
                return RefusedError(f"{type(error).__name__}: {error}.")
        return RefusedError(
            f"the process that commits ended ({ended}).", hint="It may need more memory."
        )

    def give_up(self) -> None:
        self._given_up = True
        self._process.close()

    def close(self) -> None:
        with suppress(OSError):
            self._process.close()

    def _begin_again(self) -> None:
        self.close()
        if not self._given_up:
            self._process = self._begin()

    def _begin(self) -> WorkerProcess:
        return WorkerProcess(
            StepCommitter, *self._opening, preload="share_registry.training.step_commits"
        )


def _finite(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return the metrics that a version can have: what a NaN would stop is the whole commit."""
    numbers = {}
    for name, value in metrics.items():
        with suppress(TypeError, ValueError):
            if not isinstance(value, bool | str) and math.isfinite(float(value)):
                numbers[name] = float(value)
    return numbers
