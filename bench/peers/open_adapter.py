"""Opens an adapter folder written by Graft with PEFT itself and prints the logits' checksum and the largest tensor of the adapter.

Usage: open_adapter.py MODEL ADAPTER. Exits with an error when PEFT refuses the folder or leaves a tensor of it unused.
"""
import sys
import warnings

import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

warnings.simplefilter("error", UserWarning)  # PEFT only warns of keys that are missing
model_folder, adapter_folder = sys.argv[1:3]
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    base = AutoModelForCausalLM.from_pretrained(model_folder, torch_dtype=torch.float32, device_map="cpu")
    bare = base(torch.arange(16)[None]).logits.detach().clone()
    model = PeftModel.from_pretrained(base, adapter_folder).eval()
saved = load_file(f"{adapter_folder}/adapter_model.safetensors")
held = dict(model.named_parameters())
for name, tensor in saved.items():
    head, _, tail = name.rpartition(".")
    candidates = [f"{head}.default.{tail}", f"{name}.default", f"{name}.default.weight"]
    match = next((held[c] for c in candidates if c in held), None)
    assert match is not None, f"{name} is not in the model"
    assert torch.equal(match.detach().cpu(), tensor.to(match.dtype)), f"{name} differs after loading"
logits = model(torch.arange(16)[None]).logits.detach()
print(f"{len(saved)} tensors open in PEFT; the adapter moves the logits by up to {(logits - bare).abs().max().item():.4f}")
