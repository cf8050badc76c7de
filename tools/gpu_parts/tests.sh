#!/usr/bin/env bash
# One of the test programs, by the part's name, on the device.
# shellcheck source=tools/gpu_parts/environment.sh
. "$(dirname "$0")/environment.sh"

[ -x "$bin/$part" ] || skipped "$part was not packed"
case $part:$quick in
  parity:false) filter=(--nocapture) ;;
  parity:true) filter=(--nocapture pool) ;;
  cuda:false) filter=() ;;
  cuda:true) filter=(values) ;;
  golden:false) filter=(cuda::) ;;
  golden:true) filter=(cuda::damsm) ;;
  train:false) filter=(cuda coarser) ;;
  train:true) filter=(cuda_loses) ;;
  gradcheck:false) filter=(cuda) ;;
  gradcheck:true) filter=(caught) ;;
esac

# Says how far the program came, also where its time was up.
tell() {
  local result worst
  result=$(sed -n 's/^test result: //p' "$work/$part.out" | cut -d';' -f1-2)
  [ -n "$result" ] || result="$(grep -c '^test .* ok$' "$work/$part.out" || true) passed before the end"
  worst=$(sed -n 's/.*largest error \(f32 [^ ,]*\).*/\1/p' "$work/$part.out" | sort -g -k2 | tail -1)
  figure "$result${worst:+; largest error $worst}"
}
trap tell EXIT

# One test after another: they share the device and its memory.
ENGINE_TEST_DEVICE=$device ENGINE_TESTS=$folder/tests RUST_BACKTRACE=0 \
  "$bin/$part" --test-threads=1 "${filter[@]}" 2>&1 | tee "$work/$part.out"
# A filter that fits nothing proves nothing.
grep -q '^test result: ok. [1-9]' "$work/$part.out"
