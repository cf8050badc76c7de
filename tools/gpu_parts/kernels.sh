#!/usr/bin/env bash
# The time of each kernel in a step: by Nsight Systems, else by the engine's own trace, which waits for each operator.
# shellcheck source=tools/gpu_parts/environment.sh
. "$(dirname "$0")/environment.sh"

told=""
tell() { figure "${told:-nothing was finished}"; }
trap tell EXIT
precisions=(tf32 bf16)
if $quick; then precisions=(f32); fi

# Fails, with the tool's words, where it cannot trace; set -e has no effect within a condition.
by_nsys() { # PRECISION
  local report=$work/step-$1 table=$logs/kernels-$1
  {
    nsys profile --trace cuda,nvtx --sample none --cpuctxsw none --force-overwrite true --output "$report" \
      "$bin/step" "${step[@]}" --repeats 10 --device "$device" --precision "$1" \
      && nsys stats --force-export true --report cuda_gpu_kern_sum --format csv --output "$table" "$report.nsys-rep"
  } > "$work/nsys.out" 2>&1 || { cat "$work/nsys.out"; return 1; }
  head -25 "$table"*.csv
}

by_trace() { # PRECISION
  ENGINE_TRACE=1 "$bin/step" "${step[@]}" --repeats 2 --device "$device" --precision "$1" 2> "$work/trace" || { tail "$work/trace"; return 1; }
  python3 "$parts/kernels.py" "$work/trace" "$logs/kernels-$1.tsv"
}

on_hardware && have nsys || echo "there is no nsys for a GPU here: ENGINE_TRACE, operator by operator"
for precision in "${precisions[@]}"; do
  echo "== $precision"
  if on_hardware && have nsys && by_nsys "$precision"; then
    told+="${told:+; }$precision by nsys"
  else
    told+="${told:+; }$precision by trace: $(by_trace "$precision" | tee "$work/told" | tail -1)"
    cat "$work/told"
  fi
done
