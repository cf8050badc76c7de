#!/usr/bin/env bash
# PyTorch's product of square matrices beside the engine's: the ceiling of everything that multiplies.
# shellcheck source=tools/gpu_parts/environment.sh
. "$(dirname "$0")/environment.sh"

needs_torch
needs_hardware "a ceiling"
for precision in f32 tf32 bf16; do
  "$bin/engine" bench --device "$device" --precision "$precision" --large --seconds 0 --json "$work/product-$precision.json" linear
done
"$python" "$parts/product.py" "$work"/product-*.json | tee "$logs/product.json"
figure "$(python3 - "$logs/product.json" << 'PYTHON'
import json, sys
r = json.load(open(sys.argv[1]))
print("TFLOP/s, engine and PyTorch: " + ", ".join(f"{k} {r['engine'].get(k, 0):.1f} and {v:.1f}" for k, v in r["torch"].items()))
PYTHON
)"
