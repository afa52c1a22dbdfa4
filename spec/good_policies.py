"""A good vector of the features that a policy brings (COM-13, COM-14)."""

from spec.tiny import CONFIG, Tiny, linear, pair
from spec.writing import Side, canonical


def policies() -> Tiny:
    """Return a store whose policy lets one version need an object, and then requires a check."""
    tiny = Tiny()
    policy = {"budget": "0.05", "keep_original": False}
    tiny.record("policy", policy=policy | {"max_dependents": 1}, requires=["bounded-dependents"])
    first = tiny.adapter("cola", 1, linear(), [pair("one")])
    tiny.absorb(first)
    a, b = pair("two")
    sides = (_continued(a), _continued(b))
    tiny.absorb(tiny.adapter("cola", 2, linear(), [sides], previous=first["adapter"]))
    tiny.absorb(tiny.adapter("cola", 3, linear(), [pair("three")]))
    tiny.record("policy", policy=policy | {"require": ["scan"]}, requires=["commit-checks"])
    passed = {"name": "scan", "version": "1.0", "summary": "no findings"}
    told = {"task": "cola", "config": tiny.put(CONFIG), "checks": [passed, {"name": "size"}]}
    note = tiny.put(canonical({"format": 1, "kind": "note", "tasks": [told]}))
    entry = tiny.adapter("cola", 4, linear(), [pair("four")])
    tiny.record("absorb", note=note, tasks=[entry], requires=["commit-checks"])
    return tiny


def _continued(side: Side) -> Side:
    return Side(own=side.own, scales=side.scales, previous=True)
