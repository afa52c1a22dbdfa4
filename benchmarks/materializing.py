"""What materializing costs beside its floor, and what one task costs beside two peers.

The peers are `peft.load_adapter` and vlora-dev's `reconstruct`.

    python -m benchmarks.materializing [--cells NAME ...] [--peers SHAPE ...] [--rounds N]
    [--threads N]

The floor of a pass is the larger of two: resident rows and coefficients read once plus results
written, over the copy bandwidth of this machine (bytes read plus bytes written over time, 256 MiB),
and the operations over its rate (a product of two square matrices of 2048). Both are measured in
every round beside the passes, and times are given as the median of the rounds' ratios. Nothing is
remembered of results, references come in a new order every round, and a pass begins with resolving
them. `with out`: results are written into memory given as `out`; `without`: the results before are
dropped and their memory is used again.

Peak memory is that of the pass, above what the process had before anything was loaded; beside it
the sum that it shall not exceed: rows, coefficients and results as numbers of 4 bytes. What loading
left free in the allocator was given back before. Spaces are made by `benchmarks.spaces`. Beside the
peers every call asks for a task that none before it asked for, and the least time of each is taken:
what else a machine does lengthens short times only.
"""

import argparse
import ctypes
import gc
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch

import share_registry as sr
from benchmarks.memory import peak_mb
from benchmarks.spaces import SHAPES, Kind, Shape, build, flops, numbers

