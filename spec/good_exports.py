"""Good vectors of exports: attachments under every name, and exports that the log tells of."""

from spec.tiny import CONFIG, Tiny, linear, pair
from spec.writing import canonical, sha256

ATTACHMENTS = (
    "Adapter_Config.json",
    "HEAD.safetensors",
    "README.md",
    "README.source.md",
    "adapter_model.safetensors",
    "head.safetensors",
    "readme.MD",
    "\u00e9" * 127,
    "\u00e9" * 128,
)
"""Kept are the second, the fourth and the eighth; the readmes get other names."""


EXPORT = {
    "profile": "native",
    "digest": sha256(b"export"),
    "tensors": sha256(b"tensors"),
    "requires": ["exports"],
}
"""Members of a record of an export, beside its task and version."""


def exports() -> Tiny:
    """Return a store of one task, renamed and restored, with attachments."""
    tiny = Tiny()
    entry = tiny.adapter("cola", 1, linear(), [pair("cola")], members={"error": "0.0123456"})
    files = [
        {"name": name, "object": tiny.put(name.encode()), "size": len(name.encode())}
        for name in ATTACHMENTS
    ]
    told = {"task": "cola", "config": tiny.put(CONFIG), "attachments": files}
    note = tiny.put(canonical({"format": 1, "kind": "note", "tasks": [told]}))
    tiny.record("absorb", note=note, tasks=[entry])
    tiny.record("rename", task="cola", name="corpus")
    tiny.record("restore", task="corpus", version=2, of=1)
    unlimited = {"budget": None, "error": "12345678"}
    tiny.absorb(tiny.adapter("free", 1, linear(), [pair("free")], members=unlimited))
    return tiny


def recorded() -> Tiny:
    """Return a store whose versions were exported: with a note and without, renamed and dropped."""
    tiny = Tiny()
    tiny.absorb(tiny.adapter("cola", 1, linear(), [pair("cola")]))
    places = {"host": "web-1", "path": "/srv/adapters/cola"}
    told = {
        "task": "cola",
        "labels": [{"name": name, "value": value} for name, value in places.items()],
    }
    note = {"format": 1, "kind": "note", "author": "ada", "message": "CAB-77", "tasks": [told]}
    tiny.record("export", **EXPORT, task="cola", version=1, note=tiny.put(canonical(note)))
    tiny.record("export", **EXPORT | {"profile": "portable"}, task="cola", version=1)
    tiny.record("rename", task="cola", name="corpus")
    tiny.record("export", **EXPORT, task="corpus", version=1)
    tiny.record("drop", task="corpus")
    tiny.record("export", **EXPORT, task="corpus", version=1)
    return tiny
