"""LoRA of the AdapterHub library `adapters`, where it was saved as safetensors.

Its config calls LoRA, DoRA, VeRA and IA3 all `architecture: lora`; other members and the keys tell
them apart. A fused projection of query, key and value has the factors of those that are adapted
behind one another, r rows of A each; as one pair their B is zero off its diagonal of blocks, and
in the rows of those that are not.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

import torch

from share_registry.errors import InvalidInputError, RefusedError, ensure
from share_registry.exchange.adapter import Adapter
from share_registry.exchange.config import CONFIG_FILE, names_in
from share_registry.exchange.importers.assembly import ForeignAdapter, ModulePair, assemble
from share_registry.exchange.importers.contents import Contents, FileHeader, only
from share_registry.exchange.importers.lora_keys import KeyRole, modules_of
from share_registry.names import first_and_more

LABEL: Final = "an adapter of the AdapterHub library"
_USUAL: Final = ("adapter.safetensors",)
_PICKLE: Final = "pytorch_adapter.bin"
_KEY: Final = re.compile(r"(?P<module>.+)\.loras\.(?P<name>[^.]+)\.(?P<part>.+)")
_PARTS: Final = ("q", "k", "v")
# What projections of query, key and value in one are called.
_FUSED: Final = frozenset({"c_attn", "in_proj", "qkv", "qkv_proj", "query_key_value"})
_ATTACHED: Final = "adapter_config.adapterhub.json"
_RETRAIN: Final = (
    "Merge it there (model.merge_adapter) and extract a LoRA of the merged weights, or train a"
    " LoRAConfig without it."
)


def matches_adapterhub(contents: Contents) -> bool:
    """Tell whether the config is of this library, or a file has its keys."""
    inner = contents.config.get("config")
    is_config = isinstance(inner, dict) and "architecture" in inner
    return is_config or bool(contents.tensor_files(is_of_adapterhub))


def is_of_adapterhub(header: FileHeader) -> bool:
    """Tell whether a file is of this format by its keys."""
    return any(_KEY.fullmatch(key) for key in header.shapes)


def read_adapterhub(contents: Contents, _: str | None) -> Adapter:
    """Read an adapter. Raises InvalidInputError, RefusedError."""
    settings = _settings(contents)
    _refuse_other_methods(settings)
    names = contents.tensor_files(is_of_adapterhub)
    ensure(
        names or _PICKLE not in contents.files.sizes,
        InvalidInputError(
            f"{contents.source.location} has {_PICKLE}, expected {_USUAL[0]}: pickles are never"
            " opened.",
            hint="Save it again where you trust it: model.save_adapter(..., use_safetensors=True).",
        ),
    )
    name = only(names, _USUAL, contents, LABEL)
    loaded = contents.load(name)
    modules = _modules(loaded.tensors, name)
    rank, alpha = settings["r"], settings["alpha"]
    wanting = [field for field in ("r", "alpha") if type(settings[field]) not in (int, float)]
    ensure(
        not wanting and rank >= 1,
        InvalidInputError(
            f"{CONFIG_FILE}: {first_and_more(wanting) or 'r'} is no number above 0.",
            hint="Save the adapter again with the library.",
        ),
    )
    pairs = [
        _pair(module, parts, rank=int(rank), scale=alpha / rank, settings=settings)
        for module, parts in sorted(modules.items())
    ]
    attachments, left = contents.attached([name])
    attachments[_ATTACHED] = contents.files.read(CONFIG_FILE, contents.files.sizes[CONFIG_FILE])
    base = contents.config.get("model_name")
    return assemble(
        ForeignAdapter(
            label=LABEL,
            pairs=pairs,
            base_model=base if isinstance(base, str) and base else None,
            fields={"fan_in_fan_out": True} if contents.config.get("model_type") == "gpt2" else {},
            metadata=loaded.metadata,
            attachments=attachments,
            remarks=[
                f"its own config is kept as {_ATTACHED}; heads are not read by PEFT.",
                *left,
            ],
        ),
        contents.source,
    )


def _settings(contents: Contents) -> Mapping[str, Any]:
    inner = contents.config.get("config")
    ensure(
        isinstance(inner, dict) and {"architecture", "r", "alpha"} <= inner.keys(),
        InvalidInputError(
            f"{contents.source.location}: {CONFIG_FILE} does not say architecture, r and alpha.",
            hint="Give the directory that save_adapter wrote, of a LoRA.",
        )
        if not isinstance(inner, dict) or inner.get("architecture") == "lora"
        else RefusedError(
            f"{CONFIG_FILE}: architecture is {str(inner.get('architecture'))!r}, expected 'lora'.",
            hint="It has no form as LoRA: train a LoRAConfig.",
        ),
    )
    return inner if isinstance(inner, dict) else {}


def _refuse_other_methods(settings: Mapping[str, Any]) -> None:
    """Refuse what is called LoRA and is no plain one. Raises RefusedError."""
    architecture = settings["architecture"]
    methods = {
        f"architecture is {str(architecture)!r}": architecture != "lora",
        "composition_mode is 'scale' (IA3)": settings.get("composition_mode") == "scale",
        "use_gating is set: the update depends on the input": settings.get("use_gating"),
        "use_dora is set, and the library's layers and its merge disagree on the scale": (
            settings.get("use_dora")
        ),
        "vera_d or vera_b is set (VeRA)": any(
            settings.get(field) is not None for field in ("vera_d", "vera_b")
        ),
        "n_up_projection is set (MTL-LoRA)": settings.get("n_up_projection"),
    }
    for reason, applies in methods.items():
        ensure(
            not applies,
            RefusedError(f"{CONFIG_FILE}: {reason}, expected plain LoRA.", hint=_RETRAIN),
        )


def _modules(
    tensors: Mapping[str, torch.Tensor], name: str
) -> dict[str, dict[KeyRole, torch.Tensor]]:
    """Return the factors of every module. Raises InvalidInputError, RefusedError."""
    names = {match["name"] for key in tensors if (match := _KEY.fullmatch(key))}
    ensure(
        len(names) <= 1,
        InvalidInputError(
            f"{name} holds the adapters {', '.join(sorted(names))}, expected one.",
            hint="Save each to a directory of its own: model.save_adapter.",
        ),
    )
    modules, strange = modules_of(tensors, split=_split)
    ensure(
        not strange,
        RefusedError(
            f"{name}: {first_and_more(strange, 3)} is of another method, expected lora_A and"
            " lora_B.",
            hint=_RETRAIN,
        ),
    )
    return {
        module: {role: tensors[key] for role, key in keys.items()}
        for module, keys in modules.items()
    }


def _split(key: str) -> tuple[str, KeyRole] | None:
    """Return the module of a key, and which factor it is of it; None for another kind of key."""
    match = _KEY.fullmatch(key)
    if match is None or match["part"] not in (KeyRole.A, KeyRole.B):
        return None
    return match["module"], KeyRole(match["part"])


def _pair(
    module: str,
    parts: Mapping[KeyRole, torch.Tensor],
    *,
    rank: int,
    scale: float,
    settings: Mapping[str, Any],
) -> ModulePair:
    a, b = parts[KeyRole.A], parts[KeyRole.B]
    ensure(
        a.dim() == b.dim() == 2,
        InvalidInputError(
            f"{module}: lora_A {list(a.shape)} and lora_B {list(b.shape)}, expected (r, in) and"
            " (out, r).",
            hint="Save the adapter again with the library.",
        ),
    )
    adapted = [part for part in _PARTS if part in names_in(settings, "attn_matrices")]
    is_fused = module.rpartition(".")[2] in _FUSED and bool(adapted)
    is_whole = (a.shape[0], b.shape[1]) == (rank * len(adapted), rank)
    if is_fused and is_whole and b.shape[0] % len(adapted) == 0:
        blocks = dict(zip(adapted, b.chunk(len(adapted)), strict=True))
        height = b.shape[0] // len(adapted)
        b = b.new_zeros(height * len(_PARTS), a.shape[0])
        for number, part in enumerate(adapted):
            row, column = _PARTS.index(part) * height, number * rank
            b[row : row + height, column : column + rank] = blocks[part]
    return ModulePair(module=module, a=a, b=b, alpha=scale * a.shape[0])
