"""Compare the lint of vLLM with what the code of its wheel does with the files of the zoo.

    python -m pip download vllm==0.33.0 --no-deps -d DIRECTORY
    python -m tests.serving.check_vllm_verdicts DIRECTORY/vllm-0.33.0-*.whl

Its modules that read an adapter are loaded, with empty ones in place of what they import: the config
is read and checked, the tensors are loaded and scaled, on a CPU. Of what it lets pass, dW is compared.
"""

import importlib
import sys
import tempfile
import zipfile
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, Final

import torch

from share_registry.exchange.peft_directory import read_directory
from share_registry.exchange.servers import ServerOutcome, notes_by_target
from share_registry.outside.files import Outside
from tests.exchange import zoo
from tests.exchange.foreign import SAME, distance, updates

# Of a Llama: what its class in vLLM says that LoRA may be on
EXPECTED: Final = {*zoo.MLP, "embed_tokens", "lm_head", "qkv_proj", "gate_up_proj", "experts"}
MEMBERS: Final = tuple(
    f"vllm/lora/{name}.py" for name in ("peft_helper", "lora_model", "lora_weights", "utils")
)
# Llama's classes; that of Mixtral refuses or drops by names that a module of the model has
NAMES: Final = sorted(
    name
    for name, case in zoo.CASES.items()
    if case.base.__name__ in ("llama", "classifier", "<lambda>")
)
# Needs a server that was started for it; the rules that depend on the class of the model
DEPENDING: Final = ("start it with", "refuses embedding factors but for some models")


class Anything(ModuleType):
    """A module that has every name."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


def main() -> None:
    """Load each adapter as vLLM does, and compare."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        with zipfile.ZipFile(sys.argv[1]) as archive:
            for member in MEMBERS:
                (root / member).parent.mkdir(parents=True, exist_ok=True)
                (root / member).write_bytes(archive.read(member))
            members = {name for name in archive.namelist() if name.startswith("vllm/")}
        for package in ("vllm", "vllm/lora"):
            (root / package / "__init__.py").touch()
        _stand_in(members)
        sys.path.insert(0, str(root))
        helper = importlib.import_module("vllm.lora.peft_helper").PEFTHelper
        model = importlib.import_module("vllm.lora.lora_model").LoRAModel
        for name in NAMES:
            _check(name, zoo.save_live(name, root / name), helper, model)


def _stand_in(members: set[str]) -> None:
    """Put empty modules in place of all others of the wheel."""
    own = {member.removesuffix(".py").replace("/", ".") for member in MEMBERS}
    for member in members:
        name = member.removesuffix("/__init__.py").removesuffix(".py").replace("/", ".")
        if member.endswith(".py") and name not in own and name not in ("vllm", "vllm.lora"):
            sys.modules[name] = Anything(name)
    logger: Any = sys.modules["vllm.logger"]
    logger.init_logger = lambda _: SimpleNamespace(
        **dict.fromkeys(("info", "warning", "debug", "warning_once", "info_once"), lambda *_: None)
    )
    utilities: Any = sys.modules["vllm.utils.torch_utils"]
    utilities.PIN_MEMORY = False


def _check(name: str, directory: Path, helper: Any, model: Any) -> None:
    adapter = read_directory(directory, outside=Outside())
    notes = [
        note
        for target, outcome, note in notes_by_target(adapter)
        if target == "vllm" and outcome is not ServerOutcome.SETTING
    ]
    certain = [note for note in notes if not note.startswith(DEPENDING)]
    loaded, reason = _load(directory, helper, model)
    assert (loaded is None) is bool(certain), (name, certain, reason)
    if loaded is None:
        sys.stdout.write(f"{name}: refused, {reason}\n")
        return
    expected = updates(adapter)
    pairs = {module: weights for module, weights in loaded.loras.items() if module in expected}
    for module, weights in pairs.items():
        delta = weights.lora_b.double() @ weights.lora_a.double() * weights.scaling
        is_table = module.endswith("embed_tokens")
        assert distance(delta.T if is_table else delta, expected[module]) < SAME
    assert pairs.keys() == expected.keys()
    sys.stdout.write(f"{name}: loaded with the same dW, {len(pairs)} modules\n")


def _load(directory: Path, helper: Any, model: Any) -> tuple[Any, str]:
    """Return what vLLM makes of an adapter, or None and why it makes nothing of it."""
    try:
        peft_helper = helper.from_local_dir(str(directory), max_position_embeddings=None)
        peft_helper.validate_legal(SimpleNamespace(max_lora_rank=512))
        loaded = model.from_local_checkpoint(
            str(directory),
            EXPECTED,
            peft_helper=peft_helper,
            lora_model_id=1,
            device="cpu",
            dtype=torch.float32,
            model_vocab_size=zoo.VOCABULARY,
        )
    except (ValueError, KeyError, AssertionError) as error:
        return None, str(error).strip()[:90]
    return loaded, ""


if __name__ == "__main__":
    main()
