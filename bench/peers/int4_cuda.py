"""PyTorch's product with 4-bit weights on a GPU (_weight_int4pack_mm, bf16, groups of 128), for comparison with bench/cuda_bench.

Prints a JSON line per shape, named as cuda_bench's rows. Measured as there: graphs of products that read weights in turn, 256 MB of them and
more, one graph behind another between two events; the answer is checked against the dequantized weight. Any PyTorch for CUDA will do.
"""
import argparse
import json
import statistics
import sys

import torch

GROUP = 128
COLD_BYTES = 256 << 20


def quantized(k, n):
    """A random weight as the product takes it, its scales with its zeros, and the dense weight [n, k] that they stand for."""
    codes = torch.randint(0, 16, (n, k), device="cuda", dtype=torch.int32)
    pairs = (codes[:, ::2] << 4 | codes[:, 1::2]).to(torch.uint8)
    packed = torch.ops.aten._convert_weight_to_int4pack(pairs, 8)
    scales = (torch.rand(k // GROUP, n, device="cuda") + 0.5) * 0.2 / k**0.5
    zeros = torch.randn(k // GROUP, n, device="cuda") / k**0.5
    both = torch.stack([scales, zeros], -1).to(torch.bfloat16)
    wide = both.float().repeat_interleave(GROUP, 0)
    return packed, both, ((codes.t().float() - 8) * wide[..., 0] + wide[..., 1]).t()


def seconds(products, graph_of, rounds=31):
    """Median seconds of a product, by replays of a graph of `products` of them."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        graph_of()  # chooses and loads what it needs
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        graph_of()
    times = []
    for _ in range(rounds):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        graph.replay()
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) * 1e-3 / products)
    return statistics.median(times)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--shapes", default="4096x4096,8192x8192,8192x28672", help="K x N, separated by commas")
    parser.add_argument("--rows", default="1,16,64,256,1024,4096", help="values of M")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("int4_cuda.py: there is no GPU to measure")

    torch.manual_seed(0)
    for shape in args.shapes.split(","):
        k, n = map(int, shape.split("x"))
        copies = -(-COLD_BYTES // (k * n // 2))
        weights = [quantized(k, n)[:2] for _ in range(copies - 1)]
        *last, dense = quantized(k, n)
        weights.append(tuple(last))
        for m in map(int, args.rows.split(",")):
            x = torch.rand(m, k, device="cuda", dtype=torch.bfloat16) * 2 - 1
            y = torch.ops.aten._weight_int4pack_mm(x, weights[-1][0], GROUP, weights[-1][1]).float()
            wanted = x[:4].float() @ dense.t()
            error = ((y[:4] - wanted).norm() / wanted.norm()).item()
            products = copies * max(1, 32 // copies)

            def run():
                for i in range(products):
                    torch.ops.aten._weight_int4pack_mm(x, weights[i % copies][0], GROUP, weights[i % copies][1])

            suffix = "" if (k, n) == (4096, 4096) else f"/K:{k}/N:{n}"
            print(json.dumps({
                "name": f"torch_int4/bf16/fwd/M:{m}/cold{suffix}",
                "median_us": 1e6 * seconds(products, run),
                "error": error,
                "device": torch.cuda.get_device_name(),
                "torch": torch.__version__,
            }), flush=True)


if __name__ == "__main__":
    main()
