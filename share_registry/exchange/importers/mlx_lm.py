"""LoRA and DoRA of mlx-lm: `adapters.safetensors` and an adapter_config.json of its own.

`lora_a` is (in, r) and `lora_b` (r, out), the transposes of PEFT's; those of experts are one tensor
each, (E, r, in) and (E, out, r). `scale` multiplies the product as it is, so alpha is scale times
rank. Magnitudes are called `m`. Experts become one pair each under the names of transformers 4,
which PEFT, vLLM and SGLang read.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

import torch

from share_registry.errors import InvalidInputError, RefusedError, ensure
from share_registry.exchange.adapter import Adapter
from share_registry.exchange.config import CONFIG_FILE
from share_registry.exchange.importers.assembly import ForeignAdapter, ModulePair, assemble
from share_registry.exchange.importers.contents import Contents, FileHeader, only
from share_registry.exchange.importers.lora_keys import KeyRole, modules_of
from share_registry.names import first_and_more

LABEL: Final = "an adapter of mlx-lm"
_USUAL: Final = ("adapters.safetensors",)
_PARAMETERS: Final = "lora_parameters"
_ROLES: Final = {"lora_a": KeyRole.A, "lora_b": KeyRole.B, "m": KeyRole.MAGNITUDE}
_COMPANIONS: Final = {KeyRole.MAGNITUDE: "lora_magnitude_vector"}
# What the source's own config is called beside that of PEFT.
_ATTACHED: Final = "adapter_config.mlx-lm.json"
_TABLE: Final = re.compile(
    r"(.*\.)?((tok(en)?_|word_)?embed(d?ing|der)?s?|embed_(tokens|in)(_per_layer)?|wte|wpe)"
    r"(_table)?"
)
_SWITCH: Final = re.compile(
    r"(?P<owner>.*?)(?P<experts>(\.experts)?(\.switch_mlp|\.switch_glu)|\.experts)\.(?P<name>\w+)"
)
# What Mixtral and models after it call the matrices of an expert.
_NUMBERED: Final = {"gate_proj": "w1", "down_proj": "w2", "up_proj": "w3"}
_NUMBERED_OWNER: Final = ".block_sparse_moe"
_NUMBERED_MODELS: Final = re.compile(r"lfm2", re.IGNORECASE)
_NOT_NUMBERED: Final = re.compile(r"granite", re.IGNORECASE)
_MERGE: Final = (
    "Merge it with mlx_lm.fuse; of the merged weights a LoRA can be extracted (a truncated SVD of"
    " their difference from the base model's). Or train with fine_tune_type lora."
)


def is_of_mlx(header: FileHeader) -> bool:
    """Tell whether a file is of this format by its keys."""
    ends = {key.rpartition(".")[2] for key in header.shapes}
    return {"lora_a", "lora_b"} <= ends


def matches_mlx(contents: Contents) -> bool:
    """Tell whether there is such a file, or the config of one."""
    config = contents.config
    is_config = "peft_type" not in config and ("fine_tune_type" in config or _PARAMETERS in config)
    return is_config or bool(contents.tensor_files(is_of_mlx))


def read_mlx(contents: Contents, _: str | None) -> Adapter:
    """Read an adapter. Raises InvalidInputError, RefusedError."""
    config = contents.config
    ensure(
        config.get("fine_tune_type") != "full",
        RefusedError(
            f"{CONFIG_FILE}: fine_tune_type is 'full': its adapters.safetensors holds whole weights"
            " of layers, expected a LoRA.",
            hint=_MERGE,
        ),
    )
    name = only(contents.tensor_files(is_of_mlx), _USUAL, contents, LABEL)
    scale, dropout = _scale(config, contents)
    loaded = contents.load(name)
    modules = _modules(loaded.tensors, name)
    model = config.get("model")
    label = model if isinstance(model, str) else ""
    pairs = [
        pair
        for module, parts in modules.items()
        for pair in _pairs(module, parts, scale=scale, label=label)
    ]
    attachments, left = contents.attached([name, CONFIG_FILE])
    attachments[_ATTACHED] = contents.files.read(CONFIG_FILE, contents.files.sizes[CONFIG_FILE])
    is_dora = any(KeyRole.MAGNITUDE in parts for parts in modules.values())
    return assemble(
        ForeignAdapter(
            label=LABEL,
            pairs=pairs,
            base_model=label or None,
            fields={"lora_dropout": dropout} | ({"use_dora": True} if is_dora else {}),
            metadata=loaded.metadata,
            attachments=attachments,
            remarks=[
                *_remarks(modules),
                f"its own config is kept as {_ATTACHED}.",
                *left,
            ],
        ),
        contents.source,
    )


def _scale(config: Mapping[str, Any], contents: Contents) -> tuple[float, float]:
    """Return scale and dropout. Raises InvalidInputError."""
    parameters = config.get(_PARAMETERS)
    scale = parameters.get("scale") if isinstance(parameters, dict) else None
    ensure(
        isinstance(scale, int | float) and not isinstance(scale, bool),
        InvalidInputError(
            f"{contents.source.location}: {CONFIG_FILE} says no {_PARAMETERS}.scale, expected a"
            " number: without it dW is not known.",
            hint="Give the directory that mlx_lm.lora wrote, with its adapter_config.json.",
        ),
    )
    dropout = parameters.get("dropout") if isinstance(parameters, dict) else None
    return float(scale or 0), float(dropout) if isinstance(dropout, int | float) else 0.0


def _split(key: str) -> tuple[str, KeyRole] | None:
    """Return the module of a key, and what it is of it; None for another kind of key."""
    module, _, end = key.rpartition(".")
    return (module, _ROLES[end]) if end in _ROLES else None


def _modules(
    tensors: Mapping[str, torch.Tensor], name: str
) -> dict[str, dict[KeyRole, torch.Tensor]]:
    """Return the tensors of every module. Raises InvalidInputError, RefusedError."""
    modules, strange = modules_of(tensors, split=_split)
    ensure(
        not strange,
        RefusedError(
            f"{name}: {first_and_more(strange, 3)}: expected lora_a, lora_b and m of layers, no"
            " weights that were trained whole.",
            hint=_MERGE,
        ),
    )
    marked = [module for module, keys in modules.items() if KeyRole.MAGNITUDE in keys]
    tables = [module for module in marked if _TABLE.fullmatch(module)]
    ensure(
        not tables and len(marked) in (0, len(modules)),
        RefusedError(
            f"{name}: {first_and_more(tables or marked, 3)}: PEFT has no such DoRA, of an embedding"
            " by its rows, or of some modules alone.",
            hint="Train with fine_tune_type lora, or DoRA of linear layers alone.",
        ),
    )
    return {
        module: {role: tensors[key] for role, key in keys.items()}
        for module, keys in modules.items()
    }


def _pairs(
    module: str, parts: Mapping[KeyRole, torch.Tensor], *, scale: float, label: str
) -> Iterator[ModulePair]:
    a, b = parts[KeyRole.A], parts[KeyRole.B]
    if a.dim() == 3 and b.dim() == 3 and a.shape[0] == b.shape[0]:
        for expert, (each_a, each_b) in enumerate(zip(a, b, strict=True)):
            yield ModulePair(
                module=expert_path(module, expert, label),
                a=each_a,
                b=each_b,
                alpha=scale * each_a.shape[0],
            )
        return
    ensure(
        a.dim() == 2 and b.dim() == 2 and a.shape[1] == b.shape[0],
        InvalidInputError(
            f"{module}: lora_a {list(a.shape)} and lora_b {list(b.shape)} do not multiply, expected"
            " (in, r) and (r, out), or (E, r, in) and (E, out, r).",
            hint="Save the adapter again with mlx-lm.",
        ),
    )
    magnitude = {end: parts[role] for role, end in _COMPANIONS.items() if role in parts}
    yield ModulePair(
        module=module,
        a=a.T,
        b=b.T,
        alpha=scale * a.shape[1],
        is_table=_TABLE.fullmatch(module) is not None,
        companions=magnitude,
    )


def expert_path(module: str, expert: int, label: str) -> str:
    """Return the path in transformers 4 of one expert's matrix, which mlx-lm stacks."""
    match = _SWITCH.fullmatch(module)
    if match is None:
        return f"{module}.{expert}"
    name = match["name"]
    is_numbered = _NUMBERED_MODELS.search(label) is not None or (
        match["owner"].endswith(_NUMBERED_OWNER) and not _NOT_NUMBERED.search(label)
    )
    return f"{match['owner']}.experts.{expert}.{_NUMBERED.get(name, name) if is_numbered else name}"


def _remarks(modules: Mapping[str, Mapping[KeyRole, torch.Tensor]]) -> list[str]:
    stacked = [module for module, parts in modules.items() if parts[KeyRole.A].dim() == 3]
    tables = [module for module in modules if _TABLE.fullmatch(module)]
    remarks = {
        f"{first_and_more(stacked, 3)}: experts that mlx-lm stacks are one pair each, under the"
        " names of transformers 4.": stacked,
        f"{first_and_more(tables, 3)}: taken for an embedding by its name; where the model ties its"
        " head to it, mlx-lm adapts the head as well, PEFT does not.": tables,
    }
    return [remark for remark, applies in remarks.items() if applies]
