"""A good vector of modules that have several shapes in a space (REC-15)."""

from typing import Any

from spec.tiny import Tiny, layout_of, linear, pair
from spec.writing import Side

PREFIX = "base_model.model"


def shapes() -> Tiny:
    """Return a store of a head and a table of a grown vocabulary, and of experts laid transposed.

    The last record has the first shapes again, and requires nothing.
    """
    tiny = Tiny()
    made = {
        "head": [(linear(module="lm_head", out=out), [pair("head", out=out)]) for out in (3, 4)],
        "table": [(_table(tokens), [pair("table", width=tokens)]) for tokens in (6, 5)],
        "experts": [(_experts(width, out), _three(width, out)) for width, out in ((4, 3), (3, 4))],
    }
    for task, versions in made.items():
        for number, (layout, modules) in enumerate(versions, start=1):
            entry = tiny.adapter(task, number, layout, modules)
            tiny.absorb(entry, requires=["module-shapes"] if number == 2 else [])
    layout, modules = made["head"][0]
    tiny.absorb(tiny.adapter("head", 3, layout, modules))
    return tiny


def _table(tokens: int) -> dict[str, Any]:
    tensors = [
        (f"{PREFIX}.wte.lora_embedding_A", "F32", [2, tokens]),
        (f"{PREFIX}.wte.lora_embedding_B", "F32", [3, 2]),
    ]
    return layout_of(tensors, [("wte", "embedding", 0, 1, 1)])


def _experts(width: int, out: int) -> dict[str, Any]:
    tensors = [
        (f"{PREFIX}.x.lora_A.weight", "F32", [6, width]),
        (f"{PREFIX}.x.lora_B.weight", "F32", [out, 6]),
    ]
    return layout_of(tensors, [("x", "experts", 0, 1, 3)])


def _three(width: int, out: int) -> list[tuple[Side, Side]]:
    return [pair(f"x{expert}", width=width, out=out) for expert in range(3)]