COPIED: Final = 64 << 20
"""Numbers: 256 MiB."""
SQUARE: Final = 2048
PEER_TASKS: Final = 64
LOADED: Final = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One row of the table."""

    shape: str
    tasks: int
    kind: Kind
    dtype: str | None = None

    @property
    def stored(self) -> str:
        """Return how its tasks are stored, in words."""
        basis = f"basis k = {self.kind.k}" if self.kind.k else ""
        own = "own rows" if self.kind.own else ""
        chain = f"version {self.kind.before + 1}" if self.kind.before else ""
        return ", ".join(
            part
            for part in (basis, own, chain, f"made in {self.dtype}" if self.dtype else "")
            if part
        )


def _cell(
    shape: str,
    tasks: int,
    *,
    rank: int = 16,
    k: int = 64,
    own: bool = False,
    before: int = 0,
    dtype: str | None = None,
) -> Cell:
    return Cell(
        shape=shape, tasks=tasks, kind=Kind(rank=rank, k=k, own=own, before=before), dtype=dtype
    )


CELLS: Final = {
    "minilm-1": _cell("minilm", 1),
    "minilm-64": _cell("minilm", 64),
    "minilm-512": _cell("minilm", 512),
    "roberta-1": _cell("roberta", 1),
    "roberta-64": _cell("roberta", 64),
    "roberta-64-r8": _cell("roberta", 64, rank=8),
    "roberta-64-r64": _cell("roberta", 64, rank=64),
    "roberta-64-own": _cell("roberta", 64, k=0, own=True),
    "roberta-64-both": _cell("roberta", 64, own=True),
    "roberta-8-chain": _cell("roberta", 8, k=0, own=True, before=4),
    "roberta-512": _cell("roberta", 512),
    "mistral-qv-1": _cell("mistral-qv", 1),
    "mistral-qv-1-own": _cell("mistral-qv", 1, k=0, own=True),
    "mistral-qv-8": _cell("mistral-qv", 8),
    "mistral-qv-64": _cell("mistral-qv", 64),
    "mistral-qv-8-own": _cell("mistral-qv", 8, k=0, own=True),
    "mistral-qv-64-r8": _cell("mistral-qv", 64, rank=8),
    "mistral-qv-512": _cell("mistral-qv", 512, dtype="bfloat16"),
    "mistral-all-8": _cell("mistral-all", 8),
}
DEFAULT: Final = (
    "minilm-1",
    "minilm-64",
    "minilm-512",
    "roberta-1",
    "roberta-64",
    "roberta-64-r64",
    "roberta-64-own",
    "roberta-64-both",
    "roberta-8-chain",
    "mistral-qv-1",
    "mistral-qv-1-own",
    "mistral-qv-8",
    "mistral-qv-64",
)


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cells", nargs="*", choices=list(CELLS), default=list(DEFAULT))
    parser.add_argument(
        "--peers", nargs="*", choices=list(SHAPES), default=["roberta", "mistral-qv"]
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--measure", nargs=2, metavar=("CELL", "REGISTRY"), help=argparse.SUPPRESS)
    parser.add_argument("--beside", nargs=2, metavar=("SHAPE", "PLACE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.measure:
        print(
            json.dumps(
                _measure(CELLS[options.measure[0]], Path(options.measure[1]), options.rounds)
            )
        )
        return
    if options.beside:
        print(
            json.dumps(_beside(SHAPES[options.beside[0]], Path(options.beside[1]), options.rounds))
        )
        return
    if options.cells:
        _floors(options)
    if options.peers:
        _peers(options)


def _floors(options: argparse.Namespace) -> None:
    print(f"One pass over distinct tasks, fp32, {options.threads} thread(s)\n")
    print(
        "| shape | r | stored as | tasks | floor ms | bound by | with out / floor | without / "
        "floor | resolving ms | peak MB | rows + coefficients + results MB | ratio |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for name in options.cells:
        cell = CELLS[name]
        with tempfile.TemporaryDirectory() as place:
            build(Path(place) / "registry", SHAPES[cell.shape], cell.kind, cell.tasks)
            figures = _child(options, "--measure", name, f"{place}/registry")
        row = (
            f"{cell.shape} | {cell.kind.rank} | {cell.stored} | {cell.tasks} | "
            f"{figures['floor'] * 1e3:.2f} | {figures['by']} | {figures['out']:.2f} | "
            f"{figures['new']:.2f}"
        )
        memory = (
            f"{figures['peak']:.0f} | {figures['allowed']:.0f} | "
            f"{figures['peak'] / figures['allowed']:.3f}"
        )
        print(f"| {row} | {figures['resolving'] * 1e3:.2f} | {memory} |", flush=True)


def _peers(options: argparse.Namespace) -> None:
    print(
        f"\nOne task beside the peers, {PEER_TASKS} tasks in the space, r = 16, "
        f"{options.threads} thread(s)\n"
    )
    print(
        "| shape | stored as | what | ms | by the peer ms | ratio |\n"
        "| --- | --- | --- | --- | --- | --- |"
    )
    for name in options.peers:
        with tempfile.TemporaryDirectory() as place:
            seconds = _child(options, "--beside", name, place)
        for stored, verb, peer in (
            ("basis k = 64", "materialize", "vlora"),
            ("own rows", "materialize", "vlora"),
            ("basis k = 64", "swap", "peft"),
            ("own rows", "swap", "peft"),
            ("basis k = 64", "materialize", "peft"),
            ("own rows", "materialize", "peft"),
        ):
            ours, theirs = seconds[f"{verb}, {stored}"], seconds[peer]
            title = {"vlora": "vlora-dev reconstruct", "peft": "peft load_adapter"}[peer]
            print(
                f"| {name} | {stored} | {verb} beside {title} | {ours * 1e3:.2f} | "
                f"{theirs * 1e3:.2f} | {theirs / ours:.1f} |",
                flush=True,
            )


def _child(options: argparse.Namespace, *arguments: str) -> dict[str, Any]:
    command = [
        sys.executable,
        "-m",
        "benchmarks.materializing",
        *arguments,
        "--rounds",
        str(options.rounds),
        "--threads",
        str(options.threads),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return dict(json.loads(done.stdout.splitlines()[-1]))


class Machine:
    """The copy bandwidth and the rate of products of this machine, measured again and again."""

    def __init__(self) -> None:
        self._from, self._to = torch.ones(COPIED), torch.zeros(COPIED)
        self._square = [torch.randn(SQUARE, SQUARE) for _ in range(3)]

    def bytes_per_s(self) -> float:
        """Return bytes read and written over time."""
        return 8.0 * COPIED / _seconds(lambda: self._to.copy_(self._from))

    def flops_per_s(self) -> float:
        """Return operations over time."""
        return (
            2.0
            * SQUARE**3
            / _seconds(lambda: torch.mm(self._square[0], self._square[1], out=self._square[2]))
        )


def _seconds(call: Callable[[], object], times: int = 1) -> float:
    begin = time.perf_counter()
    for _ in range(times):
        call()
    return (time.perf_counter() - begin) / times


def _measure(cell: Cell, root: Path, rounds: int) -> dict[str, Any]:
    refs = [f"task{number:04}" for number in range(cell.tasks)]
    machine = Machine()
    _warm_up()
    with (
        sr.Registry.open(root, mode="r") as registry,
        sr.Materializer(registry, dtype=cell.dtype) as materializer,
    ):
        before = _resident_mb()
        materializer.prefetch(refs)
        _resident_mb()
        memory = materializer.buffers()
        materializer.materialize(refs, out=memory)
        peak = peak_mb() - before
        samples = [_round(cell, machine, materializer, refs, memory) for _ in range(rounds)]
        floor, excess, out, new, resolving = (
            statistics.median(column) for column in zip(*samples, strict=True)
        )
        allowed = numbers(SHAPES[cell.shape], cell.kind, cell.tasks) * 4 + memory.size_bytes
    by = "rate" if excess > 0 else "bandwidth"
    return {
        "floor": floor,
        "by": by,
        "out": out,
        "new": new,
        "resolving": resolving,
        "peak": peak,
        "allowed": allowed / 1e6,
    }


def _round(
    cell: Cell, machine: Machine, materializer: sr.Materializer, refs: list[str], memory: Any
) -> tuple[float, ...]:
    random.shuffle(refs)
    call = partial(materializer.materialize, refs, out=memory)
    times = max(1, int(0.02 / _seconds(call)))
    by_bytes = (materializer.resident_bytes + memory.size_bytes) / machine.bytes_per_s()
    by_flops = flops(SHAPES[cell.shape], cell.kind) * cell.tasks / machine.flops_per_s()
    floor = max(by_bytes, by_flops)
    out, new = _seconds(call, times), _seconds(partial(materializer.materialize, refs), times)
    return (
        floor,
        by_flops - by_bytes,
        out / floor,
        new / floor,
        _seconds(partial(materializer.prefetch, refs), times),
    )


def _warm_up() -> None:
    """Do everything once in small.

    What is imported or made on first use is not memory of a pass.
    """
    with tempfile.TemporaryDirectory() as place:
        refs = build(Path(place), SHAPES["minilm"], Kind(rank=4, k=4, own=True), 2)
        with (
            sr.Registry.open(place, mode="r") as registry,
            sr.Materializer(registry) as materializer,
        ):
            materializer.materialize(refs)


def _resident_mb() -> float:
    """Return what this process has in memory, and let its peak begin again there if possible.

    What is free goes back to the system first.
    """
    gc.collect()
    clear = Path("/proc/self/clear_refs")
    if clear.exists():
        ctypes.CDLL(None).malloc_trim(0)
        clear.write_text("5")
    return peak_mb()


def _beside(shape: Shape, place: Path, rounds: int) -> dict[str, float]:
    seconds: dict[str, float] = {}
    folders: list[Path] = []
    for stored, kind in (
        ("basis k = 64", Kind(rank=16, k=64, own=False)),
        ("own rows", Kind(rank=16, k=0, own=True)),
    ):
        root = place / stored.replace(" ", "")
        refs = build(root, shape, kind, LOADED + rounds)
        with (
            sr.Registry.open(root, mode="r") as registry,
            sr.Materializer(registry) as materializer,
        ):
            materializer.prefetch(refs)
            folders = folders or [
                adapter.save(place / ref)
                for ref, adapter in materializer.materialize(refs[:LOADED]).items()
            ]
            model, memory = _model(shape, folders[0]), materializer.buffers()
            seconds[f"materialize, {stored}"] = _each(
                refs, partial(materializer.materialize, out=memory)
            )
            seconds[f"swap, {stored}"] = _each(refs, partial(materializer.swap, model))
    seconds["peft"] = _peft(_model(shape, folders[0]), folders[1:])
    seconds["vlora"] = _vlora(shape, rounds)
    return seconds


def _each(values: Sequence[Any], call: Callable[[Any], object]) -> float:
    """Return the least time of a call with one of the values.

    With the first one it was called before.
    """
    call(values[0])
    return min(_seconds(partial(call, value)) for value in values[1:])


def _peft(model: Any, folders: Sequence[Path]) -> float:
    times = []
    for number, folder in enumerate(folders):
        times.append(_seconds(partial(model.load_adapter, str(folder), adapter_name=f"a{number}")))
        model.delete_adapter(f"a{number}")
    return min(times)


def _model(shape: Shape, folder: Path) -> Any:
    """Return a model of the adapted modules alone, with one adapter.

    Its weights are bfloat16 and never touched.
    """
    import peft

    root = torch.nn.Module()
    for layer in range(shape.layers):
        for name, (width, out) in shape.modules.items():
            module = root
            for part in f"model.layers.{layer:02}.{name}".split(".")[:-1]:
                if not hasattr(module, part):
                    module.add_module(part, torch.nn.Module())
                module = getattr(module, part)
            linear = torch.nn.utils.skip_init(
                torch.nn.Linear, width, out, bias=False, dtype=torch.bfloat16
            )  # type: ignore[no-untyped-call]
            module.add_module(name.rpartition(".")[2], linear)
    return peft.PeftModel.from_pretrained(root, str(folder))


def _vlora(shape: Shape, rounds: int) -> float:
    """Return seconds of one task from as many components as there are tasks.

    Fewer do not hold tasks that are independent.
    """
    from vlora.subspace import SharedSubspace, TaskProjection

    names = [f"{layer}.{name}" for layer in range(shape.layers) for name in shape.modules]
    widths = [widths for _ in range(shape.layers) for widths in shape.modules.values()]
    parts = [
        {
            name: torch.randn(PEER_TASKS, 16 * width[side])
            for name, width in zip(names, widths, strict=True)
        }
        for side in (0, 1)
    ]
    means = [{name: rows.mean(0) for name, rows in part.items()} for part in parts]
    ones = {name: torch.ones(PEER_TASKS) for name in names}
    tasks = {
        str(number): TaskProjection(
            str(number), *({name: torch.randn(PEER_TASKS) for name in names} for _ in range(2))
        )
        for number in range(PEER_TASKS)
    }
    space = SharedSubspace(
        names, parts[0], parts[1], ones, ones, means[0], means[1], tasks, 16, PEER_TASKS
    )
    return _each(list(tasks)[: 1 + rounds], space.reconstruct)


if __name__ == "__main__":
    main()
