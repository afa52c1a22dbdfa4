"""The file of a routing index: one safetensors file, which any program can read.

`rows.<module>` (R, in) F16 has the rows of one task after the other, `counts` (modules, tasks) I32
says how many are whose, `expected` (modules, tasks) and `spread` (tasks,), both F64, what scores
are measured by. The metadata entry `share_registry.routing` is JSON: the version of this form, the
tasks, the modules in the order of the tables, and how many examples the figures are of.
"""

import json
import re
from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor

from share_registry.errors import FormatError, IntegrityError, RefusedError, ensure
from share_registry.exchange.tensors import item_of, tensor_of
from share_registry.format.canonical import parse_foreign, require
from share_registry.format.layout import DType
from share_registry.format.safetensors_file import MAX_HEADER_BYTES, Item, read, write
from share_registry.kinds import shown
from share_registry.routing.routing_table import ROWS, RoutingTable
from share_registry.values.routes import RoutedTask

# Of one file: the rows of 10,000 tasks of rank 8 in 36 modules 768 wide
MOST_BYTES: Final = 4 << 30
_ENTRY: Final = "share_registry.routing"
_VERSION: Final = 1
_ROWS: Final = "rows."
_COUNTS: Final = "counts"
_EXPECTED: Final = "expected"
_SPREAD: Final = "spread"
# Rows of float16 have the length 1 up to the rounding of each number
_ROUNDED: Final = 1e-2
_DIGEST: Final = re.compile("[0-9a-f]{64}")
BEGINNING: Final = 64
MAKE_ANEW: Final = "Make it again with Registry.routing_index(...).save(path)."


def write_table(table: RoutingTable) -> bytes:
    """Return the file. Raises RefusedError where it would be larger than `read_table` reads."""
    facts = {
        "version": _VERSION,
        "base_model": table.base_model,
        "tasks": [[task.ref, task.digest] for task in table.tasks],
        "modules": list(table.rows),
        "examples": table.examples,
    }
    items = [
        item_of(_EXPECTED, table.expected),
        item_of(_SPREAD, table.spread),
        item_of(_COUNTS, table.counts.to(torch.int32)),
        *(item_of(f"{_ROWS}{name}", rows.to(ROWS)) for name, rows in table.rows.items()),
    ]
    text = json.dumps(facts, separators=(",", ":"))
    content = write([(_ENTRY, text)], items)
    header = int.from_bytes(content[:8], "little")
    ensure(
        len(content) <= MOST_BYTES and header <= MAX_HEADER_BYTES,
        RefusedError(
            f"the index would be a file of {len(content)} bytes, {header} of them in its header; "
            f"at most {MOST_BYTES} and {MAX_HEADER_BYTES} are read again.",
            hint="Make it of fewer tasks, modules or rows: modules=..., max_rank=...",
        ),
    )
    return content


def begins_index(beginning: bytes) -> bool:
    """Tell whether a file begins as `write_table` writes, by its first `BEGINNING` bytes."""
    return f'{{"__metadata__":{{"{_ENTRY}":'.encode() in beginning


def read_table(content: bytes, *, subject: str) -> RoutingTable:
    """Read the file, and check that every size and number is one that an index can have.

    Raises:
        IntegrityError: it is no routing index, or damaged.
        FormatError: a later release wrote it.
    """
    try:
        file = read(content, subject=subject)
        entries = dict(file.metadata)
        require(
            _ENTRY in entries,
            f"{subject} has no metadata entry {_ENTRY}, so it is no routing index.",
        )
        facts = parse_foreign(
            entries[_ENTRY].encode(errors="replace"),
            subject=f"{_ENTRY} of {subject}",
            limit=MAX_HEADER_BYTES,
        )
        _check_version(facts.get("version"), subject)
        return _table_of(facts, {item.key: item for item in file.tensors}, subject)
    except IntegrityError as error:
        raise error.amended(hint=MAKE_ANEW) from error


