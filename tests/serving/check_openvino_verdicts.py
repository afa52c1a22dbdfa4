"""Compare the lint of OpenVINO GenAI with what it generates from the files of the zoo, on a CPU.

    python -m venv openvino
    openvino/bin/pip install openvino-genai==2026.4.1 optimum-intel==2.2.0 peft==0.21.2 .
    openvino/bin/python -m tests.serving.check_openvino_verdicts

Tiny Llamas with random weights are converted with optimum-intel, and generate 20 tokens after each
of two prompts, as PEFT's do where the adapter is read rightly. It takes five minutes.
"""

import tempfile
import warnings
from pathlib import Path
from typing import Any, Final

import numpy as np
import openvino
import openvino_genai
import torch
from openvino_tokenizers import convert_tokenizer
from optimum.intel import OVModelForCausalLM
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tests.exchange import zoo
from tests.exchange.consumers import LLAMAS, MISREAD, REFUSED, RIGHT, Form, compare

TOKENS: Final = 20
# In which the computation is as PEFT's
FLOATS: Final = {"INFERENCE_PRECISION_HINT": "f32"}


def main() -> None:
    """Convert the base models, and generate."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        root = Path(folder)
        converted: dict[str, Path] = {}

        def behave(form: Form) -> tuple[str, str]:
            base: Any = zoo.CASES[form.name].base()
            sizes = base.config.to_json_string(use_diff=False)
            if sizes not in converted:
                converted[sizes] = _convert(base, root / f"base{len(converted)}")
            expected = _generate_with_peft(form.name, form.directory)
            try:
                tokens = _generate(converted[sizes], form.directory / "adapter_model.safetensors")
            except RuntimeError as error:
                return REFUSED, str(error).splitlines()[-1][:90]
            same = sum(a == b for a, b in zip(tokens, expected, strict=True))
            words = f"{same} of {len(expected)} tokens as PEFT"
            return (RIGHT if same == len(expected) else MISREAD), words

        compare("openvino", LLAMAS, root, behave)


def _convert(base: Any, folder: Path) -> Path:
    """Convert a base model, with a vocabulary of letters."""
    base.generation_config.eos_token_id = None
    base.save_pretrained(folder / "base")
    model = OVModelForCausalLM.from_pretrained(
        folder / "base", export=True, compile=False, load_in_8bit=False
    )
    model.save_pretrained(folder)
    letters = [chr(ord("A") + number) for number in range(zoo.VOCABULARY)]
    words = Tokenizer(models.BPE({letter: number for number, letter in enumerate(letters)}, []))
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    special = dict(zip(("pad_token", "bos_token", "eos_token"), letters, strict=False))
    graphs = convert_tokenizer(
        PreTrainedTokenizerFast(tokenizer_object=words, **special), with_detokenizer=True
    )
    for name, graph in zip(("tokenizer", "detokenizer"), graphs, strict=True):
        openvino.save_model(graph, folder / f"openvino_{name}.xml")
    return folder


def _generate(base: Path, file: Path) -> list[int]:
    """Return the tokens that OpenVINO GenAI generates with an adapter at alpha 1, its default."""
    config = openvino_genai.GenerationConfig()
    config.max_new_tokens, config.ignore_eos, config.do_sample = TOKENS, True, False
    adapters = openvino_genai.AdapterConfig(openvino_genai.Adapter(str(file)))
    pipeline = openvino_genai.LLMPipeline(str(base), "CPU", adapters=adapters, **FLOATS)
    prompts = (openvino.Tensor(row[None].numpy().astype(np.int64)) for row in zoo.TOKENS)
    return [token for prompt in prompts for token in pipeline.generate(prompt, config).tokens[0]]


def _generate_with_peft(name: str, directory: Path) -> list[int]:
    model = zoo.load(name, directory)
    return [token for row in zoo.TOKENS for token in _continue(model, row[None])]


def _continue(model: Any, tokens: torch.Tensor) -> list[int]:
    with torch.no_grad():
        for _ in range(TOKENS):
            following = model(tokens).logits[:, -1].argmax(-1, keepdim=True)
            tokens = torch.cat([tokens, following], 1)
    return [int(token) for token in tokens[0, -TOKENS:]]


if __name__ == "__main__":
    main()
