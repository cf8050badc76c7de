#!/usr/bin/env bash
# Nsight Compute over the first convolutions of a step; OUT/conv.ncu-rep is for its window.
# shellcheck source=tools/gpu_parts/environment.sh
. "$(dirname "$0")/environment.sh"

have ncu || skipped "there is no ncu"
needs_hardware ncu
rc=0
timeout -k 5 $((limit - 15)) ncu --nvtx --set full --force-overwrite --export "$work/conv" -k 'regex:conv_' -c 20 \
  "$bin/step" "${step[@]}" --repeats 1 --device "$device" --precision bf16 2>&1 | tee "$work/ncu.out" || rc=$?
if grep -q ERR_NVGPUCTRPERM "$work/ncu.out"; then skipped "the driver lets this user read no performance counters"; fi
[ -f "$work/conv.ncu-rep" ] || { figure "no report was written"; exit $((rc ? rc : 1)); }
# Also as text, for who has no window.
ncu --import "$work/conv.ncu-rep" --page details > "$logs/ncu-details.txt" || true
cp "$work/conv.ncu-rep" "$out/"
figure "$(grep -c '^ *conv_' "$logs/ncu-details.txt" || true) kernels, conv.ncu-rep of $(du -k "$out/conv.ncu-rep" | cut -f1) KiB"
[ "$rc" -eq 0 ]
