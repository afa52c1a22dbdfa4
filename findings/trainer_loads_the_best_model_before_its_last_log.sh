#!/usr/bin/env bash
# transformers 4.57.3 and 5.23.0, load_best_model_at_end: which weights a callback finds in on_log of
# the last log of a training (the one with train_runtime) depends on the major release.
#
# 4.57.3 loads the best checkpoint first and logs then, so the model has the weights of the best step
# under the number of the last step. 5.23.0 logs first. A callback that keeps a version of the last
# step there keeps another step's weights under its number; nothing in its arguments tells. What both
# give truly is the model in on_evaluate and on_save.
#
# Seen: "4.57.3: weights of step 2 at the last log of step 4" and "5.23.0: weights of step 4 at the last
# log of step 4". Exits 1 when that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/train.py" <<'PY'
import sys
import warnings

import torch
import transformers
from transformers import Trainer, TrainerCallback, TrainingArguments

warnings.simplefilter("ignore")


class Number(torch.nn.Module):
    """One weight that is the number of the step; step 2 is the best."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, x, labels=None):
        loss = (self.weight - labels.float().mean()).square().sum()
        return {"loss": loss, "logits": self.weight.expand(len(x), 1)}


class Look(TrainerCallback):
    seen = None

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        model.weight.grad.fill_(-1.0)  # with a rate of 1, each step adds one

    def on_log(self, args, state, control, model=None, logs=None, **kwargs):
        if "train_runtime" in logs:
            Look.seen = (round(model.weight.item()), state.global_step)


rows = [{"x": torch.zeros(1), "labels": torch.tensor(2)} for _ in range(8)]
arguments = TrainingArguments(
    sys.argv[1], max_steps=4, per_device_train_batch_size=1, save_steps=1, eval_strategy="steps", eval_steps=1,
    load_best_model_at_end=True, learning_rate=1.0, optim="sgd", lr_scheduler_type="constant", max_grad_norm=0,
    report_to=[], use_cpu=True, disable_tqdm=True,
)
Trainer(Number(), arguments, train_dataset=rows, eval_dataset=rows, callbacks=[Look()]).train()
weights, step = Look.seen
print(f"{transformers.__version__}: weights of step {weights} at the last log of step {step}", file=sys.stderr)
PY
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0
for version in 4.57.3 5.23.0; do
    "$folder/venv/bin/pip" install -q "transformers==$version" accelerate==1.12.0
    "$folder/venv/bin/python" "$folder/train.py" "$folder/out-$version" 2>>"$folder/log" >/dev/null
done
grep "weights of step" "$folder/log"
test "$(grep "weights of step" "$folder/log")" = "4.57.3: weights of step 2 at the last log of step 4
5.23.0: weights of step 4 at the last log of step 4"
