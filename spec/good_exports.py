"""A good vector of exports: attachments under every name that is kept, changed or left out."""

from spec.tiny import CONFIG, Tiny, linear, pair
from spec.writing import canonical

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
