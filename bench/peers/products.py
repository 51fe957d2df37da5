"""Products with 4-bit weights (4096 × 4096, groups of 128) in the Python peers and in bench/quant_gemm_bench, in turns.

Every peer is given the same weights, says what it computes, and is checked against f64 before it is timed. A round times each peer
and each row of quant_gemm_bench once (the best of as many calls as fit in 0.1 s); printed are the medians over the rounds.
Usage: products.py BUILD [--threads 1] [--rows 1 4 16 64 512] [--rounds 5]. BUILD is a build folder with GRAFT_BENCH on.
Packages: those of ./setup, and onnxruntime and onnx. A peer whose package or processor is missing is left out and named.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import time

parser = argparse.ArgumentParser()
parser.add_argument("build")
parser.add_argument("--threads", type=int, default=1)
parser.add_argument("--rows", type=int, nargs="+", default=[1, 4, 16, 64, 512])
parser.add_argument("--rounds", type=int, default=5)
args = parser.parse_args()
os.environ["OMP_NUM_THREADS"] = str(args.threads)  # before torch is loaded

import numpy as np
import torch

SIZE, GROUP = 4096, 128
torch.set_num_threads(args.threads)
torch.manual_seed(0)
rng = np.random.default_rng(0)
codes = torch.from_numpy(rng.integers(0, 16, (SIZE, SIZE), dtype=np.int32))  # [out, in]; the zero point is 8 everywhere
scales = torch.from_numpy(rng.uniform(0.5, 1.5, (SIZE, SIZE // GROUP)).astype(np.float32) / 4096).bfloat16().float()
weight = (codes - 8).float() * scales.repeat_interleave(GROUP, 1)


def dense(dtype):
    w = weight.to(dtype).t()
    return lambda x: x @ w


def int4(dtype):
    packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes, 1)
    table = torch.stack([scales.t(), torch.zeros_like(scales.t())], 2).to(dtype).contiguous()
    return lambda x: torch.ops.aten._weight_int4pack_mm_for_cpu(x, packed, GROUP, table)


def int8(dtype):
    """Eight bits and one scale per row: another weight, read from twice the bytes."""
    row_scales = weight.abs().amax(1) / 127
    w = torch.round(weight / row_scales[:, None]).to(torch.int8)
    table = row_scales.to(dtype)
    multiply = lambda x: torch.ops.aten._weight_int8pack_mm(x, w, table)
    multiply.weight = w.double() * row_scales.double()[:, None]
    return multiply


def onnxruntime(accuracy):
    import onnx
    import onnxruntime as ort
    from onnx import TensorProto, helper, numpy_helper
    pairs = codes.numpy().astype(np.uint8).reshape(SIZE, SIZE // GROUP, GROUP // 2, 2)
    tensors = [numpy_helper.from_array(pairs[..., 0] | pairs[..., 1] << 4, "B"),
               numpy_helper.from_array(scales.numpy().reshape(-1), "scales")]
    node = helper.make_node("MatMulNBits", ["x", "B", "scales"], ["y"], domain="com.microsoft", K=SIZE, N=SIZE, bits=4,
                            block_size=GROUP, accuracy_level=accuracy)
    graph = helper.make_graph([node], "product", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, SIZE])],
                              [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, SIZE])], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)])
    model.ir_version = 9
    options = ort.SessionOptions()
    options.intra_op_num_threads = args.threads
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda x: torch.from_numpy(session.run(None, {"x": x.numpy()})[0])


def gptqmodel(module, name, dtype):
    import importlib
    kind = getattr(importlib.import_module(f"gptqmodel.nn_modules.qlinear.{module}"), name)
    problem = kind.validate_once()[1] if hasattr(kind, "validate_once") else None
    if problem:
        raise problem
    layer = kind(bits=4, group_size=GROUP, sym=True, desc_act=False, in_features=SIZE, out_features=SIZE, bias=False)
    shifts = torch.arange(0, 32, 4, dtype=torch.int64)
    words = (codes.t().reshape(SIZE // 8, 8, SIZE).to(torch.int64) << shifts[None, :, None]).sum(1)
    layer.qweight.copy_(torch.where(words >= 1 << 31, words - (1 << 32), words))
    layer.qzeros.fill_(-2004318072)  # 0x88888888: version 2 of the format
    layer.qzero_format(format=2)
    layer.scales = scales.t().to(dtype).contiguous()
    layer.g_idx.copy_(torch.arange(SIZE) // GROUP)
    layer.eval()
    layer.post_init()

    def multiply(x):
        with torch.inference_mode():
            return layer(x)
    return multiply


F32, BF16 = torch.float32, torch.bfloat16
PEERS = [  # name, activations, what it computes, how it is made
    ("torch dense f32", F32, "f32 from dense f32", lambda: dense(F32)),
    ("torch dense bf16", BF16, "bf16 from dense bf16, sums f32", lambda: dense(BF16)),
    ("torch int4pack bf16", BF16, "4 bits, bf16, sums f32", lambda: int4(BF16)),
    ("torch int8pack bf16", BF16, "8 bits, a scale per row, bf16, sums f32", lambda: int8(BF16)),
    ("onnxruntime MatMulNBits f32", F32, "4 bits, symmetric, f32", lambda: onnxruntime(1)),
    ("onnxruntime MatMulNBits int8", F32, "4 bits, symmetric, x in int8", lambda: onnxruntime(4)),
    ("GPTQModel TorchLinear f32", F32, "4 bits made dense, then f32", lambda: gptqmodel("torch", "TorchLinear", F32)),
    ("GPTQModel TorchAtenLinear bf16", BF16, "4 bits, bf16, sums f32", lambda: gptqmodel("torch_aten_kernel", "TorchAtenLinear", BF16)),
    ("GPTQModel TorchCpuAvx512Linear bf16", BF16, "4 bits, bf16, sums f32",
     lambda: gptqmodel("torch_cpu_avx512", "TorchCpuAvx512Linear", BF16)),
]
OURS = [("Graft f32", "gptq4g128/f32", "4 bits, f32"), ("Graft bf16", "gptq4g128/bf16", "4 bits, bf16, sums f32"),
        ("Graft int8", "gptq4g128/int8", "4 bits, x in int8 (opt-in)"), ("OpenBLAS f32", "dense_openblas/f32", "f32 from dense f32")]


def check(multiply, dtype):
    """The largest error, relative to the largest result; as much as roundings of x, weights and sums allow."""
    x = torch.randn(5, SIZE).to(dtype)
    exact = x.double() @ getattr(multiply, "weight", weight.double()).t()
    return ((multiply(x).double() - exact).abs().max() / exact.abs().max()).item()


def best_of(f):
    best, start = float("inf"), time.perf_counter()
    while time.perf_counter() - start < 0.1:
        before = time.perf_counter()
        f()
        best = min(best, time.perf_counter() - before)
    return best * 1e6


def graft(rows):
    """Microseconds of each row of quant_gemm_bench."""
    pattern = "^(" + "|".join(rows) + ")/manual_time$"
    out = subprocess.run([f"{args.build}/bench/quant_gemm_bench", f"--benchmark_filter={pattern}", "--benchmark_min_time=0.1",
                          "--benchmark_format=json"], check=True, capture_output=True, text=True).stdout
    report = json.loads(out)
    times = {b["name"].removesuffix("/manual_time"): 2e-3 * SIZE * SIZE * int(b["name"].split("M:")[1].split("/")[0]) / b["gflops"]
             for b in report["benchmarks"]}
    return times, report["context"]


def main():
    peers, refused = [], []
    for name, dtype, what, make in PEERS:
        try:
            multiply = make()
            error = check(multiply, dtype)
        except Exception as problem:  # whatever a peer may answer
            refused.append(f"{name}: {str(problem).splitlines()[0] if str(problem) else type(problem).__name__}")
            continue
        if not error < 0.03:
            refused.append(f"{name}: wrong by {error:.2g} of the largest result")
            continue
        peers.append((name, dtype, f"{what}; error {error:.1e}", multiply))

    times = {}
    rows = [f"{row}/fwd/M:{m}/hot/{args.threads}t" for m in args.rows for _, row, _ in OURS]
    for _ in range(args.rounds):
        for m in args.rows:
            for name, dtype, _, multiply in peers:
                x = torch.randn(m, SIZE).to(dtype)
                times.setdefault((name, m), []).append(best_of(lambda: multiply(x)))
        ours, context = graft(rows)
        for name, row, _ in OURS:
            for m in args.rows:
                key = f"{row}/fwd/M:{m}/hot/{args.threads}t"
                if key in ours:
                    times.setdefault((name, m), []).append(ours[key])

    print(f"{args.threads} threads, {args.rounds} rounds, torch {torch.__version__}; "
          + ", ".join(f"{k} {context[k]}" for k in ("isa", "fma_gflops_1t", "bf16_gflops_1t", "int8_gops_1t") if k in context))
    print(f"{'microseconds':37}" + "".join(f"{'M=' + str(m):>10}" for m in args.rows) + "   computes")
    for name, what in [(n, w) for n, _, w in OURS] + [(n, w) for n, _, w, _ in peers]:
        cells = (f"{statistics.median(times[name, m]):10.0f}" if (name, m) in times else f"{'-':>10}" for m in args.rows)
        print(f"{name:37}" + "".join(cells) + f"   {what}")
    for line in refused:
        print(f"left out: {line}")


if __name__ == "__main__":
    sys.exit(main())
