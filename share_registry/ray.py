"""Import adapters with the machines of a Ray cluster.

`import_adapters(registry, "adapters/")` is `Registry.import_many` as pipelines of Ray Data. Of each
wave every adapter is a block of its own; `map_batches` prepares it in a task that opens the
registry, and a sink hands what all tasks returned to the process that imports, which publishes it.
Scheduling, moving and starting again are Ray's: a task whose worker dies runs again elsewhere.
Needs ray 2.51 or newer.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, TypeVar

from share_registry import kinds
from share_registry.errors import RefusedError, ShareRegistryError, StoreError, ensure
from share_registry.exchange.import_list import collect_sources
from share_registry.exchange.places import at_path, is_directory
from share_registry.outside.files import Outside
from share_registry.registry.admission import NamedCheck
from share_registry.registry.arguments import (
    CommitOptions,
    Progress,
    Ref,
    checks_arguments,
    references,
)
from share_registry.registry.commands.import_many import Import
from share_registry.registry.commands.import_refits import RefitsBeside
from share_registry.registry.commands.import_request import ImportRequest
from share_registry.registry.commands.import_work import prepare_one
from share_registry.registry.commands.workers import attempt
from share_registry.registry.context import Context
from share_registry.registry.location import Location, absolute_place
from share_registry.registry.opening import reopen
from share_registry.registry.registry import Registry
from share_registry.values.imports import ImportReport, ImportSource

try:
    import pyarrow
    import ray
    from ray import cloudpickle
    from ray.data import Datasink, TaskPoolStrategy, from_arrow
    from ray.exceptions import RayError
except ImportError as error:
    raise RefusedError(
        "ray 2.51 or newer with Ray Data is not installed, expected it for imports with Ray.",
        hint="pip install -U 'share-registry[ray]'",
    ) from error

if TYPE_CHECKING:
    from share_registry.exchange.adapter import Adapter
    from share_registry.registry.commands.prepare import Prepared

__all__ = ["import_adapters"]

_T = TypeVar("_T")
# Ray starts a task again without end, also one that takes more memory than there is
_TRIES: Final = 3
_GPU: Final = "cuda"
_NUMBER: Final = "number"
_CALL: Final = "call"
_RESULT: Final = "result"


@kinds.takes(registry=kinds.of(Registry, "a Registry", "Open it with Registry.open(...)."))
@checks_arguments
def import_adapters(
    registry: Registry,
    sources: "str | os.PathLike[str] | Iterable[ImportSource | Adapter | Any]" = (),
    *,
    from_file: str | os.PathLike[str] | None = None,
    space: str | None = None,
    budget: float | None = None,
    message: str = "",
    author: str | None = None,
    labels: Mapping[str, str] | None = None,
    metrics: Mapping[str, float] | None = None,
    derived_from: Ref | Sequence[Ref] = (),
    keep_original: bool | None = None,
    format: str | None = None,
    allow_base_mismatch: bool = False,
    workers: int | None = None,
    on_error: str = "skip",
    dry_run: bool = False,
    progress: "Progress | None" = None,
) -> ImportReport:
    """Commit many adapters with the machines of a Ray cluster.

    The result is that of `Registry.import_many`, whose arguments it takes. Ray is used as it is
    initialised; where it is not, it is started as `ray.init()` does. Every machine must have this
    package and see the adapters and the registry's store under the same paths; with several of them
    the catalog belongs in PostgreSQL.

    Args:
        registry: Where they go; it can be opened by other processes.
        sources, from_file, space, budget, message, author, labels, metrics, derived_from,
            keep_original, format, allow_base_mismatch, on_error, dry_run, progress: As in
            `Registry.import_many`.
        workers: Adapters that are prepared at a time, each on one processor, or GPU where the
            registry computes on one; as many as the cluster has where None.

    Raises:
        InvalidInputError, NotFoundError: there is nothing to import.
        RefusedError: the registry is in the memory of this process, or Ray fails.
        StoreError, CatalogError: what all adapters need fails; run it again to go on.
    """
    context = registry.context
    context.require_writable()
    request = ImportRequest(
        options=CommitOptions(
            budget=budget,
            message=message,
            author=author,
            labels=labels or {},
            metrics=metrics or {},
            derived_from=references(derived_from),
            keep_original=keep_original,
            format=format,
            allow_base_mismatch=allow_base_mismatch,
        ),
        space=space if space is not None else registry.scope,
        from_file=from_file,
        workers=workers,
        on_error=on_error,
        dry_run=dry_run,
    )
    place = _place_of(context)
    items = collect_sources(sources, from_file, context.outside)
    try:
        tasks = RayTasks(
            place,
            workers,
            device=context.device_name,
            outside=context.outside,
            checks=context.checks,
        )
        with closing(RefitsBeside(context, request.options)) as refits:

            def run_wave(
                calls: Callable[[], Sequence[tuple[Any, ...]]],
                publish: "Callable[[Iterable[Prepared | ShareRegistryError]], None]",
            ) -> None:
                refits.end()
                tasks.run_wave(calls(), publish)

            return Import(context, items, request, progress, refits).run(tasks, run_wave)
    except RayError as error:
        raise RefusedError(
            f"Ray ended the import: {_last_line(error)}",
            hint="Run the import again: it goes on where it was. A machine needs this package, and "
            "a `runtime_env` of `ray.init` can bring it.",
        ) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class _Unopened:
    """What a task returns that could not open the registry."""

    error: ShareRegistryError
    machine: str


class RayTasks:
    """The workers of an import: tasks of Ray, each of which opens the registry for one adapter."""

    def __init__(
        self,
        place: Location,
        workers: int | None,
        *,
        device: str,
        outside: Outside,
        checks: Mapping[str, NamedCheck] = MappingProxyType({}),
    ) -> None:
        if not ray.is_initialized():
            ray.init()
        # a task sees its own GPU alone
        self._device = _GPU if device.startswith(_GPU) else device
        self._resources = {"num_gpus" if self._device == _GPU else "num_cpus": 1}
        self.count = workers or _available("GPU" if self._device == _GPU else "CPU")
        self._place = place
        self._outside = outside
        self._checks = dict(checks)
        self._calls = 0
        self._starts = _count_starts()

    def run(
        self, function: Callable[..., _T], calls: Sequence[tuple[Any, ...]]
    ) -> "Iterator[_T | ShareRegistryError]":
        """Yield what `function(context, *call)` returns for every call, in order."""
        if not calls:
            return
        returned: dict[int, Any] = {}
        expected = self._calls
        for row in self._returned(function, calls).iter_rows():
            returned[row[_NUMBER]] = _result(row[_RESULT])
            # Ray gives them as they come
            while expected in returned:
                yield returned.pop(expected)
                expected += 1

    def run_wave(
        self,
        calls: Sequence[tuple[Any, ...]],
        publish: "Callable[[Iterable[Prepared | ShareRegistryError]], None]",
    ) -> None:
        """Prepare a wave, and publish it when all of it is there."""
        self._returned(prepare_one, calls).write_datasink(PublishSink(publish))

    def _returned(self, function: Callable[..., Any], calls: Sequence[tuple[Any, ...]]) -> Any:
        """Return the data set of what a function returns, one block and so one task a call."""
        tables = [
            _table(number, _CALL, (function, [self._from_anywhere(each) for each in arguments]))
            for number, arguments in enumerate(calls, start=self._calls)
        ]
        self._calls += len(calls)
        pipeline = from_arrow(tables).map_batches(
            _work,
            batch_format="pyarrow",
            compute=TaskPoolStrategy(size=min(self.count, len(calls))),
            fn_args=(self._place, self._device, self._checks, self._starts),
            **self._resources,
        )
        # a block that fails must not be left out, whatever the caller has set
        pipeline.context.max_errored_blocks = 0
        return pipeline

    def _from_anywhere(self, argument: Any) -> Any:
        """Return an argument, the path of an adapter as it is in any directory."""
        if not isinstance(argument, ImportSource) or not is_directory(argument.adapter):
            return argument
        path = os.fspath(self._outside.absolute(Path(argument.adapter)))
        return replace(argument, adapter=at_path(argument.adapter, path))


class PublishSink(Datasink):  # type: ignore[misc]
    """Where a wave ends: it takes what the tasks returned, and publishes it all at once."""

    def __init__(
        self, publish: "Callable[[Iterable[Prepared | ShareRegistryError]], None]"
    ) -> None:
        self._publish = publish

    def __reduce__(self) -> tuple[object, ...]:
        # tasks get a copy that only passes results on
        return (PublishSink, (_refuse_to_publish,))

    def write(self, blocks: Iterable[Any], ctx: object) -> list[tuple[int, bytes]]:
        """Return the results of some blocks with their numbers; called in a task."""
        return [(row[_NUMBER], row[_RESULT]) for block in blocks for row in block.to_pylist()]

    def on_write_complete(self, write_result: Any) -> None:
        """Publish all results, in the order of the calls; called in the process that imports."""
        numbered = [pair for pairs in write_result.write_returns for pair in pairs]
        # Ray gives them as they come
        self._publish([_result(result) for _, result in sorted(numbered)])


def _count_starts() -> Any:
    """Return an actor that counts how often each call was begun.

    Of a worker that dies nothing else is heard. It takes no processor from others, and is there
    again where its machine goes.
    """

    # a class of a function travels by value: its process need not load this package
    class StartCounts:
        def __init__(self) -> None:
            self._counts: dict[int, int] = {}

        def begin(self, number: int) -> int:
            self._counts[number] = self._counts.get(number, 0) + 1
            return self._counts[number]

    return ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(StartCounts).remote()


def _work(table: Any, place: Location, device: str, checks: Any, starts: Any) -> Any:
    """Answer the call in a table of one row; runs in a task."""
    (row,) = table.to_pylist()
    number = row[_NUMBER]
    if ray.get(starts.begin.remote(number)) > _TRIES:
        refused = RefusedError(
            f"the process that prepared it ended {_TRIES} times.",
            hint="It may need more memory than there is: give fewer workers, or commit it alone.",
        )
        return _table(number, _RESULT, refused)
    try:
        context = reopen(place, device, checks)
    except ShareRegistryError as error:
        machine = ray.util.get_node_ip_address()
        return _table(number, _RESULT, _Unopened(error=error, machine=machine))
    try:
        function, arguments = cloudpickle.loads(row[_CALL])
        return _table(number, _RESULT, attempt(context, function, arguments))
    finally:
        context.close()


def _table(number: int, column: str, value: object) -> Any:
    """Return a table of one row: a number, and a value as bytes, which Arrow knows how to hold."""
    content = pyarrow.array([cloudpickle.dumps(value)], pyarrow.large_binary())
    return pyarrow.table({_NUMBER: [number], column: content})


def _result(content: bytes) -> Any:
    """Return what a task returned. Raises StoreError where it could not open the registry."""
    result = cloudpickle.loads(content)
    if isinstance(result, _Unopened):
        raise StoreError(
            f"the machine {result.machine} cannot open the registry: {result.error.message}",
            hint="Every machine must see the store under the same path, and reach the catalog. "
            + result.error.hint,
        ) from result.error
    return result


def _refuse_to_publish(_: object) -> None:
    raise RefusedError("only the process that imports publishes.")


def _place_of(context: Context) -> Location:
    """Return where other processes open a registry. Raises RefusedError."""
    ensure(
        context.place is not None and context.place.is_shared,
        RefusedError(
            "the store or the catalog of the registry is in the memory of this process: the "
            "workers of Ray cannot open it.",
            hint="Open a directory, or a catalog URL with store=; or call registry.import_many.",
        ),
    )
    assert context.place is not None
    return absolute_place(context.place, context.outside)


def _last_line(error: RayError) -> str:
    """Return what is wrong, behind the frames of both processes."""
    return str(error).strip().rpartition("\n")[2]


def _available(resource: str) -> int:
    """Return how many processors, or GPUs, the cluster has."""
    return max(1, int(ray.cluster_resources().get(resource, 0)))
