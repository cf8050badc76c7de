#!/usr/bin/env bash
# cuDNN on the largest convolutions; record.py sets its rows beside those of bench.
# shellcheck source=tools/gpu_parts/environment.sh
. "$(dirname "$0")/environment.sh"

needs_torch
needs_hardware cuDNN
settings=()
if $quick; then settings=(--count 2); fi
tell() { figure "$(grep -c '"seconds"' "$logs/cudnn.jsonl" || true) passes timed"; }
trap tell EXIT
"$python" "$parts/cudnn.py" "$folder/benches/conv-shapes.csv" --seconds $((limit - 8)) "${settings[@]}" | tee "$logs/cudnn.jsonl"
