"""Stores of vlora-dev: one basis for each side of each layer, and coefficients for each task.

A factor is its mean over all tasks plus the task's loadings times the components, flattened. The
store has no alpha: vlora itself writes its adapters with a scale of 1.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

import torch

from share_registry.errors import InvalidInputError, RefusedError, ensure
from share_registry.exchange.adapter import Adapter
from share_registry.exchange.importers.assembly import ForeignAdapter, ModulePair, assemble
from share_registry.exchange.importers.contents import Contents, which_part

LABEL: Final = "a store of vlora"
_META: Final = "subspace_meta.json"
_BASIS: Final = "subspace.safetensors"
_SAVE_AGAIN: Final = "Save it again: vlora.SharedSubspace.load(path).save(another)."
_NO_ALPHA: Final = (
    "the store has no alpha and no base model: the scale is taken for 1, as vlora writes its"
    " adapters; what a task had before it was projected is lost."
)
_UNSAFE: Final = re.compile(r"[^\w\-.]")


def matches_vlora(contents: Contents) -> bool:
    """Tell whether the directory is such a store."""
    meta = contents.json_of(_META)
    return {"layer_names", "task_ids", "rank"} <= meta.keys()


def parts_of_vlora(contents: Contents) -> list[str]:
    """Return the tasks of a store."""
    tasks = contents.json_of(_META).get("task_ids")
    return [str(task) for task in tasks] if isinstance(tasks, list) else []


def read_vlora(contents: Contents, part: str | None) -> Adapter:
    """Read the adapter of a task. Raises InvalidInputError, RefusedError."""
    meta = contents.json_of(_META)
    task = which_part(parts_of_vlora(contents), part, contents, LABEL)
    ensure(
        meta.get("format", "float32") == "float32" and _BASIS in contents.files.sizes,
        RefusedError(
            f"{contents.source.location} is {LABEL} with packed components, expected {_BASIS}.",
            hint=_SAVE_AGAIN,
        ),
    )
    files = meta.get("task_filenames")
    name = files.get(task) if isinstance(files, dict) else None
    file = f"task_{name or _UNSAFE.sub('_', task)}.safetensors"
    ensure(
        file in contents.files.sizes,
        InvalidInputError(f"{contents.source.location} has no {file}.", hint=_SAVE_AGAIN),
    )
    basis, loadings = contents.load(_BASIS).tensors, contents.load(file).tensors
    layers = meta.get("layer_names")
    names = [str(layer) for layer in layers] if isinstance(layers, list) else []
    try:
        pairs = [_pair(layer, basis, loadings, meta) for layer in names]
    except (KeyError, IndexError, RuntimeError, TypeError, ValueError) as error:
        raise InvalidInputError(
            f"{contents.source.location}: the tensors of task {task!r} are not those that {_META}"
            f" names: {str(error)[:200]}.",
            hint=_SAVE_AGAIN,
        ) from error
    return assemble(
        ForeignAdapter(
            label=f"task {task} of {LABEL}",
            pairs=pairs,
            remarks=[_NO_ALPHA],
        ),
        contents.source_of(task),
    )


def _pair(
    layer: str,
    basis: Mapping[str, torch.Tensor],
    loadings: Mapping[str, torch.Tensor],
    meta: Mapping[str, Any],
) -> ModulePair:
    sides = {}
    for side in ("a", "b"):
        # a task is a vector over components that are rows
        loading, mean = loadings[f"{layer}.loadings_{side}"], basis[f"{layer}.mean_{side}"]
        components = basis[f"{layer}.components_{side}"]
        flat = loading.double().flatten() @ components.double()
        flat = flat + mean.double().reshape(flat.shape)
        shapes = meta.get(f"shapes_{side}")
        shape = shapes[layer] if isinstance(shapes, dict) else None
        rank = int(meta["rank"])
        usual = [rank, -1] if side == "a" else [-1, rank]
        sides[side] = flat.reshape(shape or usual).float()
    return ModulePair(module=layer, a=sides["a"], b=sides["b"], alpha=float(sides["a"].shape[0]))
