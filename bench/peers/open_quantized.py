"""Opens folders that Graft's quantizers wrote with the Python originals and compares the logits with Graft's own.

Usage: open_quantized.py MODEL LOGITS [MODEL LOGITS ...], where LOGITS is what `peer_logits MODEL LOGITS` wrote.
GPTQ folders are opened by GPTQModel (before version 7 through transformers), AWQ folders by AutoAWQ or, where that is not installed,
by GPTQModel from 7 on; all in float32 on the CPU. Exits with an error when a folder is refused or a logit differs by more than 1e-3.
"""
import importlib.metadata
import importlib.util
import json
import sys

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

LIMIT = 1e-3
GPTQMODEL = int(importlib.metadata.version("gptqmodel").split(".")[0])


def load_with_gptqmodel(folder, backend):
    from gptqmodel import BACKEND, GPTQModel

    return GPTQModel.load(folder, device="cpu", dtype=torch.float16, backend=getattr(BACKEND, backend)).model.float()


def open_gptq(folder):
    if GPTQMODEL >= 7:
        return load_with_gptqmodel(folder, "GPTQ_TORCH")
    return AutoModelForCausalLM.from_pretrained(folder, torch_dtype=torch.float32, device_map="cpu")


# The originals' CPU paths for AWQ multiply in float16 or bfloat16: here the weights of their own unpackers are multiplied in float32.
def multiply_in_float32(layer_class, dequantize):
    def forward(layer, x):
        bits = layer.bits if hasattr(layer, "bits") else layer.w_bit
        weight = dequantize(layer.qweight, layer.qzeros, layer.scales.float(), bits, layer.group_size)
        y = x @ weight
        return y if layer.bias is None else y + layer.bias.float()

    layer_class.forward = forward


def open_with_autoawq(folder):
    import awq.models.base
    from awq import AutoAWQForCausalLM
    from awq.modules.linear.gemm import WQLinear_GEMM
    from awq.utils.packing_utils import dequantize_gemm

    awq.models.base.get_best_device = lambda: "any"  # told that it is a CPU, it asks for IPEX
    multiply_in_float32(WQLinear_GEMM, dequantize_gemm)
    model = AutoAWQForCausalLM.from_quantized(folder, fuse_layers=False, device_map={"": "cpu"}, torch_dtype=torch.float16)
    return model.model.float()


def open_with_gptqmodel(folder):
    from gptqmodel.nn_modules.qlinear.torch_awq import AwqTorchLinear
    from gptqmodel.quantization.awq.utils.packing_utils import dequantize_gemm

    multiply_in_float32(AwqTorchLinear, dequantize_gemm)
    return load_with_gptqmodel(folder, "AWQ_TORCH")


OPENERS = {"gptq": (open_gptq, ["gptqmodel"]), "awq": (open_with_gptqmodel, ["gptqmodel"])}
if importlib.util.find_spec("awq"):
    OPENERS["awq"] = (open_with_autoawq, ["autoawq"])

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
