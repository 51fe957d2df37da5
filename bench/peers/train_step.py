"""One training step of the tiny Llama with PEFT over GPTQModel, for comparison with bench/llama_bench.

Prints one JSON line: seconds per step (minimum, median), tokens per second, peak resident memory. Run it with the interpreter of
bench/peers/.venv; arguments name the model folder, the dtype, and the shape of the batch.
"""
import argparse
import json
import resource
import statistics
import time

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, GPTQConfig

PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="examples/models/tiny-llama-gptq")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--seq", type=int, default=256)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    trainable = GPTQConfig(bits=4, backend="auto_trainable")  # some of the kernels that it would choose have no backward
    base = AutoModelForCausalLM.from_pretrained(args.model, torch_dtype=getattr(torch, args.dtype), device_map="cpu",
                                                quantization_config=trainable)
    model = get_peft_model(base, LoraConfig(r=8, lora_alpha=16, target_modules=PROJECTIONS, task_type="CAUSAL_LM"))
    model.train()
    wrapped = type(model.base_model.model.model.layers[0].self_attn.q_proj.base_layer).__name__
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-4)
    ids = torch.randint(0, base.config.vocab_size, (args.batch, args.seq))

    seconds = []
    for _ in range(args.steps + 2):
        start = time.perf_counter()
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.perf_counter() - start)
    seconds = seconds[2:]  # the first steps allocate and compile
    print(json.dumps({
        "name": f"peft/{wrapped}/{args.dtype}/{args.batch}x{args.seq}/{args.threads}t",
        "min_s": min(seconds),
        "median_s": statistics.median(seconds),
        "tokens_per_s": args.batch * args.seq / statistics.median(seconds),
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }))


if __name__ == "__main__":
    main()
