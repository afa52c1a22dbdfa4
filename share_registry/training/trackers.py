"""Runs of MLflow, W&B and trackio that are active in this process.

None of the three is imported: a run can only be active where the package is imported already.
Whatever one of them raises is logged, and the training goes on without its run.
"""

import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

_LOG: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackedRun:
    """One active run.

    Attributes:
        label: The label of a version that names it.
        run_id: Its id.
        write: Writes a text under a name into it; called in another thread. None where the tracker
            has no place for it.
    """

    label: str
    run_id: str
    write: Callable[[str, str], object] | None = None


def active_runs() -> list[TrackedRun]:
    """Return the runs that are active in the calling thread; never an error."""
    modules = {name: sys.modules[name] for name in _TRACKERS if name in sys.modules}
    runs = [_guarded(name, partial(_TRACKERS[name], module)) for name, module in modules.items()]
    return [run for run in runs if run is not None]


def write_reference(runs: list[TrackedRun], name: str, ref: str) -> None:
    """Write the reference of a version into runs; never an error."""
    for run in runs:
        if run.write is not None:
            _guarded(run.label, partial(run.write, name, ref))


def _guarded(name: str, call: Callable[[], Any]) -> Any:
    try:
        return call()
    # a tracker's own errors are of any kind, and no reason to end a training
    except Exception as error:  # noqa: BLE001
        _LOG.warning("%s: no link between its run and the version: %s", name, error)
        return None


def _wandb(module: Any) -> TrackedRun | None:
    run = module.run
    if run is None:
        return None

    def write(name: str, ref: str) -> None:
        run.summary[name] = ref

    return TrackedRun(label="wandb.run", run_id=str(run.id), write=write)


def _mlflow(module: Any) -> TrackedRun | None:
    # of the calling thread: another one asks the client for the run by its id
    run = module.active_run()
    if run is None:
        return None
    run_id = str(run.info.run_id)

    def write(name: str, ref: str) -> None:
        module.MlflowClient().set_tag(run_id, name, ref)

    return TrackedRun(label="mlflow.run_id", run_id=run_id, write=write)


def _trackio(module: Any) -> TrackedRun | None:
    run = module.context_vars.current_run.get()
    return None if run is None else TrackedRun(label="trackio.run", run_id=str(run.id))


_TRACKERS: Final[dict[str, Callable[[Any], TrackedRun | None]]] = {
    "mlflow": _mlflow,
    "trackio": _trackio,
    "wandb": _wandb,
}
