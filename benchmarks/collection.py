"""A collection of real adapters committed one after another at the default budget.

Every promise recomputed, and the bytes.

    python -m benchmarks.collection [CORPUS] [--budget B] [--peft]

Errors are recomputed from the exported directory with plain numpy (dense products); `--peft` also
loads every export with PEFT, warnings being errors. Without CORPUS: the adapters that ship with the
project.
"""

import argparse
import json
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import zstandard
from safetensors.numpy import load_file

import share_registry as sr

DEMO: Final = Path(sr.__file__).parent / "demo_data"
AGREEMENT: Final = 1e-3
MODEL: Final = "adapter_model.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One adapter as committed."""

    name: str
    error: float
    recorded: float
    raw: int
    zstd: int
    added: int


def main() -> None:
    """Commit, export, recompute, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("corpus", type=Path, nargs="?", default=DEMO)
    parser.add_argument("--budget", type=float, default=None)
    parser.add_argument("--peft", action="store_true")
    options = parser.parse_args()
    folders = sorted(path.parent for path in options.corpus.rglob("adapter_config.json"))
    with tempfile.TemporaryDirectory() as place:
        rows = _commit(folders, Path(place), options.budget, options.peft)
        store = sum(
            path.stat().st_size
            for part in ("objects", "spaces")
            for path in (Path(place) / "registry" / part).rglob("*")
            if path.is_file()
        )
    _show(rows, store)


def _commit(folders: list[Path], place: Path, budget: float | None, peft: bool) -> list[Row]:
    base = _base() if peft else None
    rows = []
    with sr.Registry.open(place / "registry") as registry:
        for folder in folders:
            name = f"{folder.parent.name}-{folder.name}"
            report = registry.commit(
                folder, task=folder.parent.name, budget=budget, allow_duplicate=True
            ).report
            assert report is not None
            assert report.budget is not None
            exported = registry.export(folder.parent.name, place / "out").path
            _check(folder, exported, base)
            raw = (folder / MODEL).read_bytes()
            packed = len(zstandard.compress(raw, 19))
            rows.append(
                Row(
                    name=name,
                    error=pooled_error(folder, exported),
                    recorded=report.error,
                    raw=len(raw),
                    zstd=packed,
                    added=report.bytes_added,
                )
            )
            if (
                rows[-1].error > report.budget
                or abs(rows[-1].error - report.error) > AGREEMENT * report.error
            ):
                raise SystemExit(
                    f"{name}: error {rows[-1].error} recorded as {report.error} of {report.budget}"
                )
        registry.verify("deep")
    return rows


def pooled_error(original: Path, exported: Path) -> float:
    """Return sqrt(sum |dW' - dW|^2 / sum |dW|^2), dense; rank and alpha equal for all modules."""
    old, new = load_file(original / MODEL), load_file(exported / MODEL)
    wrong = total = 0.0
    for key in (key for key in old if key.endswith("lora_A.weight")):
        key_b = key.replace("lora_A", "lora_B")
        original_dw, exported_dw = (
            side[key_b].astype(np.float64) @ side[key].astype(np.float64) for side in (old, new)
        )
        wrong, total = (
            wrong + float(((exported_dw - original_dw) ** 2).sum()),
            total + float((original_dw**2).sum()),
        )
    return float(np.sqrt(wrong / total))


def _check(original: Path, exported: Path, base: Any) -> None:
    """Check that an export is the original but for its values, and loads in PEFT without a warning.

    Config, keys, element types and every other file are as given.
    """
    assert (original / "adapter_config.json").read_bytes() == (
        exported / "adapter_config.json"
    ).read_bytes()
    old, new = load_file(original / MODEL), load_file(exported / MODEL)
    assert {key: (value.dtype, value.shape) for key, value in old.items()} == {
        key: (value.dtype, value.shape) for key, value in new.items()
    }
    for path in original.iterdir():
        if path.name not in (MODEL, "README.md"):
            assert (exported / path.name).read_bytes() == path.read_bytes(), path.name
    if base is not None:
        from peft import PeftModel

        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.filterwarnings("ignore", category=FutureWarning)
            warnings.filterwarnings("ignore", category=DeprecationWarning)
            PeftModel.from_pretrained(base(), str(exported))


def _base() -> Any:
    """Return a maker of random base models of the adapters' shapes."""
    from transformers import BertConfig, BertModel

    config = BertConfig(
        hidden_size=384,
        num_hidden_layers=6,
        num_attention_heads=12,
        intermediate_size=1536,
        vocab_size=64,
    )
    return lambda: BertModel(config)


def _show(rows: list[Row], store: int) -> None:
    print(
        "| adapter | error recomputed | recorded | raw kB | zstd -19 kB | added kB | raw / added "
        "|\n| --- | --- | --- | --- | --- | --- | --- |"
    )
    for row in rows:
        numbers = (
            f"{row.raw / 1000:.1f} | {row.zstd / 1000:.1f} | {row.added / 1000:.1f} | "
            f"{row.raw / row.added:.1f}"
        )
        print(f"| {row.name} | {row.error:.5f} | {row.recorded:.5f} | {numbers} |")
    raw, packed = sum(row.raw for row in rows), sum(row.zstd for row in rows)
    print(
        f"\n{len(rows)} adapters: raw {raw / 1000:.0f} kB, zstd -19 {packed / 1000:.0f} kB, "
        f"store {store / 1000:.0f} kB in all (attachments, configs, log included)"
    )
    print(json.dumps({"raw": raw, "zstd": packed, "store": store, "ratio": round(raw / store, 2)}))


if __name__ == "__main__":
    main()
