# What the parts share. tools/gpu starts each part with bash and gives it, in the environment:
#   part, limit       its name and the most seconds it may take
#   quick             true or false
#   folder, out       what was packed, and where the results go
#   work, logs        temporary; all that lies in logs is packed into OUT/logs.tar.gz
#   bin, python       the engine's programs; the python3 to ask for PyTorch
#   no_torch          why PyTorch cannot be compared with; empty where it can
# shellcheck shell=bash disable=SC2034
set -euo pipefail

part=${part:?} limit=${limit:?} quick=${quick:?} folder=${folder:?} out=${out:?}
work=${work:?} logs=${logs:?} bin=${bin:?} python=${python:?} no_torch=${no_torch-}
parts=$folder/tools/gpu_parts
device=cuda:0

# The one line that the table says of a part; a later one takes its place.
figure() { echo "$*" > "$work/$part.figure"; }

# A part that cannot run here says why and is no failure.
skipped() {
  echo "SKIPPED: $*"
  figure "$*"
  exit 77
}

have() { command -v "$1" > /dev/null 2>&1; }

on_hardware() { ! grep -q cudaemu "$work/info"; }

needs_hardware() { on_hardware || skipped "$1 needs a GPU, and the driver here is emulated"; }

needs_torch() { [ -z "$no_torch" ] || skipped "$no_torch"; }

# The AttnGAN-sized step at the published batch. Where the scripts are only tried, a small generator alone.
if $quick; then step=(infer --batch 1 --widths "2,4"); else step=(step --batch 20); fi

# Small enough for the sanitizer, large enough that every kernel of a training runs.
small=(--set data.images=40 --set text_encoder.embedding=8 --set text_encoder.features=8
  --set "damsm.backbone.widths=[4,8,8]" --set damsm.backbone.map_after=2 --set damsm.schedule.batch=4
  --set "captioner.backbone.widths=[4,8]" --set captioner.backbone.map_after=2 --set captioner.embedding=8
  --set captioner.hidden=8 --set captioner.schedule.batch=4 --set generator.first_ups=1 --set generator.width=2
  --set discriminator.width=4 --set gan.schedule.batch=4 --set run.sample_rows=2 --set eval.candidates=3 --set eval.images=8)

train_demo() { # OUT ARGUMENTS...
  local run=$1
  shift
  "$bin/engine" train --dataset demo --out "$run" --device "$device" "$@"
}
