#!/usr/bin/env bash
# Correctness, then speed, on a machine with a CUDA GPU: at most eight minutes.
#
#   bash benchmarks/gpu.sh                        # results on standard output, warnings in build/gpu/log.txt
#   DEVICE=cpu SIZE=tiny bash benchmarks/gpu.sh   # the same script without a GPU, at tiny sizes
#
# PYTHON is the interpreter (default: python), OUT the folder of the log, MINUTES the limit (default: 8). Needs the
# development tools of the package. The exit status is 1 if a check fails or time runs out.
set -u
cd "$(dirname "$0")/.."
device=${DEVICE:-cuda} size=${SIZE:-full} python=${PYTHON:-python} out=${OUT:-build/gpu} minutes=${MINUTES:-8}
export PYTHONPATH=. HF_HUB_OFFLINE=1 CUBLAS_WORKSPACE_CONFIG=:4096:8 # for deterministic products
mkdir -p "$out"
log=$out/log.txt status=0
: >"$log"

run() { # SECONDS SCRIPT ARGUMENTS...
  local limit=$1
  shift
  echo "== $* (at most $limit s)"
  timeout "$limit" "$python" "$@" 2>>"$log"
  case $? in
    0) return ;;
    124) echo "== $1 ran out of time" ;;
    *) echo "== $1 failed; $log ends with:" && tail -n 5 "$log" ;;
  esac
  status=1
}

run $((25 * minutes)) benchmarks/gpu_checks.py --device "$device" --size "$size"
run $((35 * minutes)) benchmarks/gpu_speed.py --device "$device" --size "$size"
exit "$status"
