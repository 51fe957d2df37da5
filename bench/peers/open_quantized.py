"""Opens folders that Graft's quantizers wrote with the Python originals and compares the logits with Graft's own.

Usage: open_quantized.py MODEL LOGITS [MODEL LOGITS ...], where LOGITS is what `peer_logits MODEL LOGITS` wrote.
GPTQ folders are opened by transformers with GPTQModel, AWQ folders by AutoAWQ; both in float32 on the CPU. Exits with an error
when a folder is refused or a logit differs by more than 1e-3.
"""
import json
import sys

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM


def open_gptq(folder):
    return AutoModelForCausalLM.from_pretrained(folder, torch_dtype=torch.float32, device_map="cpu")


def open_awq(folder):
    from awq import AutoAWQForCausalLM

    model = AutoAWQForCausalLM.from_quantized(folder, fuse_layers=False, device_map="cpu", torch_dtype=torch.float32)
    return model.model.float()


worst = 0.0
for folder, file in zip(sys.argv[1::2], sys.argv[2::2]):
    with open(f"{folder}/config.json") as config:
        quantization = json.load(config)["quantization_config"]
    model = {"gptq": open_gptq, "awq": open_awq}[quantization["quant_method"]](folder)
    packed = {type(m).__name__ for m in model.modules() if hasattr(m, "qweight")}
    assert packed, f"{folder}: nothing in it is quantized"
    mine = load_file(file)
    with torch.no_grad():
        theirs = model(mine["ids"]).logits.float()
    error = (theirs - mine["logits"]).abs().max().item()
    worst = max(worst, error)
    print(f"{folder.rstrip('/').rsplit('/', 1)[-1]}: {', '.join(sorted(packed))}: largest difference {error:.2e}, "
          f"largest logit {mine['logits'].abs().max().item():.2f}", flush=True)
sys.exit(worst > 1e-3)
