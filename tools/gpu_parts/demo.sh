#!/usr/bin/env bash
# The demo as README has it: training, one caption, and how well images match their captions.
# shellcheck source=tools/gpu_parts/environment.sh
. "$(dirname "$0")/environment.sh"

settings=()
if $quick; then
  settings=("${small[@]}")
  for phase in damsm captioner gan; do settings+=(--set "$phase.schedule.steps=2"); done
fi
from=$SECONDS
train_demo "$work/demo" "${settings[@]}"
seconds=$((SECONDS - from))
"$bin/engine" infer --run "$work/demo" --out "$work/pictures" --device "$device" "a small red bird with black wings"
precision=$(sed -n 's/.*"r_precision": *\([0-9.]*\).*/\1/p' "$work/demo/gan/metrics.json" | head -1)
figure "R-precision $precision after $seconds s"
