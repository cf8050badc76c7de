"""TFLOP/s of torch.matmul on square matrices as one line of JSON, beside those that `engine bench --json` wrote.

    product.py [--device cuda:0] [--size 8192] [BENCH_JSON...]
"""
import argparse
import json
import statistics
import time

import torch


def seconds(device, run, repeats):
    """Mean seconds of a run."""
    if device.type != "cuda":
        begin = time.perf_counter()
        for _ in range(repeats):
            run()
        return (time.perf_counter() - begin) / repeats
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(repeats):
        run()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1e3 / repeats


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--size", type=int, default=8192)
    parser.add_argument("bench", nargs="*")
    args = parser.parse_args()
    n, device = args.size, torch.device(args.device)
    found = {"size": n, "torch": {}, "engine": {}}
    for name, dtype in (("f32", torch.float32), ("tf32", torch.float32), ("bf16", torch.bfloat16)):
        torch.backends.cuda.matmul.allow_tf32 = name != "f32"
        x, y = (torch.rand(n, n, device=device).sub_(0.5).to(dtype) for _ in range(2))
        out = torch.empty(n, n, device=device, dtype=dtype)
        run = lambda: torch.matmul(x, y, out=out)
        seconds(device, run, 3)
        found["torch"][name] = 2 * n**3 / statistics.median(seconds(device, run, 5) for _ in range(5)) / 1e12
    for path in args.bench:
        report = json.load(open(path))
        found["engine"][report["precision"]] = report["ceilings"]["product_gflop_per_second"] / 1e3
    print(json.dumps(found))


if __name__ == "__main__":
    main()
