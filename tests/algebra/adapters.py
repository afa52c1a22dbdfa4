"""Adapters to absorb: random ones, planted ones, the real ones that ship with the project.

And a shelf that keeps what was absorbed.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

import share_registry
from share_registry.algebra.absorb import CodedAdapter, absorb
from share_registry.algebra.decode import decode_side
from share_registry.algebra.error import FactorPair
from share_registry.format.adapter_object import decode, encode
from share_registry.format.canonical import sha256
from share_registry.format.layout import DType, FactorSpec, Form, Layout, TensorSpec
from share_registry.names import Digest, Side
from share_registry.stored import StoredAdapter

DEMO = Path(share_registry.__file__).parent / "demo_data"
DEMO_TASKS = ("wn-noun-abstract", "wn-pos-gloss", "wn-syn-ant", "wn-verb-frame")
DTYPES = {torch.float32: DType.F32, torch.bfloat16: DType.BF16, torch.float16: DType.F16}

Rows = tuple[Tensor, Tensor]


@dataclass(frozen=True, kw_only=True)
class Pair(FactorPair):
    scale: float = 1.0


def random_pairs(
    seed: int,
    *,
    modules: int,
    rank: int,
    width: int,
    height: int,
    scale: float = 1.0,
    dtype: torch.dtype = torch.float32,
) -> list[Pair]:
    """Gaussian factors with a decaying spectrum, holding values of the element type."""
    generator = torch.Generator().manual_seed(seed)
    decay = torch.logspace(0, -1.5, rank, dtype=torch.float64)[:, None]
    pairs = []
    for number in range(modules):
        a = torch.randn(rank, width, generator=generator, dtype=torch.float64) * decay
        b = torch.randn(rank, height, generator=generator, dtype=torch.float64)
        pairs.append(
            Pair(
                module=f"m{number:04d}", a=a.to(dtype).double(), b=b.to(dtype).double(), scale=scale
            )
        )
    return pairs


def planted(
    count: int, *, modules: int, rank: int, width: int, shared: int, noise: float, seed: int = 0
) -> Iterator[list[Pair]]:
    """Adapters whose factors are mixtures of the same rows, plus noise relative to their size."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    bases = [(normal(shared, width), normal(shared, width)) for _ in range(modules)]

    def mixed(base: Tensor) -> Tensor:
        return _noisy(normal(rank, shared) @ base, normal(rank, width), noise)

    for _ in range(count):
        yield [
            Pair(module=f"m{number:04d}", a=mixed(base_a), b=mixed(base_b))
            for number, (base_a, base_b) in enumerate(bases)
        ]


def _noisy(rows: Tensor, error: Tensor, noise: float) -> Tensor:
    return rows + noise * rows.square().mean().sqrt() * error


def demo_pairs(task: str, version: str) -> list[Pair]:
    """One of the real adapters that ship with the project."""
    folder = DEMO / task / version
    config = json.loads((folder / "adapter_config.json").read_text())
    tensors = load_file(folder / "adapter_model.safetensors")
    return [
        Pair(
            module=key,
            a=tensors[key].double(),
            b=tensors[key.replace("lora_A", "lora_B")].double().T,
            scale=config["lora_alpha"] / config["r"],
        )
        for key in sorted(tensors)
        if "lora_A" in key
    ]


def layout_of(pairs: list[Pair], dtype: torch.dtype = torch.float32) -> Layout:
    tensors, factors = [], []
    for number, pair in enumerate(pairs):
        (rank, width), height = pair.a.shape, pair.b.shape[1]
        tensors.append(TensorSpec(key=f"{number:06d}.A", dtype=DTYPES[dtype], shape=[rank, width]))
        tensors.append(TensorSpec(key=f"{number:06d}.B", dtype=DTYPES[dtype], shape=[height, rank]))
        factors.append(
            FactorSpec(module=f"{number:06d}", form=Form.LINEAR, a=2 * number, b=2 * number + 1)
        )
    return Layout(metadata=[], tensors=tensors, factors=factors)


