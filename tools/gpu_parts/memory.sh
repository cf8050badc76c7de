#!/usr/bin/env bash
# The device's memory at its peak during a step, one program at a time.
# shellcheck source=tools/gpu_parts/environment.sh
. "$(dirname "$0")/environment.sh"

needs_hardware "the device's memory"
told="" failed=0
tell() { figure "${told:-nothing was finished}"; }
trap tell EXIT
measure() { # NAME COMMAND...
  local row
  row=$(python3 "$parts/memory.py" --seconds 45 "$@")
  echo "$row" | tee -a "$logs/memory.jsonl"
  told+="${told:+; }$(python3 -c '
import json, sys
row = json.loads(sys.argv[1])
print(row["name"], row.get("left_out") or "{:.0f} MB".format(row["device_mb"]))' "$row")"
  # A variant of PyTorch that does not work here is no failure.
  [[ $row != *'"left_out"'* || $1 != engine* ]] || failed=1
}
for precision in tf32 bf16; do
  measure "engine $precision" "$bin/step" "${step[@]}" --turns --repeats 3 --device "$device" --precision "$precision"
done
for variant in "tf32 last fused" "bf16 last fused" "bf16 last fused graph"; do
  if [ -n "$no_torch" ]; then
    echo "SKIPPED: PyTorch: $no_torch"
    break
  fi
  measure "PyTorch $variant" "$python" "$folder/tools/reference/peer.py" "${step[0]}" "$variant" "${step[@]:1}" --repeats 3 --device "$device"
done
[ "$failed" -eq 0 ]
