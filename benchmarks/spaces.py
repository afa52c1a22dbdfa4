"""Registries with many tasks of a real model's shape, made without adapters.

The objects are written by the format's own encoders and published as commits.

Absorbing 64 adapters of a 7B model takes hours, and what materializing costs depends on shapes and
integers alone. So rows, coefficients and own rows are random integers of the sizes that commits
make (coefficients and rows of 12 bits, own rows of 6). The digest of the decoded tensors that a
commit records is left to be that of the adapter object: nothing here reads it.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.orm import Session

import share_registry as sr
from share_registry.format import adapter_object, basis_object
from share_registry.format.canonical import sha256
from share_registry.format.layout import DType, FactorSpec, Form, Layout, TensorSpec
from share_registry.format.notes import Note, TaskNote
from share_registry.format.records import AbsorbedTask, AbsorbRecord
from share_registry.names import Digest, SpaceName, Version
from share_registry.registry.commands.publish import Place, publish
from share_registry.registry.context import Context
from share_registry.stored import StoredAdapter, StoredBasis, StoredModule, StoredSide, Term

SPACE: Final = SpaceName("bench")
_PREFIX: Final = "base_model.model."
_ROW_BITS: Final = 12
_OWN_BITS: Final = 6
_TOGETHER: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The adapted modules of a model: of each of `layers` layers, name -> (in, out)."""

    name: str
    layers: int
    modules: Mapping[str, tuple[int, int]]

    @property
    def numbers(self) -> int:
        """Numbers of an adapter of rank 1."""
        return self.layers * sum(width + out for width, out in self.modules.values())


