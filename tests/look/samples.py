"""Values to draw, and texts that would do harm if a drawing let them."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

from share_registry.names import CommitNumber, Digest, SpaceName, TaskName, Version
from share_registry.values.analyses import (
    Retention,
    RetentionCell,
    RetentionCommit,
    RetentionRow,
    Spectrum,
)
from share_registry.values.commits import Commit, Log
from share_registry.values.cost_reports import AdapterReport, ModuleReport
from share_registry.values.tasks import Lineage, LineageEdge, LineageNode, Task

EVIL: Final = '<script>alert("x")</script>\'&\u202eevil\x1b]8;;'
ID: Final = Digest("0" * 64)
START: Final = datetime(2026, 11, 16, 20, 38, 5, tzinfo=UTC)


def time_of(number: int) -> datetime:
    return START + timedelta(hours=9 * number)


def task_version(
    version: int, *, error: float = 0.02, budget: float | None = 0.025, name: str = "cola"
) -> Task:
    return Task(
        name=TaskName(name),
        space=SpaceName("minilm"),
        ref=f"minilm/{name}@v{version}",
        version=Version(version),
        number=CommitNumber(version + 1),
        time=time_of(version),
        error=error,
        budget=budget,
        raw_bytes=298_000,
        bytes_added=50_000 - 1_000 * version,
        labels={EVIL: EVIL},
        metrics={},
        aliases={},
    )


def commit(
    number: int,
    kind: str,
    *,
    version: int | None = None,
    detail: str = "",
    task: str = "cola",
    said: str = EVIL,
) -> Commit:
    """A commit of one task, as `log(task=...)` returns it."""
    return Commit(
        number=CommitNumber(number),
        id=ID,
        parent=ID,
        kind=kind,
        space=SpaceName("minilm"),
        time=time_of(number),
        key="k",
        author=said,
        message=said,
        refs={task: f"minilm/{task}@v{version}"} if version else {},
        versions={task: Version(version)} if version else {},
        detail=detail,
        about=TaskName(task),
    )


def history(task: str = "cola") -> Log:
    """Two versions, an alias that moves and goes, a drop, a restore."""
    commits = (
        commit(2, "absorb", version=1, task=task),
        commit(3, "alias", version=1, detail=f"{task}@prod is v1", task=task),
        commit(4, "refit", version=2, detail="basis 0, 1 task re-expressed", task=task),
        commit(5, "alias", version=2, detail=f"{task}@prod is v2", task=task),
        commit(6, "alias", detail=f"{task}@prod is removed", task=task),
        commit(7, "drop", detail=f"dropped {task}", task=task),
        commit(8, "restore", version=3, detail=f"{task}@v3 repeats v1", task=task),
    )
    return Log(commits=commits[::-1])


def lineage(start: str, edges: Sequence[tuple[str, str, str]], *, said: str = EVIL) -> Lineage:
    """A lineage of edges (version, version that it came from, how), in a space of its own."""
    refs = dict.fromkeys([start, *(ref for edge in edges for ref in edge[:2])])
    nodes = tuple(
        LineageNode(
            ref=f"s/{ref}",
            number=CommitNumber(number),
            id=ID,
            kind="absorb",
            time=time_of(number),
            author=said,
            message=said,
            source=said,
            error=0.02,
            via="",
            depth=0,
            removed=CommitNumber(9) if "gone" in ref else None,
        )
        for number, ref in enumerate(refs, 1)
    )
    return Lineage(
        ref=f"s/{start}",
        base_model=said,
        base_revision=None,
        nodes=nodes,
        edges=tuple(
            LineageEdge(ref=f"s/{ref}", parent=f"s/{of}", via=via) for ref, of, via in edges
        ),
    )


def report(modules: Mapping[str, float]) -> AdapterReport:
    """A report of modules with these errors."""
    return AdapterReport(
        error=0.02,
        budget=0.025,
        bytes_added=1000,
        raw_bytes=9000,
        modules=tuple(
            ModuleReport(
                module=module,
                side=side,
                reference="none",
                rank=8,
                bits_per_parameter=bits,
                error=error,
                bytes=int(1000 * bits),
            )
            for module, error in modules.items()
            for side, bits in (("a", 2.0), ("b", 4.0))
        ),
    )


def retention(tasks: int, *, metric: str | None = None, name: str = "task") -> Retention:
    """A matrix in which a commit makes each task, and errors grow as bounds from the third on."""
    commits = tuple(
        RetentionCommit(number=CommitNumber(2 + n), id=ID, kind="refit", time=time_of(n))
        for n in range(tasks)
    )
    rows = tuple(
        RetentionRow(
            task=TaskName(f"{name}-{task}"),
            cells=tuple(_cell(column - task, metric) for column in range(tasks)),
            first=0.1,
            last=0.3,
            worst=0.3,
            transfer=0.2,
            metric_transfer=None,
        )
        for task in range(tasks)
    )
    return Retention(
        space=SpaceName("tiny"),
        metric=metric,
        commits=commits,
        rows=rows,
        mean=0.2,
        worst=0.3,
        transfer=0.2,
        metric_transfer=None,
    )


def _cell(age: int, metric: str | None) -> RetentionCell | None:
    if age < 0:
        return None
    return RetentionCell(
        ref="tiny/t@v1",
        version=Version(1),
        error=0.1 + 0.02 * age,
        bound=age > 2,
        made=age == 0,
        metric=None if metric is None else 0.9,
    )


def spectrum(module: str, *, side: str = "a", k90: int = 5) -> Spectrum:
    return Spectrum(
        module=module,
        side=side,
        width=384,
        rows=16,
        adapters=2,
        explained=((1, 0.4), (4, 0.8), (16, 1.0)),
        effective_rank=6.5,
        k50=2,
        k80=4,
        k90=k90,
        k99=15,
        alone90=4.0,
    )


NOT_LOOKS: Final = {
    *(
        "bits",
        "changes",
        "directions",
        "errors",
        "lineage",
        "retention",
        "sparkline",
        "spectra",
        "timeline",
    ),
}
