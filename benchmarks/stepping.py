"""What a training pays for its versions: the copy at a step, and the steps while one is committed.

    python -m benchmarks.stepping [--shapes NAME ...] [--steps N]

A random model is trained in a plain loop on random tokens, on the processor. "Copy" is what
`Committer.commit` takes, for which the loop waits; the step beside a commit shares the processors
with the process that commits. Where the model is on a device of its own, that process takes nothing
from it.
"""

import argparse
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Final

import torch

import share_registry as sr

_BATCH: Final = (4, 64)
_VOCABULARY: Final = 1000
# Name -> hidden size, layers, modules with a LoRA of rank 16
SHAPES: Final[Mapping[str, tuple[int, int, tuple[str, ...]]]] = {
    "small": (384, 6, ("q_proj", "v_proj")),
    "large": (
        1024,
        12,
        ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
    ),
}


def main() -> None:
    """Print a table of shapes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--shapes", nargs="*", default=list(SHAPES), choices=list(SHAPES))
    parser.add_argument("--steps", type=int, default=12)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    print(
        "| model | adapter | step alone | step beside a commit | copy | copy of a step | commit |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name in options.shapes:
        print(_row(name, options.steps), flush=True)


def _row(name: str, steps: int) -> str:
    step, model = _training(name)
    size = sum(value.nbytes for value in model.parameters() if value.requires_grad)
    with tempfile.TemporaryDirectory() as folder:
        committer = sr.training.Committer(Path(folder) / "registry", task="cola")
        # the first one waits for the process to start
        committer.commit(model, step=0)
        _wait(committer, 0)
        alone, beside, copies, commits = [], [], [], []
        for number in range(1, 4):
            alone += [_timed(step) for _ in range(steps)]
            copies.append(_timed(partial(committer.commit, model, step=number)))
            begun = time.perf_counter()
            while number not in committer.report().committed:
                beside.append(_timed(step))
            commits.append(time.perf_counter() - begun)
        report = committer.close()
    assert not report.failed, report.failed
    times = [median(alone), median(beside), median(copies)]
    shown = " | ".join(f"{1000 * each:.1f} ms" for each in times)
    share = f"{100 * times[2] / times[0]:.1f} %"
    return f"| {name} | {size / 1e6:.1f} MB | {shown} | {share} | {median(commits):.1f} s |"


def _training(name: str) -> tuple[Callable[[], None], Any]:
    import peft
    from transformers import LlamaConfig, LlamaForCausalLM

    width, layers, modules = SHAPES[name]
    config = LlamaConfig(
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=layers,
        num_attention_heads=8,
        vocab_size=_VOCABULARY,
    )
    torch.manual_seed(0)
    model = peft.get_peft_model(
        LlamaForCausalLM(config), peft.LoraConfig(r=16, target_modules=list(modules))
    )
    model.peft_config["default"].base_model_name_or_path = f"acme/{name}"
    optimizer = torch.optim.AdamW(
        [value for value in model.parameters() if value.requires_grad], lr=1e-3
    )
    tokens = torch.randint(_VOCABULARY, _BATCH)

    def step() -> None:
        model(input_ids=tokens, labels=tokens).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    step()
    return step, model


def _timed(call: Callable[[], object]) -> float:
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


def _wait(committer: Any, step: int) -> None:
    while step not in committer.report().committed:
        time.sleep(0.01)


if __name__ == "__main__":
    main()
