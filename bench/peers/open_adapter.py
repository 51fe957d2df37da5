"""Opens adapter folders that Graft wrote with PEFT itself and holds every tensor and the logits against Graft's own.

Usage: open_adapter.py MODEL ADAPTER LOGITS, where LOGITS is what `peer_logits MODEL LOGITS ADAPTER` wrote. Exits with an error when PEFT
refuses the folder, leaves a tensor of it unused or a parameter of the adapter unfilled, or when a logit differs by more than 1e-3.
"""
import sys
import warnings

import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

model_folder, adapter_folder, logits_file = sys.argv[1:4]
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    base = AutoModelForCausalLM.from_pretrained(model_folder, torch_dtype=torch.float32, device_map="cpu").eval()
    mine = load_file(logits_file)
    with torch.no_grad():
        bare = base(mine["ids"]).logits.float()
    model = PeftModel.from_pretrained(base, adapter_folder).eval()
missing = [str(w.message) for w in caught if "missing adapter keys" in str(w.message)]
assert not missing, missing  # PEFT only warns of parameters that the folder does not have

saved = load_file(f"{adapter_folder}/adapter_model.safetensors")
held = dict(model.named_parameters())
for name, tensor in saved.items():
    head, _, tail = name.rpartition(".")
    candidates = [f"{head}.default.{tail}", f"{name}.default", f"{name}.default.weight"]
    match = next((held[c] for c in candidates if c in held), None)
    assert match is not None, f"{name} is not in the model"
    assert torch.equal(match.detach().cpu(), tensor.to(match.dtype)), f"{name} differs after loading"
with torch.no_grad():
    theirs = model(mine["ids"]).logits.float()
error = (theirs - mine["logits"]).abs().max().item()
config = model.peft_config["default"]
print(f"{config.peft_type.value:8} {len(saved)} tensors equal; the adapter moves the logits by up to {(theirs - bare).abs().max().item():.3f}, "
      f"and Graft's differ from PEFT's by up to {error:.1e} (largest {theirs.abs().max().item():.1f})")
sys.exit(error > 1e-3)
