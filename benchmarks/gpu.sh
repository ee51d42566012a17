#!/usr/bin/env bash
# Correctness, then speed, on a machine with a CUDA GPU: at most eight minutes.
#
#   bash benchmarks/gpu.sh                        # results on standard output, warnings in build/gpu/log.txt
#   DEVICE=cpu SIZE=tiny bash benchmarks/gpu.sh   # the same script without a GPU, at tiny sizes
#
# PYTHON is the interpreter (default: python), OUT the folder of the log. Needs the development tools of the package.
# The exit status is 1 if a check fails or time runs out.
set -u
cd "$(dirname "$0")/.."
device=${DEVICE:-cuda} size=${SIZE:-full} python=${PYTHON:-python} out=${OUT:-build/gpu}
export PYTHONPATH=. HF_HUB_OFFLINE=1 CUBLAS_WORKSPACE_CONFIG=:4096:8 # for deterministic products
mkdir -p "$out"
log=$out/log.txt status=0
: >"$log"

run() { # SECONDS SCRIPT ARGUMENTS...
  local limit=$1
  shift
  echo "== $* (at most $limit s)"
  if ! timeout "$limit" "$python" "$@" 2>>"$log"; then
    echo "== failed: $1; the end of $log:"
    tail -n 5 "$log"
    status=1
  fi
}

run 200 benchmarks/gpu_checks.py --device "$device" --size "$size"
run 280 benchmarks/gpu_speed.py --device "$device" --size "$size"
exit "$status"
