"""One line on the files of `engine bench --json`: bench.py FILE..."""
import json
import math
import os
import sys


def line(path):
    r = json.load(open(path))
    rates = [c["of_product"] for c in r["cases"] if c["case"].startswith("conv2d") and c["flops"] > 1e10]
    mean = math.exp(sum(map(math.log, rates)) / len(rates)) if rates else None
    c = r["ceilings"]
    text = (f"{r['precision']}: {len(r['cases'])} cases, copy {c['copy_gb_per_second']:.0f} GB/s, "
            f"product {c['product_gflop_per_second'] / 1e3:.1f} TFLOP/s")
    return text + (f", large convolutions at {mean:.0%} of it" if mean else "")


print("; ".join(line(path) for path in sys.argv[1:] if os.path.exists(path)) or "no case was finished")
