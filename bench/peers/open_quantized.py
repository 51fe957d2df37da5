"""Opens folders that Graft's quantizers wrote with the Python originals and compares the logits with Graft's own.

Usage: open_quantized.py MODEL LOGITS [MODEL LOGITS ...], where LOGITS is what `peer_logits MODEL LOGITS` wrote.
GPTQ folders are opened by transformers with GPTQModel, AWQ folders by AutoAWQ; both in float32 on the CPU. Exits with an error
when a folder is refused or a logit differs by more than 1e-3.
"""
import importlib.metadata
import json
import sys

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

LIMIT = 1e-3


def open_gptq(folder):
    return AutoModelForCausalLM.from_pretrained(folder, torch_dtype=torch.float32, device_map="cpu")


def open_awq(folder):
    import awq.models.base
    from awq import AutoAWQForCausalLM
    from awq.modules.linear.gemm import WQLinear_GEMM
    from awq.utils.packing_utils import dequantize_gemm

    # Without IPEX, AutoAWQ refuses the CPU, and its fallback multiplies in float16: here it is not told what the device is, and the
    # weights of its own unpacker are multiplied in float32.
    awq.models.base.get_best_device = lambda: "any"

    def forward(layer, x):
        weight = dequantize_gemm(layer.qweight, layer.qzeros, layer.scales.float(), layer.w_bit, layer.group_size)
        y = x @ weight
        return y if layer.bias is None else y + layer.bias.float()

    WQLinear_GEMM.forward = forward
    model = AutoAWQForCausalLM.from_quantized(folder, fuse_layers=False, device_map={"": "cpu"}, torch_dtype=torch.float16)
    return model.model.float()


OPENERS = {"gptq": (open_gptq, ["gptqmodel", "optimum"]), "awq": (open_awq, ["autoawq"])}

worst = 0.0
for folder, file in zip(sys.argv[1::2], sys.argv[2::2]):
    with open(f"{folder}/config.json") as config:
        quantization = json.load(config)["quantization_config"]
    opener, packages = OPENERS[quantization["quant_method"]]
    versions = ", ".join(f"{p} {importlib.metadata.version(p)}" for p in [*packages, "transformers", "torch"])
    model = opener(folder).eval()
    packed = [m for m in model.modules() if hasattr(m, "qweight")]
    assert packed, f"{folder}: nothing in it is quantized"
    mine = load_file(file)
    with torch.no_grad():
        theirs = model(mine["ids"]).logits.float()
    error = (theirs - mine["logits"]).abs().max().item()
    worst = max(worst, error)
    print(f"{folder.rstrip('/').rsplit('/', 1)[-1]}: {len(packed)} layers of {type(packed[0]).__name__} ({versions}): "
          f"largest difference {error:.2e}, largest logit {mine['logits'].abs().max().item():.2f}", flush=True)
sys.exit(worst > LIMIT)
