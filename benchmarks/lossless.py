"""Every bit kept: share_registry at budget 0 beside zipnn, pcodec and what cannot be gone below.

    python -m benchmarks.lossless [--corpus CORPUS] [--against DIRECTORY] [--shapes NAME ...]

CORPUS is a folder with `<task>/<version>` PEFT directories; without one, the adapters that ship
with the project. Of the adapters of its most common shape, one a task, the factors are stored as
they are (float32), and rounded to bfloat16 and float16; of synthetic adapters of Mistral's shapes in
bfloat16 the factors are Gaussian. Ratios are of the bytes of the tensors. Ours are those of whole
adapter objects, headers and tables included; the peers get tensor after tensor, or each adapter as
one array, whichever they shorten more, and pay for no header. The floor is the entropy of a Gaussian of each
row's own size, rounded to the element type: what a coder that knows the sizes of all rows, for
nothing, would come to where rows are Gaussian.

Processor times are of encoding and decoding in one process, the best of five. With DIRECTORY, a
checkout of another revision, its objects and times stand beside, and so do those of whole commits
at budget 0, in turns, each a process of its own.

Needs zipnn and pcodec: `pip install zipnn==0.5.4 pcodec==1.1.0`, or the group `dev`.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import log
from pathlib import Path
from statistics import median
from typing import Any, Final

import numpy as np
import torch
from safetensors.torch import load_file, save_file

import share_registry as sr
from benchmarks.committing import SHAPES, write_shape
from benchmarks.peers import common_shape

try:
    import pcodec.standalone
    import zipnn
except ImportError as error:
    raise SystemExit(f"{error}: pip install zipnn==0.5.4 pcodec==1.1.0") from error

DEMO: Final = Path(sr.__file__).parent / "demo_data"
TYPES: Final = (torch.float32, torch.bfloat16, torch.float16)
REPEAT: Final = 5
COMMITS: Final = 3
# Numbers of a row from which on its size is known; narrower factors are turned
_ROW: Final = 64
_CODE: Final = """
import json, sys, time
from pathlib import Path
from share_registry.exchange.peft_directory import read_place
from share_registry.format import adapter_object
from share_registry.outside.files import Outside
from share_registry.registry.commands.coding import serialize
sizes, times = 0, [0.0, 0.0]
for folder in sys.argv[2:]:
    adapter = read_place(Path(folder), outside=Outside())
    modules = [None] * len(adapter.layout.modules())
    best = [9e9, 9e9]
    for _ in range(int(sys.argv[1])):
        start = time.process_time()
        stored = serialize(adapter, modules, None, ())
        middle = time.process_time()
        content = stored.objects[stored.digest]
        adapter_object.decode(content, adapter.layout)
        best = [min(best[0], middle - start), min(best[1], time.process_time() - middle)]
    sizes += len(content)
    times = [a + b for a, b in zip(times, best)]
print(json.dumps([sizes, *times]))
"""
_COMMIT: Final = """
import sys, time
import share_registry as sr
with sr.Registry.open(sys.argv[1]) as registry:
    registry.commit(sys.argv[2], task="a", budget=0)
