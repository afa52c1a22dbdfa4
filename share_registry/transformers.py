"""Commit versions from the Trainer of transformers, and from those of TRL.

`Trainer(..., callbacks=[CommitCallback("./registry", task="cola")])` makes a version of every
checkpoint, or of every evaluation. It is a thin layer over `share_registry.training.Committer`,
which says what happens beside the training.
"""

from typing import Any, Final

from typing_extensions import Unpack

from share_registry.errors import InvalidInputError, RefusedError, ensure
from share_registry.exchange.adapter import Adapter
from share_registry.exchange.peft_model import ModelSnapshot
from share_registry.kinds import FilePath, shown
from share_registry.outside.files import Outside
from share_registry.registry.registry import Registry
from share_registry.training.committer import Committer, RunOptions, RunReport
from share_registry.training.run_plan import RegistryPlace, RunPlan

try:
    from transformers import TrainerCallback
except ImportError as error:
    raise RefusedError(
        "transformers 4.45 or newer is not installed, expected it for a Trainer's callback.",
        hint="pip install -U 'share-registry[transformers]'",
    ) from error

__all__ = ["CommitCallback"]

_MOMENTS: Final = ("save", "evaluate")
# By what the run is called in the state that a checkpoint keeps
_STATE: Final = "share_registry"


class CommitCallback(TrainerCallback):  # type: ignore[misc]
    """Makes versions of the adapter that a Trainer trains; see `Committer`.

    The id of the run is kept in the checkpoints: a training that goes on from one passes the steps
    behind it without committing them twice. Only the main process commits. Parameters that are
    sharded (FSDP, DeepSpeed ZeRO 3) are refused by a message in the log.

    Args:
        registry: An open registry, or where it is.
        task: Task name, or `space/task`.
        on: "save": a version of each checkpoint, with the metrics of an evaluation at the same
            step; "evaluate": one of each evaluation.
        options: As of `Committer`. `metric` is the Trainer's own `metric_for_best_model` unless
            told, else eval_loss.

    Attributes:
        report: What became of the steps, once the training has ended.

    Raises:
        InvalidInputError, RefusedError: an argument cannot be used.
    """

    def __init__(
        self,
        registry: Registry | FilePath | None = None,
        *,
        task: str,
        on: str = "save",
        **options: Unpack[RunOptions],
    ) -> None:
        ensure(
            on in _MOMENTS,
            InvalidInputError(
                f"on is {shown(on)}, expected 'save' or 'evaluate'.",
                hint="A version is made of each checkpoint, or of each evaluation.",
            ),
        )
        # what cannot be used is said now, not at the first checkpoint
        RunPlan(task=task, **options)
        RegistryPlace.of(registry)
        self._registry = registry
        self._task = task
        self._on = on
        self._options = options
        self._committer: Committer | None = None
        self._evaluated: tuple[int, dict[str, float]] = (-1, {})
        # the adapter as it was evaluated, from then until its version is made
        self._due: Adapter | ModelSnapshot | None = None
        self.report: RunReport | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Begin a run, or go on with that of the checkpoint."""
        if not state.is_world_process_zero:
            return
        if self._committer is not None:
            # of a training that ended by an error
            self._committer.close()
        self._evaluated, self._due = (-1, {}), None
        kept = state.stateful_callbacks.get(_STATE, {}).get("attributes", {})
        run = self._options.get("run") or kept.get(self._task) or Outside().token()
        state.stateful_callbacks[_STATE] = {"args": {}, "attributes": {**kept, self._task: run}}
        options = RunOptions(**self._options)
        options["run"] = run
        if options.get("metric") is None:
            options.update(_judged(args, options))
        self._committer = Committer(self._registry, task=self._task, **options)

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any
    ) -> None:
        """Remember the metrics of a step, and the adapter if its version is to be made.

        Of several evaluation sets one comes after another, at the same step.
        """
        step, before = self._evaluated
        merged = {**(before if step == state.global_step else {}), **(metrics or {})}
        self._evaluated = (state.global_step, merged)
        if self._on == "evaluate" and self._committer is not None and self._due is None:
            self._due = self._committer.copy(kwargs.get("model"), step=state.global_step)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Make a version of an evaluation, once all its sets have been through."""
        if self._due is not None:
            self._commit(state, self._due)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Make a version of a checkpoint."""
        if self._on == "save":
            self._commit(state, kwargs.get("model"))

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Make a version of the last evaluation, wait for the commits, and report."""
        if self._due is not None:
            self._commit(state, self._due)
        if self._committer is not None:
            self.report = self._committer.close()
            self._committer = None

    def _commit(self, state: Any, model: Any) -> None:
        self._due = None
        if self._committer is None:
            return
        step, metrics = self._evaluated
        self._committer.commit(
            model,
            step=state.global_step,
            metrics=metrics if step == state.global_step else {},
            labels={"epoch": f"{state.epoch or 0:.6g}"},
        )


def _judged(args: Any, options: RunOptions) -> RunOptions:
    """Return what the Trainer judges the best model by, where nothing is said of it."""
    metric = args.metric_for_best_model or "loss"
    name = metric if metric.startswith("eval_") else f"eval_{metric}"
    is_greater_better = options.get("greater_is_better")
    if is_greater_better is None:
        is_greater_better = args.greater_is_better
    return RunOptions(metric=name, greater_is_better=is_greater_better)