def parameters(pairs: list[Pair]) -> int:
    return sum(pair.a.numel() + pair.b.numel() for pair in pairs)


def bits(values: Tensor, dtype: torch.dtype) -> bytes:
    return values.to(dtype).contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


@dataclass(kw_only=True)
class Kept:
    """One adapter on the shelf: its object, its value and its decoded factors.

    None for modules kept verbatim.
    """

    digest: Digest
    content: bytes
    stored: StoredAdapter
    absorbed: CodedAdapter
    decoded: list[Rows | None]
    exported: list[Pair]


@dataclass(kw_only=True)
class Shelf:
    """Adapters of one shape, one after another.

    Absorb, encode, decode the bytes, decode the factors.
    """

    budget: float
    dtype: torch.dtype = torch.float32
    references: bool = True
    candidates: int = 8
    kept: list[Kept] = field(default_factory=list)

    def add(self, pairs: list[Pair], *, previous: Kept | None = None) -> Kept:
        layout = layout_of(pairs, self.dtype)
        candidates = (
            self.kept
            if len(self.kept) <= self.candidates
            else [*self.kept[: self.candidates // 2], *self.kept[-(self.candidates // 2) :]]
        )

        def value(coded: CodedAdapter) -> StoredAdapter:
            verbatim = {
                2 * number + place: bits(rows, self.dtype)
                for number, (pair, module) in enumerate(zip(pairs, coded.modules, strict=True))
                if module is None
                for place, rows in enumerate((pair.a, pair.b.T))
            }
            return StoredAdapter(
                layout=sha256(layout.to_bytes()),
                previous=previous.digest if previous and coded.previous else None,
                sources=tuple(candidates[number].digest for number in coded.sources),
                modules=coded.modules,
                verbatim=verbatim,
                external={},
            )

        absorbed = absorb(
            pairs,
            budget=self.budget,
            dtypes=[(self.dtype, self.dtype)] * len(pairs),
            candidates=[kept.stored.modules for kept in candidates]
            if self.candidates and self.references
            else [],
            previous=previous.decoded if previous and self.references else None,
            size=lambda coded: len(encode(value(coded), layout)),
        )
        content = encode(value(absorbed), layout)
        stored = decode(content, layout)
        decoded = self.decode_factors(stored, previous)
        exported = [
            pair if rows is None else self._export(pair, rows)
            for pair, rows in zip(pairs, decoded, strict=True)
        ]
        kept = Kept(
            digest=sha256(content),
            content=content,
            stored=stored,
            absorbed=absorbed,
            decoded=decoded,
            exported=exported,
        )
        self.kept.append(kept)
        return kept

    def decode_factors(self, stored: StoredAdapter, previous: Kept | None) -> list[Rows | None]:
        by_digest = {kept.digest: kept.stored for kept in self.kept}
        rows: list[Rows | None] = []
        for number, module in enumerate(stored.modules):
            if module is None:
                rows.append(None)
                continue
            sides = []
            for place, side in enumerate((Side.A, Side.B)):
                blocks = [
                    block(by_digest[stored.sources[term.source]], number, side)
                    for term in module.side(side).terms
                ]
                before = previous.decoded[number] if previous else None
                sides.append(
                    decode_side(
                        module.side(side), previous=before[place] if before else None, blocks=blocks
                    )
                )
            rows.append((sides[0], sides[1]))
        return rows

    def _export(self, pair: Pair, rows: Rows) -> Pair:
        return Pair(
            module=pair.module,
            a=rows[0].to(self.dtype).double(),
            b=rows[1].to(self.dtype).double(),
            scale=pair.scale,
        )


def block(stored: StoredAdapter, number: int, side: Side) -> Tensor:
    module = stored.modules[number]
    assert module is not None
    return torch.from_numpy(module.side(side).own)
