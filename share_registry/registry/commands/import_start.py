"""Start an import with processes of this machine.

They are started first: what they need as much as this process, most of all torch, takes each of
them more than a second to import.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from typing import TYPE_CHECKING, Any, Final

from share_registry.errors import ShareRegistryError
from share_registry.exchange.import_list import collect_sources
from share_registry.outside.processes import can_start, processors
from share_registry.registry.arguments import Progress
from share_registry.registry.commands.import_refits import RefitsBeside
from share_registry.registry.commands.import_request import ImportRequest
from share_registry.registry.commands.interrupts import tells_of_interrupts
from share_registry.registry.commands.workers import ThisProcess, WorkerProcesses
from share_registry.registry.context import Context
from share_registry.values.imports import ImportReport

if TYPE_CHECKING:
    from share_registry.registry.commands.prepare import Prepared

# Adapters from which on another process is worth its start
_FEWEST: Final = 2
_WORK: Final = "share_registry.registry.commands.import_work"


@tells_of_interrupts
def import_sources(
    context: Context,
    sources: Any,
    request: ImportRequest,
    *,
    progress: Progress | None = None,
) -> ImportReport:
    """Import adapters with processes of this machine.

    Args:
        context: The registry.
        sources: A list of what `Registry.import_many` takes.
        request: See there.
        progress: Told how far it is.
    """
    context.require_writable()
    items = collect_sources(sources, request.from_file, context.outside)
    # on the way out, workers end before a refit is waited for
    with (
        closing(RefitsBeside(context, request.options)) as refits,
        _workers(context, request, len(items)) as workers,
    ):
        from share_registry.registry.commands.import_many import Import
        from share_registry.registry.commands.import_work import prepare_one

        def run(
            calls: Callable[[], Sequence[tuple[Any, ...]]],
            publish: "Callable[[Iterable[Prepared | ShareRegistryError]], None]",
        ) -> None:
            results = workers.run(prepare_one, calls())
            if refits.end():
                workers.give_up()
                results = workers.run(prepare_one, calls())
            publish(results)

        return Import(context, items, request, progress, refits).run(workers, run)


def _workers(
    context: Context, request: ImportRequest, items: int
) -> AbstractContextManager[ThisProcess | WorkerProcesses]:
    """Return as many processes as are asked for; none but this one where others gain nothing."""
    count = min(request.workers or processors(), items // _FEWEST)
    if count < 2 or context.place is None or not context.place.is_shared or not can_start():
        return nullcontext(ThisProcess(context))
    if not all(check.is_portable for check in context.checks.values()):
        return nullcontext(ThisProcess(context))
    return WorkerProcesses(
        context.place,
        count,
        device=context.device_name,
        preload=_WORK,
        checks=context.checks,
    )
