"""What the lint says of ONNX Runtime GenAI is what its model builder and its runtime do, on a CPU."""

import importlib.metadata
import io
import warnings
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from tests.exchange import zoo
from tests.exchange.consumers import LLAMAS, REFUSED, Form, forms_of, judge, verdict

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import onnxruntime_genai as og
    from onnxruntime_genai.models import builder

HEAD_WIDTH = 16
"""Of which its kernels for attention take multiples alone."""


@pytest.fixture(autouse=True)
def heads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the zoo's Llamas heads that its kernels take."""
    monkeypatch.setattr(zoo, "LlamaConfig", partial(zoo.LlamaConfig, head_dim=HEAD_WIDTH))


def write_base(model: Any, folder: Path) -> Path:
    """Write a model as the builder reads it, with a vocabulary of words."""
    vocabulary = {f"word{number}": number for number in range(zoo.VOCABULARY)}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="word0"))
    special = {"pad_token": "word0", "bos_token": "word1", "eos_token": "word2"}
    PreTrainedTokenizerFast(tokenizer_object=words, **special).save_pretrained(folder)
    model.save_pretrained(folder)
    return folder


def build(base: Path, adapter: Path, folder: Path) -> Path:
    """Run the model builder, as its command line does."""
    place = ("base", str(base), str(folder), "fp32", "cpu", str(folder / "cache"))
    with redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        options = builder.parse_extra_options(*place, [f"adapter_path={adapter}"])
        builder.create_model(*place, **options)
    return folder


def logits(folder: Path) -> torch.Tensor:
    """Return what the runtime computes for the tokens of the zoo."""
    model = og.Model(str(folder))
    parameters = og.GeneratorParams(model)
    parameters.set_search_options(max_length=16, batch_size=len(zoo.TOKENS))
    generator = og.Generator(model, parameters)
    generator.append_tokens(zoo.TOKENS.numpy().astype(np.int32))
    return torch.from_numpy(np.array(generator.get_output("logits"))).float()


def behave(form: Form, folder: Path) -> str:
    """Return what it makes of an adapter, beside what PEFT makes of it."""
    base = write_base(zoo.CASES[form.name].base(), folder / "base")
    expected = zoo.logits(zoo.load(form.name, form.directory))
    try:
        actual = logits(build(base, form.directory, folder / "onnx"))
    except RuntimeError:
        return REFUSED
    return judge(actual, expected)[0]


@pytest.mark.parametrize("name", LLAMAS)
def test_onnxruntime_genai_0_18_does_what_its_verdict_says(name: str, tmp_path: Path) -> None:
    assert importlib.metadata.version("onnxruntime-genai").startswith("0.18.")
    for form in forms_of(name, tmp_path):
        folder = tmp_path / form.kind
        assert behave(form, folder) == verdict(form.directory, "onnxruntime"), form
