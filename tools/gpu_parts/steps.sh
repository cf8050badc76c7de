#!/usr/bin/env bash
# 30 steps of the real training, of the demo and of AttnGAN at its published size, and of the bench step.
# shellcheck source=tools/gpu_parts/environment.sh
. "$(dirname "$0")/environment.sh"

told=""
tell() { figure "${told:-nothing was finished}"; }
trap tell EXIT

row() { # STEPS_PY_ARGUMENTS...: its rows go to steps.jsonl, the last one also to the figure
  local rows
  rows=$(python3 "$parts/steps.py" "$@")
  [ -n "$rows" ] || { echo "no step was logged: $*"; exit 1; }
  echo "$rows" | tee -a "$logs/steps.jsonl"
  told+="${told:+; }$(sed -n '$s/.*"phase": "\([^"]*\)", "precision": "\([^"]*\)", "ms": \([0-9.]*\).*/\1 \2 \3 ms/p' <<< "$rows")"
}

# Times are taken between two rows of the log.
training() { # NAME PRECISION SETTINGS...
  local name=$1 precision=$2
  shift 2
  rm -rf "$work/steps"
  train_demo "$work/steps" --data "$work/birds" --steps "$to" --set "run.log_every=$from" --set "run.precision=$precision" \
    --set eval.images=8 --set eval.candidates=3 "$@"
  row "$name" "$work/steps/logs" "$from" "$to" "$precision"
}

bench_step() { # PRECISION REPEATS
  "$bin/step" "${step[@]}" --repeats "$2" --device "$device" --precision "$1" > "$work/step.json"
  row --bench "$work/step.json" "$2" "$1"
}

if $quick; then
  from=1 to=2
  training demo f32 "${small[@]}"
  bench_step f32 1
  exit
fi
from=10 to=40
for precision in tf32 bf16; do bench_step "$precision" 30; done
# No weights of the published encoders are at hand: small ones stand in for them.
attngan=(--preset attngan-cub --set damsm.backbone.kind=small --set captioner.backbone.kind=small --set data.images=400 --set run.sample_rows=2)
for precision in tf32 bf16; do training attngan "$precision" "${attngan[@]}"; done
for precision in f32 bf16; do training demo "$precision" --set data.images=400; done
