#!/usr/bin/env bash
# The step and inference beside PyTorch at its best.
# shellcheck source=tools/gpu_parts/environment.sh
. "$(dirname "$0")/environment.sh"

needs_torch
needs_hardware "a comparison"
settings=()
if $quick; then settings=(--widths "8,8" --turns 2 --repeats 1); fi
tell() {
  figure "$(python3 -c '
import json, sys
report = json.load(open(sys.argv[1]))
print("; ".join("{task} {precision}: ratio {ratio:.2f} ({ms:.2f} ms)".format(**h) for h in report["headlines"]))' \
    "$out/compare.json" 2> /dev/null || echo "no task was finished")"
}
trap tell EXIT
"$python" "$folder/tools/compare" --device "$device" --engine "$bin/step" --json "$out/compare.json" \
  --seconds $((limit - 15)) "${settings[@]}"
