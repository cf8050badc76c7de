#!/usr/bin/env bash
# Every layer and operator. Rows are printed and saved as they come.
# shellcheck source=tools/gpu_parts/environment.sh
. "$(dirname "$0")/environment.sh"

settings=()
if $quick; then settings=(--quick --batch 1 pool); fi
tell() { figure "$(python3 "$parts/bench.py" "$out"/bench-*.json)"; }
trap tell EXIT
for precision in tf32 bf16; do
  "$bin/engine" bench --device "$device" --precision "$precision" --large --seconds $((limit * 2 / 5)) \
    --json "$out/bench-$precision.json" "${settings[@]}" | tee "$logs/bench-$precision.txt"
done