SHAPES: Final = {
    shape.name: shape
    for shape in (
        Shape(
            name="minilm",
            layers=6,
            modules={"attention.self.query": (384, 384), "attention.self.value": (384, 384)},
        ),
        Shape(
            name="roberta",
            layers=12,
            modules={"attention.self.query": (768, 768), "attention.self.value": (768, 768)},
        ),
        Shape(
            name="mistral-qv",
            layers=32,
            modules={"self_attn.q_proj": (4096, 4096), "self_attn.v_proj": (4096, 1024)},
        ),
        Shape(
            name="mistral-all",
            layers=32,
            modules={
                "mlp.down_proj": (14336, 4096),
                "mlp.gate_proj": (4096, 14336),
                "mlp.up_proj": (4096, 14336),
                "self_attn.k_proj": (4096, 1024),
                "self_attn.o_proj": (4096, 4096),
                "self_attn.q_proj": (4096, 4096),
                "self_attn.v_proj": (4096, 1024),
            },
        ),
    )
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """How tasks are stored: over a basis of k rows a module and side (0.

    None), with own rows or none, and how many versions each builds upon.
    """

    rank: int
    k: int
    own: bool
    before: int = 0


def build(root: Path, shape: Shape, kind: Kind, tasks: int, *, seed: int = 0) -> list[str]:
    """Make a registry with so many tasks; return their references."""
    rng = np.random.default_rng(seed)
    layout = _layout(shape, kind.rank)
    with sr.Registry.open(root) as registry:
        registry.create_space(SPACE)
        context = registry.context
        context.store.put(layout.to_bytes(), sha256(layout.to_bytes()))
        basis = _put(context, basis_object.encode(_basis(rng, layout, kind.k))) if kind.k else None
        earlier: dict[str, Digest] = {}
        for version in range(1, kind.before + 2):
            for begin in range(0, tasks, _TOGETHER):
                names = [
                    f"task{number:04}" for number in range(begin, min(tasks, begin + _TOGETHER))
                ]
                adapters = {
                    name: _put(
                        context,
                        adapter_object.encode(
                            _adapter(rng, layout, kind, basis, earlier.get(name)), layout
                        ),
                    )
                    for name in names
                }
                _commit(context, layout, adapters, version)
                earlier |= adapters
    return [f"task{number:04}" for number in range(tasks)]


def flops(shape: Shape, kind: Kind) -> float:
    """Return the operations of one task.

    Two for each product of a coefficient and an element of a row.
    """
    return 2.0 * kind.rank * kind.k * shape.numbers


def numbers(shape: Shape, kind: Kind, tasks: int) -> int:
    """Return how many elements and coefficients so many tasks have, earlier versions included."""
    coefficients = 2 * shape.layers * len(shape.modules) * kind.rank * kind.k
    own = kind.rank * shape.numbers if kind.own else 0
    return kind.k * shape.numbers + tasks * (kind.before + 1) * (coefficients + own)


def _layout(shape: Shape, rank: int) -> Layout:
    tensors, factors = [], []
    for layer in range(shape.layers):
        for name, (width, out) in shape.modules.items():
            module = f"model.layers.{layer:02}.{name}"
            key = f"{_PREFIX}{module}"
            tensors += [
                TensorSpec(key=f"{key}.lora_A.weight", dtype=DType.F32, shape=[rank, width]),
                TensorSpec(key=f"{key}.lora_B.weight", dtype=DType.F32, shape=[out, rank]),
            ]
            factors.append(
                FactorSpec(module=module, form=Form.LINEAR, a=len(tensors) - 2, b=len(tensors) - 1)
            )
    return Layout(
        metadata=[], tensors=tensors, factors=sorted(factors, key=lambda factor: factor.module)
    )


def _basis(rng: np.random.Generator, layout: Layout, k: int) -> StoredBasis:
    return StoredBasis(
        modules={
            shape.module: (_ints(rng, k, shape.in_, _ROW_BITS), _ints(rng, k, shape.out, _ROW_BITS))
            for shape in layout.modules()
        }
    )


def _adapter(
    rng: np.random.Generator,
    layout: Layout,
    kind: Kind,
    basis: Digest | None,
    previous: Digest | None,
) -> StoredAdapter:
    def side(width: int) -> StoredSide:
        terms = (
            (
                Term(
                    source=0,
                    exponent=-_ROW_BITS,
                    coefficients=_ints(rng, kind.rank, kind.k, _ROW_BITS),
                ),
            )
            if basis is not None
            else ()
        )
        own = (
            _ints(rng, kind.rank, width, _OWN_BITS)
            if kind.own
            else np.zeros((kind.rank, width), np.int32)
        )
        return StoredSide(
            previous=previous is not None,
            terms=terms,
            scales=np.full(kind.rank, 2.0**-12, np.float32),
            own=own,
        )

    return StoredAdapter(
        layout=sha256(layout.to_bytes()),
        previous=previous,
        sources=() if basis is None else (basis,),
        modules=tuple(
            StoredModule(a=side(shape.in_), b=side(shape.out), error=0.0)
            for shape in layout.modules()
        ),
        verbatim={},
        external={},
    )


def _ints(rng: np.random.Generator, rows: int, width: int, bits: int) -> "NDArray[np.int32]":
    ints: NDArray[np.int32] = np.clip(
        np.rint(rng.standard_normal((rows, width), np.float32) * 2.0 ** (bits - 2)),
        -(2**bits) + 1,
        2**bits - 1,
    ).astype(np.int32)
    return ints


def _put(context: Context, content: bytes) -> Digest:
    digest = sha256(content)
    context.store.put(content, digest)
    return digest


def _commit(context: Context, layout: Layout, adapters: Mapping[str, Digest], version: int) -> None:
    config = _put(context, _config(layout))
    digest = sha256(layout.to_bytes())

    def build(session: Session, place: Place) -> AbsorbRecord:
        return AbsorbRecord.model_validate(
            place | {"tasks": _entries(layout, digest, adapters, version)}
        )

    note = Note(tasks=[TaskNote(task=name, config=config) for name in adapters])
    publish(context, SPACE, build, note=note, layouts={digest: layout})


def _entries(
    layout: Layout, digest: Digest, adapters: Mapping[str, Digest], version: int
) -> Sequence[AbsorbedTask]:
    raw = sum(spec.size_bytes for spec in layout.tensors)
    return [
        AbsorbedTask(
            task=name,
            version=Version(version),
            adapter=adapter,
            layout=digest,
            tensors=adapter,
            source=adapter,
            budget="0.05",
            error="0.05",
            norm="1",
            raw_bytes=raw,
            added_bytes=1,
        )
        for name, adapter in adapters.items()
    ]


def _config(layout: Layout) -> bytes:
    targets = sorted({factor.module.rpartition(".")[2] for factor in layout.factors})
    rank = layout.modules()[0].rank
    config = {
        "peft_type": "LORA",
        "base_model_name_or_path": "bench",
        "r": rank,
        "lora_alpha": 2 * rank,
        "target_modules": targets,
        "bias": "none",
    }
    return json.dumps(config).encode()
