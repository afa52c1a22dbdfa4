"""Every kind of record upon a task in every state: what is accepted, and the clause of a refusal.

It is the table of chapter 03, as vectors: a good store of all that is accepted, one more of the
kinds that came with the feature `removals`, and a bad one for each refusal.
"""

from collections.abc import Callable, Collection
from itertools import product
from typing import Any, Final

from spec.good_exports import EXPORT
from spec.tiny import Tiny, linear, pair, spread

STATES: Final = ("absent", "live", "dropped", "renamed")
"""Of the task that a record names; `renamed`: by a name that it had."""
KINDS: Final = (
    "absorb",
    "parent",
    "refit",
    "merge",
    "restore",
    "drop",
    "rename",
    "alias",
    "alias-removed",
    "annotate",
    "export",
)
"""`parent`: a task in `derived_from`."""
REMOVALS: Final = ("expire-newest", "purge")
"""Kinds of the feature `removals`; `expire-newest`: the newest version of the task."""
_EXCEPTIONS: Final[dict[tuple[str, str], str | None]] = {
    ("absorb", "absent"): None,
    ("merge", "absent"): None,
    ("parent", "absent"): "REC-08",
    ("refit", "dropped"): "REC-16",
    ("drop", "dropped"): "REC-11",
    ("expire-newest", "live"): "REC-22",
}
CLAUSES: Final[dict[tuple[str, str], str | None]] = {
    (kind, state): "NAM-02" if state in ("absent", "renamed") else None
    for kind, state in product((*KINDS, *REMOVALS), STATES)
} | _EXCEPTIONS
"""Kind and state -> the clause that refuses it, None where it is accepted."""


def accepted(kinds: Collection[str]) -> dict[str, bytes]:
    """Return a store in which every record of some kinds that is accepted stands, by path."""
    tiny, entry = _begin()
    for (kind, state), clause in CLAUSES.items():
        if kind in kinds and clause is None:
            _prepare(tiny, entry, kind, state)
            _RECORDS[kind](tiny, entry, f"{kind}-{state}", state)
    return tiny.files


def refused() -> dict[str, dict[str, bytes]]:
    """Return a store for every record that is refused, by the name of its vector."""
    stores = {}
    for (kind, state), clause in CLAUSES.items():
        if clause is not None:
            tiny, entry = _begin()
            _prepare(tiny, entry, kind, state)
            _RECORDS[kind](tiny, entry, f"{kind}-{state}", state)
            stores[f"{clause}-{kind}-of-{state}"] = tiny.files
    return stores


def _begin() -> tuple[Tiny, dict[str, Any]]:
    tiny = Tiny()
    entry = tiny.adapter("cola", 1, linear(), [pair("cola")])
    tiny.absorb(entry)
    return tiny, entry


def _prepare(tiny: Tiny, entry: dict[str, Any], kind: str, state: str) -> None:
    task = f"{kind}-{state}"
    if state == "absent":
        return
    tiny.absorb(entry | {"task": task})
    if kind == "alias-removed":
        tiny.record("alias", task=task, alias="prod", version=1)
    if state == "dropped":
        tiny.record("drop", task=task)
    if state == "renamed":
        tiny.record("rename", task=task, name=f"{task}-now")


def _absorb(tiny: Tiny, entry: dict[str, Any], task: str, state: str) -> None:
    tiny.absorb(entry | {"task": task, "version": _next(state)})


def _parent(tiny: Tiny, entry: dict[str, Any], task: str, state: str) -> None:
    tiny.absorb(entry | {"task": f"{task}-child", "derived_from": [{"task": task, "version": 1}]})


def _refit(tiny: Tiny, entry: dict[str, Any], task: str, state: str) -> None:
    tiny.refit(
        tiny.basis({"q": (spread("A", 2, 5, 9), [[1, 2, 3]])}),
        entry | {"task": task, "version": _next(state), "before": entry["error"]},
    )


def _merge(tiny: Tiny, entry: dict[str, Any], task: str, state: str) -> None:
    tiny.absorb(
        entry
        | {
            "task": task,
            "version": _next(state),
            "derived_from": [{"task": "cola", "version": 1}],
        },
        kind="merge",
        method="linear",
        weights=["1"],
    )


def _simply(kind: str, **members: Any) -> Callable[[Tiny, dict[str, Any], str, str], None]:
    def add(tiny: Tiny, entry: dict[str, Any], task: str, state: str) -> None:
        tiny.record(kind, task=task, **members)

    return add


def _expire(tiny: Tiny, entry: dict[str, Any], task: str, state: str) -> None:
    versions = [{"task": task, "version": 1}]
    tiny.record("expire", requires=["removals"], versions=versions)


def _rename(tiny: Tiny, entry: dict[str, Any], task: str, state: str) -> None:
    tiny.record("rename", task=task, name=f"{task}-again")


def _next(state: str) -> int:
    return 1 if state == "absent" else 2


_RECORDS: Final[dict[str, Callable[[Tiny, dict[str, Any], str, str], None]]] = {
    "absorb": _absorb,
    "parent": _parent,
    "refit": _refit,
    "merge": _merge,
    "restore": _simply("restore", version=2, of=1),
    "drop": _simply("drop"),
    "rename": _rename,
    "alias": _simply("alias", alias="prod", version=1),
    "alias-removed": _simply("alias", alias="prod"),
    "annotate": _simply("annotate", version=1),
    "export": _simply("export", **EXPORT, version=1),
    "expire-newest": _expire,
    "purge": _simply("purge", requires=["removals"]),
}
