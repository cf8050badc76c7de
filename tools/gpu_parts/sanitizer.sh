#!/usr/bin/env bash
# compute-sanitizer over a small training.
# shellcheck source=tools/gpu_parts/environment.sh
. "$(dirname "$0")/environment.sh"

have compute-sanitizer || skipped "there is no compute-sanitizer"
needs_hardware compute-sanitizer
found=""
for tool in memcheck racecheck; do
  echo "== $tool"
  rm -rf "$work/san"
  rc=0
  timeout -k 5 "$((limit / 2 - 3))" compute-sanitizer --tool "$tool" --error-exitcode 9 --print-limit 20 \
    "$bin/engine" train --dataset demo --out "$work/san" --device "$device" "${small[@]}" --steps 2 2>&1 \
    | tee "$work/$tool.out" || rc=$?
  summary=$(sed -n 's/^=* *\(ERROR SUMMARY\|RACECHECK SUMMARY\): //p' "$work/$tool.out" | tail -1)
  [ "$rc" -ne 124 ] || summary="out of time, errors so far: $(grep -c '^========= \(Invalid\|Error\|Race\|Program hit\)' "$work/$tool.out" || true)"
  found+="${found:+; }$tool: ${summary:-no summary}"
  figure "$found"
  [ "$rc" -eq 0 ] || [ "$rc" -eq 124 ] || exit "$rc"
done