print(time.process_time())
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Coded:
    """What a tool makes of some adapters: bytes, and processor seconds."""

    size: int
    encode_s: float
    decode_s: float


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--corpus", type=Path, default=DEMO)
    parser.add_argument("--against", type=Path, help="a checkout of another revision")
    parser.add_argument("--shapes", nargs="*", default=["mistral-qv"], choices=list(SHAPES))
    options = parser.parse_args()
    checkouts = {"ours": Path(__file__).resolve().parents[1]}
    if options.against is not None:
        checkouts = {"ours, before": options.against.resolve(), **checkouts}
    print("| adapters | kB | what | ratio | encoding s | decoding s |")
    print("| --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as place:
        collections = dict(_collections(Path(place), options))
        for name, folders in collections.items():
            _compare(name, folders, checkouts)
        print(
            "\n| one commit at budget 0 | " + " | ".join(f"{name}, s" for name in checkouts) + " |"
        )
        print("| --- |" + " --- |" * len(checkouts))
        for name, folders in collections.items():
            times = _commit_times(folders[0], checkouts)
            print(f"| {name} | " + " | ".join(f"{seconds:.2f}" for seconds in times) + " |")


def _collections(place: Path, options: argparse.Namespace) -> Iterator[tuple[str, list[Path]]]:
    folders = common_shape(options.corpus)
    newest = {folder.parent: folder for folder in reversed(folders)}
    for dtype in TYPES:
        name = f"{len(newest)} real, {str(dtype).removeprefix('torch.')}"
        yield (
            name,
            [
                _rounded(folder, place / name / folder.parent.name, dtype)
                for folder in newest.values()
            ],
        )
    for shape in options.shapes:
        yield f"{shape}, bfloat16", [write_shape(place / shape, shape)]


def _rounded(folder: Path, target: Path, dtype: torch.dtype) -> Path:
    """Write the factors of an adapter in another element type."""
    target.mkdir(parents=True)
    tensors = load_file(folder / "adapter_model.safetensors")
    factors = {
        key: value.to(dtype).contiguous() for key, value in tensors.items() if "lora_" in key
    }
    save_file(factors, target / "adapter_model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    config["modules_to_save"] = None
    (target / "adapter_config.json").write_text(json.dumps(config))
    return target


def _compare(name: str, folders: Sequence[Path], checkouts: Mapping[str, Path]) -> None:
    adapters = [
        [each.contiguous() for each in load_file(folder / "adapter_model.safetensors").values()]
        for folder in folders
    ]
    tensors = [tensor for each in adapters for tensor in each]
    size = sum(tensor.nbytes for tensor in tensors)
    rows = {which: _ours(folders, checkout) for which, checkout in checkouts.items()}
    rows |= {"zipnn": _zipnn(adapters), "pcodec": _pcodec(adapters)}
    floor = sum(_floor_bits(tensor) for tensor in tensors) / 8 / size
    for which, coded in rows.items():
        print(
            f"| {name} | {size / 1e3:.0f} | {which} | {coded.size / size:.4f} | "
            f"{coded.encode_s:.3f} | {coded.decode_s:.3f} |",
            flush=True,
        )
    print(f"| {name} | {size / 1e3:.0f} | floor | {floor:.4f} | | |", flush=True)


def _run(checkout: Path, code: str, *arguments: str) -> Any:
    """Run Python code of a checkout in a process of its own; return what it prints."""
    output = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, *arguments],
        check=True,
        capture_output=True,
        env=os.environ | {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"},
        cwd=checkout,
    ).stdout
    return json.loads(output.splitlines()[-1])


def _ours(folders: Sequence[Path], checkout: Path) -> Coded:
    size, encode_s, decode_s = _run(checkout, _CODE, str(REPEAT), *map(str, folders))
    return Coded(size=size, encode_s=encode_s, decode_s=decode_s)


def _commit_times(folder: Path, checkouts: Mapping[str, Path]) -> list[float]:
    """Return the median processor time of whole commits by each checkout, in turns."""
    times: dict[str, list[float]] = {name: [] for name in checkouts}
    for _ in range(COMMITS):
        for name, checkout in checkouts.items():
            with tempfile.TemporaryDirectory() as root:
                times[name].append(_run(checkout, _COMMIT, f"{root}/registry", str(folder)))
    return [median(each) for each in times.values()]


def _zipnn(adapters: Sequence[Sequence[torch.Tensor]]) -> Coded:
    dtype = str(adapters[0][0].dtype).removeprefix("torch.")
    tool = zipnn.ZipNN(input_format="byte", bytearray_dtype=dtype)
    arrays = [[tensor.view(torch.uint8).numpy() for tensor in tensors] for tensors in adapters]
    return _shortest(arrays, lambda array: tool.compress(array.tobytes()), tool.decompress)


def _pcodec(adapters: Sequence[Sequence[torch.Tensor]]) -> Coded:
    """Compress numbers; pcodec has no bfloat16, of which it gets the bits."""
    config = pcodec.ChunkConfig()
    arrays = [
        [
            tensor.view(torch.int16).numpy().view(np.uint16)
            if tensor.dtype is torch.bfloat16
            else tensor.numpy()
            for tensor in tensors
        ]
        for tensors in adapters
    ]
    return _shortest(
        arrays,
        lambda array: pcodec.standalone.simple_compress(array, config),
        pcodec.standalone.simple_decompress,
    )


def _shortest(
    adapters: Sequence[Sequence[Any]],
    encode: Callable[[Any], bytes],
    decode: Callable[[bytes], object],
) -> Coded:
    """Give a tool tensor after tensor, and whole adapters; return the shorter of the two."""
    single = [array.ravel() for arrays in adapters for array in arrays]
    whole = [np.concatenate([array.ravel() for array in arrays]) for arrays in adapters]
    forms = [_timed(arrays, encode, decode) for arrays in (single, whole)]
    return min(forms, key=lambda coded: coded.size)


def _timed(
    contents: Sequence[Any], encode: Callable[[Any], bytes], decode: Callable[[bytes], object]
) -> Coded:
    best = [float("inf"), float("inf")]
    coded: list[bytes] = []
    for _ in range(REPEAT):
        start = time.process_time()
        coded = [encode(content) for content in contents]
        middle = time.process_time()
        for each in coded:
            decode(each)
        best = [min(best[0], middle - start), min(best[1], time.process_time() - middle)]
    return Coded(size=sum(map(len, coded)), encode_s=best[0], decode_s=best[1])


def _floor_bits(tensor: torch.Tensor) -> float:
    """Return the bits of Gaussian numbers of the size of each row, rounded to the element type."""
    rows = tensor.flatten(1) if tensor.shape[-1] >= _ROW else tensor.flatten(1).T
    grid, more = (
        (_positive(torch.float16), 0)
        if tensor.dtype is torch.float16
        # between two bfloat16 values the density is even: further digits are a bit each
        else (_positive(torch.bfloat16), 16 if tensor.dtype is torch.float32 else 0)
    )
    edges = (grid[1:] + grid[:-1]) / 2
    sizes = rows.double().square().mean(dim=1).sqrt()
    return sum(rows.shape[1] * (_entropy(edges / size) + more) for size in sizes if size > 0)


def _positive(dtype: torch.dtype) -> torch.Tensor:
    """Return the finite values of an element type from 0 on, in float64."""
    values = torch.arange(1 << 15).to(torch.int16).view(dtype).double()
    return values[values.isfinite()]


def _entropy(edges: torch.Tensor) -> float:
    """Return the bits of a Gaussian number of either sign, rounded to what lies between edges."""
    below = torch.cat([edges.new_zeros(1), torch.erf(edges / 2**0.5), edges.new_ones(1)])
    shares = below.diff()
    return 1 + float(torch.special.entr(shares).sum()) / log(2)


if __name__ == "__main__":
    main()
