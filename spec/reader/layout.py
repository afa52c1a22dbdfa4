"""Chapter 04: the tensors of an adapter file, and which are factors."""

from math import prod

from spec.reader.canonical import parse
from spec.reader.refusals import need

MAX_ADAPTER = 16 << 30
MAX_MODULES = 65_536
WIDTHS = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "I64": 8,
    "I32": 4,
    "I16": 2,
    "I8": 1,
    "U8": 1,
    "BOOL": 1,
}
FLOATS = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}


# A layout, with its modules (name, rank, in, out) as member `modules` (spec LAY-01 to LAY-09)
def parse_layout(content):
    layout = parse(content, "layout", "LAY-01")
    tensors, factors = layout["tensors"], layout["factors"]
    keys = [tensor["key"] for tensor in tensors]
    entries = [entry["name"] for entry in layout["metadata"]]
    need(len({*keys, "__metadata__"}) == len(keys) + 1, "LAY-05", "a tensor twice, or misnamed")
    need(len(set(entries)) == len(entries), "LAY-05", "a metadata entry twice")
    used = [index for factor in factors for index in (factor["a"], factor["b"])]
    need(len(set(used)) == len(used), "LAY-06", "a tensor used twice")
    need(max(used, default=-1) < len(tensors), "LAY-06", "a tensor that is not there")
    names = [factor["module"] for factor in factors]
    need(names == sorted(set(names)), "LAY-07", "factors not sorted by distinct modules")
    layout["modules"] = []
    for factor in factors:
        a, b = tensors[factor["a"]], tensors[factor["b"]]
        need(fits(factor, a, b), "LAY-08", f"the tensors of {factor['module']!r:.80} do not fit")
        layout["modules"] += modules_of(factor, a["shape"], b["shape"])
        need(len(layout["modules"]) <= MAX_MODULES, "LAY-09", "too many modules")
    distinct = len({module[0] for module in layout["modules"]})
    need(distinct == len(layout["modules"]), "LAY-07", "a module called like an expert of another")
    size = sum(prod(tensor["shape"]) * WIDTHS[tensor["dtype"]] for tensor in tensors)
    need(size <= MAX_ADAPTER, "LAY-09", "too many bytes")
    return layout


# Whether two tensors are a pair (spec LAY-08)
def fits(factor, a, b):
    form, experts, a_shape, b_shape = factor["form"], factor["experts"], a["shape"], b["shape"]
    return (
        {a["dtype"], b["dtype"]} <= set(FLOATS)
        and len(a_shape) >= 2 <= len(b_shape)
        and 0 not in a_shape + b_shape
        and a_shape[0] == b_shape[1]
        and a_shape[0] % experts == 0
        and (experts == 1 or form == "experts")
        and (form == "conv" or len(a_shape) == len(b_shape) == 2)
        and set(b_shape[2:]) <= {1}
    )


# The modules of a pair, as (name, rank, in, out) (spec LAY-04)
def modules_of(factor, a, b):
    experts = [f"{factor['module']}#{e}" for e in range(factor["experts"])]
    names = experts if factor["form"] == "experts" else [factor["module"]]
    return [(name, a[0] // factor["experts"], prod(a[1:]), b[0]) for name in names]
