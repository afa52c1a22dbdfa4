"""Make an adapter as PEFT has it of factor pairs as another program wrote them.

The numbers stay as they are: a scale becomes alpha, for each module where they differ, and no
factor is multiplied by it. Every module is named whole in the config, so that PEFT selects these
and no others.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import torch

from share_registry.errors import InvalidInputError, ensure
from share_registry.exchange.adapter import Adapter
from share_registry.exchange.attachments import TENSOR_FILE
from share_registry.exchange.config import CONFIG_FILE, PREFIX
from share_registry.exchange.export_files import tensor_file
from share_registry.exchange.peft_directory import PEFT_METADATA, adapter_of
from share_registry.exchange.selection import module_scales
from share_registry.exchange.targets.subject import EXPERT
from share_registry.format.notes import Source
from share_registry.names import first_and_more

# Letters of all module paths together up to which a config names each of them.
_MOST_LETTERS: Final = 1 << 18
# A scale that went through a config is off by no more than rounding.
_ROUNDING: Final = 1e-12


@dataclass(frozen=True, slots=True, kw_only=True)
class ModulePair:
    """The factors of one module, as PEFT shapes them: dW = alpha / r * B A.

    Attributes:
        module: Path in the base model.
        a: (r, in), of a convolution (r, in, ...).
        b: (out, r), of a convolution (out, r, 1 ...).
        alpha: Its alpha.
        is_table: Whether the module is an embedding: its A is (r, vocabulary), its B (width, r).
        companions: Other tensors of the layer, by the end of their key: a magnitude, a bias.
    """

    module: str
    a: torch.Tensor
    b: torch.Tensor
    alpha: float
    is_table: bool = False
    companions: Mapping[str, torch.Tensor] = field(default_factory=dict)

    @property
    def rank(self) -> int:
        """Rows of A."""
        return self.a.shape[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignAdapter:
    """What was read of an adapter of another program.

    Attributes:
        label: What the program's adapters are called, for the first remark.
        pairs: Its factors.
        base_model: Label of its base model; None where nothing says it.
        fields: Members of the config besides those that follow from the pairs.
        passengers: Tensors of no pair, by the keys that PEFT would give them.
        metadata: Entries for the header of the tensor file.
        attachments: Other files.
        remarks: What was not kept, or was assumed.
    """

    label: str
    pairs: Sequence[ModulePair]
    base_model: str | None = None
    fields: Mapping[str, object] = field(default_factory=dict)
    passengers: Mapping[str, torch.Tensor] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    attachments: Mapping[str, bytes] = field(default_factory=dict)
    remarks: Sequence[str] = ()


def assemble(foreign: ForeignAdapter, source: Source) -> Adapter:
    """Return the adapter.

    Raises InvalidInputError, RefusedError where its tensors are no adapter.
    """
    _check_distinct(foreign.pairs)
    tensors: dict[str, torch.Tensor] = {}
    for pair in foreign.pairs:
        begin = f"{PREFIX}{pair.module}"
        names = ("lora_embedding_A", "lora_embedding_B") if pair.is_table else _LINEAR
        tensors |= {f"{begin}.{names[0]}": pair.a, f"{begin}.{names[1]}": pair.b}
        tensors |= {f"{begin}.{end}": tensor for end, tensor in pair.companions.items()}
    tensors |= foreign.passengers
    metadata = dict(PEFT_METADATA) | dict(foreign.metadata)
    adapter = adapter_of(
        {key: tensor.contiguous() for key, tensor in tensors.items()},
        json.dumps(_config(foreign), indent=2).encode(),
        metadata=list(metadata.items()),
        attachments=foreign.attachments,
        source=source,
    )
    _check_scales(adapter, foreign.pairs)
    return replace(
        adapter,
        original={
            CONFIG_FILE: adapter.config_bytes,
            TENSOR_FILE: tensor_file(adapter.layout, adapter.tensors),
        },
        remarks=(f"read as {foreign.label}.", *foreign.remarks, *adapter.remarks),
    )


_LINEAR: Final = ("lora_A.weight", "lora_B.weight")


def usual(values: Iterable[float], default: float) -> float:
    """Return the most common of some values, the first of equally common ones."""
    counts = Counter(values)
    return max(counts, key=lambda value: counts[value]) if counts else default


def _config(foreign: ForeignAdapter) -> dict[str, object]:
    pairs = foreign.pairs
    rank = int(usual((pair.rank for pair in pairs), 1))
    alpha = usual((pair.alpha for pair in pairs), 1.0)
    config: dict[str, object] = {
        "base_model_name_or_path": foreign.base_model,
        "bias": "none",
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": _plain(alpha),
        "lora_dropout": 0.0,
        "peft_type": "LORA",
        "r": rank,
        "target_modules": _targets([pair.module for pair in pairs]),
        "task_type": None,
    }
    # the longest first: a path may be the end of another, and the first that matches counts
    ordered = sorted(pairs, key=lambda pair: (-len(pair.module), pair.module))
    ranks = {pair.module: pair.rank for pair in ordered if pair.rank != rank}
    alphas = {pair.module: _plain(pair.alpha) for pair in ordered if pair.alpha != alpha}
    config |= {"rank_pattern": ranks} if ranks else {}
    config |= {"alpha_pattern": alphas} if alphas else {}
    return dict(sorted((config | dict(foreign.fields)).items()))


def _targets(modules: Sequence[str]) -> list[str]:
    """Return every path, or their last parts where that would be too long a list.

    Of one expert's modules always the last part, which PEFT knows them by where it fuses them.
    """
    short = {module for module in modules if EXPERT.fullmatch(module)}
    if sum(map(len, modules)) - sum(map(len, short)) > _MOST_LETTERS:
        short = {*modules}
    return sorted({module.rpartition(".")[2] if module in short else module for module in modules})


def _plain(number: float) -> float:
    return int(number) if float(number).is_integer() else float(number)


def _check_distinct(pairs: Sequence[ModulePair]) -> None:
    counts = Counter(pair.module for pair in pairs)
    twice = sorted(module for module, count in counts.items() if count > 1)
    ensure(
        not twice,
        InvalidInputError(
            f"several factor pairs are of {first_and_more(twice, 3)}, expected one of each module.",
            hint="Write them to files of their own, and commit each as a task.",
        ),
    )


def _check_scales(adapter: Adapter, pairs: Sequence[ModulePair]) -> None:
    """Check that the config gives every module the scale that its program gives it."""
    scales = {
        shape.module: scale
        for shape, scale in zip(
            adapter.layout.modules(), module_scales(adapter.config, adapter.layout), strict=True
        )
    }
    for pair in pairs:
        expected = pair.alpha / pair.rank
        scale = scales.get(pair.module, expected)
        ensure(
            abs(scale - expected) <= _ROUNDING * abs(expected),
            InvalidInputError(
                f"module {pair.module!r} has the scale {expected:g}, and a config of PEFT would"
                f" give it {scale:g}: its path is the end of another's.",
                hint="Write the modules to files of their own, and commit each as a task.",
            ),
        )
