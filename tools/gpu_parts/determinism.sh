#!/usr/bin/env bash
# Two trainings of a few steps must write the same bytes.
# shellcheck source=tools/gpu_parts/environment.sh
. "$(dirname "$0")/environment.sh"

steps=4
if $quick; then steps=1; fi
for precision in f32 bf16; do
  for run in a b; do
    rm -rf "$work/run"
    train_demo "$work/run" "${small[@]}" --steps "$steps" --set "run.precision=$precision"
    (cd "$work/run" && find . -name '*.safetensors' | sort | xargs sha256sum) | tee "$work/sums-$run"
  done
  cmp "$work/sums-a" "$work/sums-b" || { figure "$precision: the weights differ"; exit 1; }
done
figure "$(wc -l < "$work/sums-a") files of weights, the same in both runs, in f32 and in bf16"
