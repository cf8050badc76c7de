#!/usr/bin/env bash
# The kernels on which the emulator is tested, against numbers of the host.
# shellcheck source=tools/gpu_parts/environment.sh
. "$(dirname "$0")/environment.sh"

[ -x "$bin/trial" ] || skipped "trial was not packed"
only=()
if $quick; then only=(gemm softmax); fi
tell() { figure "$(grep -c '^ok' "$work/trial.out") ok, $(grep -c '^skipped' "$work/trial.out") skipped"; }
trap tell EXIT
"$bin/trial" "${only[@]}" | tee "$work/trial.out"
