"""What a consumer of adapters does with the files of the zoo, beside what the lint says of it.

An adapter comes in its own form, in the portable one, and with the scale 1, as a scale that is left
out hides what else is. Tests and the scripts `check_*.py` say how a consumer reads a directory.
"""

import json
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from transformers.pytorch_utils import Conv1D

from share_registry.exchange.config import CONFIG_FILE
from share_registry.exchange.export_files import CardFacts, files_of
from share_registry.exchange.importers.formats import read_place
from share_registry.exchange.targets.servers import TARGETS, notes_by_target
from share_registry.exchange.targets.subject import ServerOutcome
from share_registry.outside.files import Outside
from tests.exchange import zoo

# Cases whose base is a Llama that generates
LLAMAS: Final = sorted(
    name for name, case in zoo.CASES.items() if case.base.__name__ in ("llama", "<lambda>")
)
# Cases whose base is a model that servers know by name: all but a few layers with convolutions
SERVED: Final = sorted(name for name, case in zoo.CASES.items() if case.base is not zoo.vision)
# What is done with an adapter: of several notes, the first of these counts
REFUSED: Final = ServerOutcome.REFUSED.value
MISREAD: Final = ServerOutcome.MISREAD.value
RIGHT: Final = "right"
CLOSE: Final = 1e-5
"""Between logits of order one that two programs compute in float32."""
FAR: Final = 1e-4
"""At least so far is what is left out of any adapter of the zoo."""
_SCALING: Final = ("use_rslora", "rank_pattern", "alpha_pattern")


@dataclass(frozen=True, kw_only=True)
class Form:
    """An adapter of the zoo as files.

    Attributes:
        name: Its case.
        kind: "native", "portable", "split" (portable, with a pair for each expert, as the base model
            is known by name) or "scale_1".
        directory: Its files.
        source: Files of the same function that PEFT reads whatever version of transformers there is.
    """

    name: str
    kind: str
    directory: Path
    source: Path

    def __str__(self) -> str:
        return f"{self.name}, {self.kind}"


def forms_of(name: str, root: Path) -> Iterator[Form]:
    """Write an adapter of the zoo in each of its forms."""
    native = zoo.save_live(name, root / f"{name}-native")
    yield Form(name=name, kind="native", directory=native, source=native)
    case = zoo.CASES[name]
    if case.portable:
        portable = _write_portable(native, root / f"{name}-portable", "")
        yield Form(name=name, kind="portable", directory=portable, source=portable)
    if case.base is zoo.mixtral:
        split = _write_portable(native, root / f"{name}-split", "mistralai/Mixtral-8x7B-v0.1")
        yield Form(name=name, kind="split", directory=split, source=native)
    config = json.loads((native / CONFIG_FILE).read_text())
    if not any(config.get(field) for field in _SCALING):
        plain = Path(shutil.copytree(native, root / f"{name}-scale_1"))
        (plain / CONFIG_FILE).write_text(json.dumps(config | {"lora_alpha": config["r"]}))
        yield Form(name=name, kind="scale_1", directory=plain, source=plain)


def _write_portable(native: Path, folder: Path, base_model: str) -> Path:
    """Write the portable form of an adapter of a base model, "" where that is not named."""
    folder.mkdir()
    adapter = read_place(native, outside=Outside())
    files, _ = files_of(adapter, profile="portable", card=CardFacts(base_model=base_model))
    for file, content in files.items():
        (folder / file).write_bytes(content)
    return folder


def verdict(directory: Path, target: str, settled: tuple[str, ...] = ()) -> str:
    """Return the lint's verdict: refused, misread or right.

    Args:
        directory: The adapter.
        target: The consumer.
        settled: Beginnings of notes that do not hold for the base models of the zoo.
    """
    adapter = read_place(directory, outside=Outside())
    outcomes = {
        outcome.value
        for name, outcome, note in notes_by_target(adapter)
        if name == target and not note.startswith(settled)
    }
    return next((each for each in (REFUSED, MISREAD) if each in outcomes), RIGHT)


def judge(actual: torch.Tensor, expected: torch.Tensor) -> tuple[str, str]:
    """Return whether logits are those of PEFT, and how far they are from them."""
    away = float((actual - expected).abs().max())
    assert away < CLOSE or away > FAR, away
    return (RIGHT if away < CLOSE else MISREAD), f"{away:.1e} from PEFT"


def judge_updates(form: Form, updates: Mapping[str, torch.Tensor]) -> tuple[str, str]:
    """Return whether a base model with some dW added computes what PEFT does with an adapter."""
    model: Any = zoo.CASES[form.name].base()
    if updates.keys() & {"lm_head"}:
        # a head that is tied to the embedding gets a dW of its own
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    with torch.no_grad():
        for path, delta in updates.items():
            owner, _, name = path.rpartition(".")
            part = getattr(model.get_submodule(owner), name)
            # fused experts are a parameter without a module of its own
            weight = part if isinstance(part, torch.nn.Parameter) else part.weight
            weight += delta.T if isinstance(part, Conv1D) else delta
    return judge(zoo.logits(model), zoo.logits(zoo.load(form.name, form.source)))


def compare(
    target: str,
    names: Iterable[str],
    root: Path,
    behave: Callable[[Form], tuple[str, str]],
    settled: tuple[str, ...] = (),
) -> None:
    """Print what a consumer does and whether the lint says so; end with code 1 where it does not.

    Args:
        target: The consumer, as the lint calls it.
        names: Cases of the zoo.
        root: Where files are written.
        behave: Returns what it does, refused, misread or right, and a few words on that.
        settled: As of `verdict`.
    """
    wrong, count = [], 0
    for form in (form for name in names for form in forms_of(name, root)):
        actual, words = behave(form)
        said = verdict(form.directory, target, settled)
        count += 1
        wrong += [] if actual == said else [str(form)]
        remark = "" if actual == said else f"; the lint says {said}"
        sys.stdout.write(f"{form}: {actual} ({words}){remark}\n")
    server = TARGETS[target]
    sys.stdout.write(
        f"{server.title} {server.release}: {count - len(wrong)} of {count} verdicts are right\n"
    )
    if wrong:
        raise SystemExit(f"wrong: {'; '.join(wrong)}")
