"""What a commit takes: processor time, wall time and memory of whole processes.

    python -m benchmarks.committing [--shapes NAME ...] [--against DIRECTORY] [--repeat N]

Adapters of independent Gaussian factors, which is the dearest kind: nothing is shared, no row is
weaker than another. For each shape the first adapter of a space, a second one, and a version that
continues the first (a fifth of every number is new), each a process of its own that imports, opens
the registry and commits at the default budget, with the threads that the environment has.
DIRECTORY is a checkout of another revision, measured in turns in the same run. Beside them what
else is done with the same file: a pass over it in float32 that makes the Grams of all factors,
`zstd -3`, and reading and saving it with safetensors.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

import torch
import zstandard
from safetensors.torch import load_file, save_file

_LINEAR: Final = {
    "q_proj": (4096, 4096),
    "k_proj": (1024, 4096),
    "v_proj": (1024, 4096),
    "o_proj": (4096, 4096),
    "gate_proj": (14336, 4096),
    "up_proj": (14336, 4096),
    "down_proj": (4096, 14336),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Which modules an adapter has: (out, in) by name, in so many layers."""

    modules: Mapping[str, tuple[int, int]]
    layers: int
    rank: int
    dtype: torch.dtype = torch.bfloat16


SHAPES: Final[Mapping[str, Shape]] = {
    "minilm": Shape(
        modules={"query": (384, 384), "value": (384, 384)},
        layers=6,
        rank=8,
        dtype=torch.float32,
    ),
    "roberta": Shape(
        modules={"query": (768, 768), "value": (768, 768)},
        layers=12,
        rank=16,
        dtype=torch.float32,
    ),
    "mistral-qv": Shape(
        modules={name: _LINEAR[name] for name in ("q_proj", "v_proj")}, layers=32, rank=16
    ),
    "mistral": Shape(modules=_LINEAR, layers=32, rank=16),
    "mistral-r64": Shape(modules=_LINEAR, layers=32, rank=64),
}
STEPS: Final = ("first", "second", "continued")
_NEW: Final = 0.2
# What a child runs, in whichever checkout: public calls alone
_CHILD: Final = """
import json, re, sys, time
start = time.perf_counter()
import share_registry as sr
root, folder, task = sys.argv[1:]
with sr.Registry.open(root) as registry:
    report = registry.commit(folder, task=task).report
status = open("/proc/self/status").read()
print(json.dumps({
    "cpu": time.process_time(),
    "wall": time.perf_counter() - start,
    "peak": int(re.findall(r"VmHWM:\\s+(\\d+)", status)[0]) * 1024 / 1e6,
    "bytes": report.bytes_added,
    "error": report.error,
}))
"""


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shapes", nargs="*", default=list(SHAPES)[:-1], choices=list(SHAPES))
    parser.add_argument("--against", type=Path, help="a checkout of another revision")
    parser.add_argument("--repeat", type=int, default=1, help="of each; the median is shown")
    options = parser.parse_args()
    checkouts = {"now": Path(__file__).resolve().parents[1]}
    if options.against is not None:
        checkouts = {"before": options.against.resolve(), **checkouts}
    print("| adapter | what | processor s | wall s | peak MB | stored kB | error % |")
    print("| --- | --- | --- | --- | --- | --- | --- |", flush=True)
    for name in options.shapes:
        with tempfile.TemporaryDirectory() as directory:
            folders = dict(_write(Path(directory), name))
            for what, seconds in _others(folders["first"]):
                print(f"| {name} | {what} | {seconds:.2f} | | | | |", flush=True)
            _measure(name, folders, checkouts, options.repeat)


def _measure(
    name: str, folders: Mapping[str, Path], checkouts: Mapping[str, Path], repeat: int
) -> None:
    runs: dict[tuple[str, str], list[dict[str, float]]] = {}
    for _ in range(repeat):
        for which, checkout in checkouts.items():
            with tempfile.TemporaryDirectory() as root:
                for step in STEPS:
                    task = "first" if step == "continued" else step
                    runs.setdefault((step, which), []).append(
                        _commit(checkout, Path(root) / "registry", folders[step], task)
                    )
    for step in STEPS:
        for which in checkouts:
            some = runs[step, which]
            figures = {key: median(run[key] for run in some) for key in some[0]}
            print(
                f"| {name} | {step}, {which} | {figures['cpu']:.2f} | {figures['wall']:.2f} |"
                f" {figures['peak']:.0f} | {figures['bytes'] / 1e3:.1f} |"
                f" {100 * figures['error']:.3f} |",
                flush=True,
            )


def _commit(checkout: Path, root: Path, folder: Path, task: str) -> dict[str, float]:
    """Commit in a process of its own; return what it took."""
    output = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _CHILD, str(root), str(folder), task],
        check=True,
        capture_output=True,
        env=os.environ | {"PYTHONPATH": str(checkout)},
        cwd=checkout,
    ).stdout
    figures: dict[str, float] = json.loads(output.splitlines()[-1])
    return figures


def _write(root: Path, name: str) -> Iterator[tuple[str, Path]]:
    """Write the adapters of a shape; yield what they are for, and where they lie."""
    shape, first = SHAPES[name], {}
    for step in STEPS:
        generator = torch.Generator().manual_seed(STEPS.index(step))
        tensors = {
            key: _normal(size, generator)
            for layer in range(shape.layers)
            for module, (out, width) in shape.modules.items()
            for key, size in (
                (_key(layer, module, "A"), (shape.rank, width)),
                (_key(layer, module, "B"), (out, shape.rank)),
            )
        }
        if step == "first":
            first = tensors
        elif step == "continued":
            tensors = {key: first[key] + _NEW * value for key, value in tensors.items()}
        folder = root / step
        folder.mkdir()
        save_file(
            {key: value.to(shape.dtype) for key, value in tensors.items()},
            folder / "adapter_model.safetensors",
            metadata={"format": "pt"},
        )
        config: dict[str, Any] = {
            "peft_type": "LORA",
            "base_model_name_or_path": f"synthetic/{name}",
            "r": shape.rank,
            "lora_alpha": 2 * shape.rank,
            "target_modules": sorted(shape.modules),
            "bias": "none",
        }
        (folder / "adapter_config.json").write_text(json.dumps(config))
        yield step, folder


def write_shape(root: Path, name: str) -> Path:
    """Write the first adapter of a shape; return its directory."""
    root.mkdir(parents=True)
    return next(_write(root, name))[1]


def _key(layer: int, module: str, side: str) -> str:
    return f"base_model.model.model.layers.{layer}.self_attn.{module}.lora_{side}.weight"


def _normal(size: tuple[int, int], generator: torch.Generator) -> torch.Tensor:
    return torch.randn(size, generator=generator, dtype=torch.float32) * 0.02


def _others(folder: Path) -> Iterator[tuple[str, float]]:
    """Yield what else is done with a file, and the processor time of each."""
    path = folder / "adapter_model.safetensors"
    tensors, content = load_file(path), path.read_bytes()
    factors = {
        key: value if "lora_A" in key else value.T.contiguous() for key, value in tensors.items()
    }

    def grams() -> None:
        for factor in factors.values():
            rows = factor.float()
            rows @ rows.T

    def save() -> None:
        save_file(load_file(path), folder / "again.safetensors")

    for what, work in (
        ("a float32 pass of Grams", grams),
        ("zstd -3", lambda: zstandard.ZstdCompressor(level=3).compress(content)),
        ("safetensors, read and saved", save),
    ):
        start = time.process_time()
        work()
        yield what, time.process_time() - start
    (folder / "again.safetensors").unlink()


if __name__ == "__main__":
    main()
