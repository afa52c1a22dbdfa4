"""Train with the callback, and be killed in the middle: `python killed_run.py DIRECTORY`."""

import os
import signal
import sys
import warnings
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

import share_registry as sr
from tests.training.conftest import lora, trainer

KILLED_AT = 5


class Killer(TrainerCallback):  # type: ignore[misc]
    """Kills the process at a step, as a scheduler would."""

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Kill it."""
        if state.global_step == KILLED_AT:
            os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    directory = Path(sys.argv[1])
    callback = sr.transformers.CommitCallback(directory / "registry", task="cola", max_waiting=9)
    trainer(lora(), directory / "out", callback, Killer()).train()
