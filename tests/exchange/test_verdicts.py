"""What the lint says of PEFT and transformers is what they do with the same files.

Those servers whose wheels are too large to install for every run have scripts of their own:
`tests/serving/check_*_verdicts.py` and `check_llama_cpp.py`.
"""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers

from share_registry.exchange.importers.formats import read_place
from share_registry.exchange.targets.servers import notes_by_target
from share_registry.exchange.targets.subject import ServerOutcome
from share_registry.outside.files import Outside
from tests.exchange import zoo

Original = Callable[[str], Path]

# What load_adapter of transformers has to be right for: models of its own, in float32
LOADED = sorted(
    name
    for name, case in zoo.CASES.items()
    if case.dtype == torch.float32
    and not {"layer_replication", "ensure_weight_tying", "alora_invocation_tokens"}
    & {*case.options}
    and not name.startswith(("convolution", "grouped", "attention"))
)
FAR = 1e-3
"""Logits of another function; those of the same one agree bit for bit."""


def outcomes(directory: Path, target: str) -> dict[str, ServerOutcome]:
    """Return the lint's notes of one server, with what each means."""
    adapter = read_place(directory, outside=Outside())
    return {note: outcome for name, outcome, note in notes_by_target(adapter) if name == target}


def apart(actual: Any, expected: Any) -> float:
    return float((zoo.logits(actual) - zoo.logits(expected)).abs().max())


@pytest.mark.parametrize("name", sorted(set(zoo.CASES) - {"bf16", "fp16"}))
def test_peft_0_21_loads_what_its_verdict_lets_pass(name: str, original: Original) -> None:
    assert peft.__version__.startswith("0.21.")
    verdicts = outcomes(original(name), "peft")
    assert all(outcome is ServerOutcome.SETTING for outcome in verdicts.values())
    assert apart(zoo.load(name, original(name)), zoo.live(name)) == zoo.EXACT


@pytest.mark.parametrize("name", LOADED)
def test_transformers_5_23_loses_what_its_verdict_says(name: str, original: Original) -> None:
    assert transformers.__version__.startswith("5.23.")
    model: Any = zoo.CASES[name].base()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.load_adapter(str(original(name)))
    loses = [note for note in outcomes(original(name), "peft") if "load_adapter loses" in note]
    assert (apart(model, zoo.live(name)) > FAR) is bool(loses)
