#!/usr/bin/env bash
# What the machine is.
# shellcheck source=tools/gpu_parts/environment.sh
. "$(dirname "$0")/environment.sh"

"$bin/engine" info
echo
if have nvidia-smi; then nvidia-smi; else echo "no nvidia-smi"; fi
if have nvcc; then nvcc --version; else echo "no nvcc"; fi
for tool in compute-sanitizer nsys ncu; do
  if have "$tool"; then "$tool" --version; else echo "no $tool"; fi
done
figure "$(sed -n 's/^cuda  *//p' "$work/info")"
