"""A store with many tasks, made cheaply from the library's own parts.

Adapters that are mixtures of the rows of a few that were committed.

A task made here is what a commit leaves behind where earlier rows say all of it: coefficients over
their blocks, an entry in a record, a note. It checks out, exports and verifies like any other; only
the search for the coefficients is left out.
"""

from typing import Final

import numpy as np

import share_registry as sr
from share_registry.catalog.queries import version_lookups
from share_registry.exchange.export_files import digest_of_file
from share_registry.format.adapter_object import encode
from share_registry.format.canonical import sha256
from share_registry.format.fields import decimal
from share_registry.format.notes import Note, TaskNote
from share_registry.format.records import AbsorbedTask, AbsorbRecord
from share_registry.names import Digest, SpaceName, TaskName, Version
from share_registry.registry.checkout.checkout import read_task_note, rebuild
from share_registry.registry.commands.coding import SerializedAdapter, decode
from share_registry.registry.commands.publish import Place, publish
from share_registry.stored import StoredAdapter, StoredModule, StoredSide, Term
from share_registry.values.task_version import TaskVersion

AT_ONCE: Final = 50
"""Tasks of one record."""
_PEAK: Final = 100


def mix(registry: sr.Registry, space: str, *, count: int, sources: int = 2, seed: int = 0) -> None:
    """Add tasks `mix1`, `mix2`, ... that mix the rows of the first tasks of a space.

    Each record adds several of them.
    """
    rng = np.random.default_rng(seed)
    with registry.context.reading() as session:
        rows = sorted(
            version_lookups.latest_versions(session, SpaceName(space)), key=lambda row: row.number
        )[:sources]
    for start in range(0, count, AT_ONCE):
        _publish(
            registry,
            SpaceName(space),
            [f"mix{number + 1}" for number in range(start, min(count, start + AT_ONCE))],
            rows,
            rng,
        )


def _publish(
    registry: sr.Registry,
    space: SpaceName,
    names: list[str],
    rows: list[TaskVersion],
    rng: np.random.Generator,
) -> None:
    context = registry.context
    task_note = read_task_note(context, rows[0])
    model = rebuild(context, rows[0], task_note)
    tasks = []
    for name in names:
        stored = _mixture(registry, rows, rng)
        content = encode(stored, model.layout)
        digest = sha256(content)
        serialized = SerializedAdapter(
            digest=digest, objects={digest: content}, is_coded=True, sources=stored.sources
        )
        _, decoded = decode(context.reader(), serialized, model)
        added = len(content) if context.store.put(content, digest) else 0
        norm = float(
            sum(
                pair.scale**2 * (pair.a @ pair.a.mT * (pair.b @ pair.b.mT)).sum()
                for pair in decoded.factor_pairs()
            )
            ** 0.5
        )
        tasks.append(
            AbsorbedTask(
                task=TaskName(name),
                version=Version(1),
                adapter=digest,
                layout=stored.layout,
                tensors=digest_of_file(model.layout, decoded.tensors),
                source=Digest(sha256(name.encode())),
                budget=decimal(0.025),
                error=decimal(0.0),
                norm=decimal(norm),
                raw_bytes=rows[0].raw_bytes,
                added_bytes=added,
                derived_from=[],
            )
        )
    note = Note(
        tasks=[
            TaskNote(task=TaskName(name), source=task_note.source, config=task_note.config)
            for name in sorted(names)
        ]
    )

    def build(_: object, place: Place) -> AbsorbRecord:
        return AbsorbRecord.model_validate(
            place | {"tasks": sorted(tasks, key=lambda task: task.task), "basis": None}
        )

    publish(context, space, build, note=note, layouts={rows[0].layout_digest: model.layout})


def _mixture(
    registry: sr.Registry, rows: list[TaskVersion], rng: np.random.Generator
) -> StoredAdapter:
    """Return an adapter whose every factor is a mixture of the own rows of others."""
    opened = [registry.context.reader().open(row.adapter_digest) for row in rows]
    modules = []
    for position, first in enumerate(opened[0].stored.modules):
        assert first is not None
        sources = [
            module for adapter in opened if (module := adapter.stored.modules[position]) is not None
        ]
        modules.append(
            StoredModule(
                a=_side([module.a for module in sources], rng),
                b=_side([module.b for module in sources], rng),
                error=0.0,
            )
        )
    return StoredAdapter(
        layout=opened[0].stored.layout,
        previous=None,
        sources=tuple(row.adapter_digest for row in rows),
        modules=tuple(modules),
        verbatim={},
        external={},
    )


def _side(sources: list[StoredSide], rng: np.random.Generator) -> StoredSide:
    rank = len(sources[0].own)
    terms = [
        Term(
            source=number,
            exponent=0,
            coefficients=rng.integers(-_PEAK, _PEAK + 1, (rank, len(source.own)), dtype=np.int32),
        )
        for number, source in enumerate(sources)
    ]
    scales = np.full(rank, 2.0**-17, np.float32)
    return StoredSide(
        previous=False, terms=tuple(terms), scales=scales, own=np.zeros_like(sources[0].own)
    )
