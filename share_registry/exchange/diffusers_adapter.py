"""A LoRA for diffusers: one safetensors file for a pipeline, as its `save_lora_weights` has it.

Keys begin with the part of the pipeline, and the header says rank and alpha of every module, so
that the factors keep their bytes. What it says are the arguments of PEFT's LoraConfig.
"""

import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from share_registry.errors import RefusedError, ensure
from share_registry.exchange.adapter import Adapter
from share_registry.exchange.config import PREFIX
from share_registry.exchange.export_files import tensor_file
from share_registry.exchange.importers.diffusers_file import METADATA
from share_registry.exchange.normal_form import normal_form
from share_registry.exchange.pipeline_parts import parts_of
from share_registry.exchange.selection import layout_roles
from share_registry.exchange.targets.subject import TRAINING_ONLY
from share_registry.format.layout import Entry, Layout
from share_registry.names import first_and_more

TARGET: Final = "diffusers"
# Ends of keys besides those of the factors
_COMPANIONS: Final = (".lora_magnitude_vector", ".lora_B.bias")
_REFUSED_FIELDS: Final = (
    "alora_invocation_tokens",
    "layer_replication",
    "target_parameters",
    "trainable_token_indices",
)
_LINT: Final = "`share-registry lint REF` shows which server takes it."


@dataclass(frozen=True, slots=True, kw_only=True)
class DiffusersAdapter:
    """A file for a pipeline.

    Attributes:
        content: Its bytes: the same adapter gives the same.
        notes: What is not as it was committed.
    """

    content: bytes
    notes: tuple[str, ...]


def diffusers_adapter(adapter: Adapter) -> DiffusersAdapter:
    """Return an adapter as a file for a pipeline of diffusers.

    Raises RefusedError where it is of no model of a pipeline, or has more than such a file holds.
    """
    form, changes = normal_form(adapter)
    modules = [factor.module for factor in form.layout.factors]
    parts = parts_of(modules)
    ensure(
        parts,
        RefusedError(
            f"{adapter.ref or 'the adapter'} is not exported for diffusers: its modules"
            f" ({first_and_more(modules, 2) or 'none'}) are of no model of a pipeline.",
            hint=_LINT,
        ),
    )
    idle = [key for key in form.passengers if TRAINING_ONLY.fullmatch(key)]
    _check(adapter, form, idle)
    notes = [*changes]
    if idle:
        notes.append(f"{len(idle)} tensors used in training alone are left out.")
    return DiffusersAdapter(
        content=_write(form, parts, idle), notes=tuple(f"diffusers: {note}" for note in notes)
    )


def _check(adapter: Adapter, form: Adapter, idle: Sequence[str]) -> None:
    """Raise RefusedError for what such a file does not hold."""
    others = [key for key in form.passengers if key not in idle and not key.endswith(_COMPANIONS)]
    fields = [field for field in _REFUSED_FIELDS if form.config.get(field)]
    obstacles = [*fields, *filter(None, [first_and_more(others)])]
    ensure(
        not obstacles,
        RefusedError(
            f"{adapter.ref or 'the adapter'} is not exported for diffusers: it has"
            f" {', '.join(obstacles)}, expected LoRA layers alone.",
            hint=_LINT,
        ),
    )


def _write(form: Adapter, parts: Mapping[str, tuple[str, str]], left_out: Collection[str]) -> bytes:
    """Return the file, its tensors in the order in which they were committed."""
    names = {}
    for spec in form.layout.tensors:
        written = spec.key.removeprefix(PREFIX)
        # the longest, as the path of one module may begin with that of another
        module = max((name for name in parts if written.startswith(f"{name}.")), key=len)
        names[spec.key] = f"{'.'.join(parts[module])}{written.removeprefix(module)}"
    kept = [spec for spec in form.layout.tensors if spec.key not in left_out]
    settings = json.dumps(_settings(form, parts), indent=2)
    layout = Layout(
        metadata=[
            Entry(name="format", value="pt"),
            Entry(name=METADATA, value=settings),
        ],
        tensors=[spec.model_copy(update={"key": names[spec.key]}) for spec in kept],
        factors=[],
    )
    return tensor_file(layout, {names[spec.key]: form.tensors[spec.key] for spec in kept})


def _settings(form: Adapter, parts: Mapping[str, tuple[str, str]]) -> dict[str, object]:
    """Return the arguments of PEFT's LoraConfig for each part, which stands before their names."""
    settings: dict[str, object] = {}
    roles = zip(form.layout.factors, layout_roles(form.config, form.layout), strict=True)
    placed = [(*parts[factor.module], role) for factor, role in roles]
    for part in sorted({part for part, _, _ in placed}):
        ranks = {path: role.rank for name, path, role in placed if name == part}
        alphas = {path: role.scale * role.rank for name, path, role in placed if name == part}
        rank, alpha = (Counter(each.values()).most_common(1)[0][0] for each in (ranks, alphas))
        members = {
            "r": rank,
            "lora_alpha": alpha,
            # `^`: a path may be the end of another
            "rank_pattern": {f"^{path}": r for path, r in ranks.items() if r != rank},
            "alpha_pattern": {f"^{path}": a for path, a in alphas.items() if a != alpha},
            "target_modules": sorted(ranks),
            "use_dora": bool(form.config.get("use_dora")),
            "lora_bias": bool(form.config.get("lora_bias")),
        }
        settings |= {f"{part}.{name}": member for name, member in members.items()}
    return settings