def _check_version(version: object, subject: str) -> None:
    is_number = isinstance(version, int) and not isinstance(version, bool) and version >= 1
    require(is_number, f"{subject} has the version {shown(version)}, expected {_VERSION}.")
    if version != _VERSION:
        raise FormatError(
            f"{subject} is a routing index of version {version}, this release reads {_VERSION}.",
            hint="Upgrade share-registry.",
        )


def _table_of(facts: Mapping[str, Any], items: Mapping[str, Item], subject: str) -> RoutingTable:
    tasks = _tasks(facts.get("tasks"), subject)
    modules, base_model = facts.get("modules"), facts.get("base_model")
    examples = facts.get("examples")
    require(
        _are_names(modules) and isinstance(base_model, str) and _is_count(examples),
        f"{subject} does not say its modules, base model and examples.",
    )
    named = {_EXPECTED, _SPREAD, _COUNTS, *(f"{_ROWS}{name}" for name in modules or ())}
    require(
        named == items.keys(),
        f"{subject} has the tensors {shown(sorted(items))}, expected {shown(sorted(named))}.",
    )
    shape = (len(modules or ()), len(tasks))
    counts = _tensor(items[_COUNTS], DType.I32, shape, subject).long()
    expected = _tensor(items[_EXPECTED], DType.F64, shape, subject)
    spread = _tensor(items[_SPREAD], DType.F64, shape[1:], subject)
    require(
        bool((spread > 0).all()) and bool(((expected >= 0) & (expected <= 1)).all()),
        f"{subject} has a spread that is not above 0, or an expected share outside 0 to 1.",
    )
    rows = {
        name: _rows(items[f"{_ROWS}{name}"], count, subject)
        for name, count in zip(modules or (), counts, strict=True)
    }
    return RoutingTable(
        base_model=str(base_model),
        tasks=tasks,
        rows=rows,
        counts=counts,
        expected=expected,
        spread=spread,
        examples=int(examples or 0),
    )


def _tasks(value: object, subject: str) -> tuple[RoutedTask, ...]:
    pairs = value if isinstance(value, list) else []
    are_tasks = all(isinstance(pair, list) and len(pair) == 2 and _is_task(*pair) for pair in pairs)
    require(
        bool(pairs) and are_tasks and len({pair[0] for pair in pairs}) == len(pairs),
        f"{subject} does not list its tasks, each once with a digest.",
    )
    return tuple(RoutedTask(ref=ref, digest=digest) for ref, digest in pairs)


def _is_task(ref: object, digest: object) -> bool:
    return (
        isinstance(ref, str)
        and bool(ref)
        and isinstance(digest, str)
        and bool(_DIGEST.fullmatch(digest))
    )


def _are_names(value: object) -> bool:
    is_list = isinstance(value, list) and all(isinstance(name, str) for name in value)
    return is_list and 0 < len(value) == len({*value})  # type: ignore[arg-type,misc]


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _tensor(item: Item, dtype: DType, shape: tuple[int, ...], subject: str) -> Tensor:
    require(
        (item.dtype, item.shape) == (dtype, shape),
        f"tensor {item.key!r} of {subject} is {item.dtype} {list(item.shape)}, expected {dtype} "
        f"{list(shape)}.",
    )
    tensor = tensor_of(item)
    require(
        bool(tensor.isfinite().all()),
        f"tensor {item.key!r} of {subject} has NaN or infinity.",
    )
    return tensor


def _rows(item: Item, counts: Tensor, subject: str) -> Tensor:
    width = item.shape[-1] if item.shape else 0
    total = int(counts.sum())
    require(
        total > 0 and bool(((counts >= 0) & (counts <= width)).all()),
        f"{subject} counts {total} rows of {item.key!r}, {width} wide, or fewer than 0 of a task.",
    )
    rows = _tensor(item, DType.F16, (total, width), subject).float()
    lengths = torch.linalg.vector_norm(rows, dim=-1)
    require(
        bool(((lengths - 1).abs() <= _ROUNDED).all()),
        f"tensor {item.key!r} of {subject} has rows of another length than 1.",
    )
    return rows
