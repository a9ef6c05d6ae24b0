#!/usr/bin/env bash
# Everything that a GPU has to show, in one call. bench/cuda/run.sh --build on a machine with the library's needs (no GPU) makes
# build/cuda: the programs, the table of cases, and the peers' wheels if pip finds them. bench/cuda/run.sh on a machine with a GPU runs
# them, correctness first, each step within a time limit of its own, and writes to $OUT (else build/cuda/out). There it needs nvcc only
# if the programs do not load, and torch for the last table. What a step could not do is said, and the next one runs.
set -u
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit 1
made=build/cuda
nvcc=$(command -v nvcc || echo /usr/local/cuda/bin/nvcc)
architecture=${SLIM_CUDA_ARCHITECTURE:-90a}

compile() { # compile NAME SOURCE OPTIONS...
  "$nvcc" -std=c++20 -O2 -I include "-gencode=arch=compute_$architecture,code=sm_$architecture" -cudart static "${@:3}" -o "$made/$1" "$2"
}
programs() {
  compile device_test bench/cuda/device_test.cu && compile ceilings bench/cuda/ceilings.cu &&
    compile libslim_cuda_bench.so bench/cuda/library.cu -shared -Xcompiler -fPIC
}

if [ "${1:-}" = --build ]; then
  mkdir -p "$made"
  set -e
  programs
  "${CXX:-g++}" -std=c++20 -O2 -I include -I tests/cuda -I "${EIGEN:-/usr/include/eigen3}" bench/cuda/make_cases.cpp -o "$made/make_cases" -pthread
  "$made/make_cases" "$made/cases.bin"
  rm "$made/make_cases"
  for peer in humming-kernels==0.1.20 gemlite==0.6.0.post2; do
    python3 -m pip wheel -q --no-deps -w "$made/wheels" "$peer" || echo "no wheel of $peer: it will be missing from the table"
  done
  du -sh "$made"
  exit 0
fi

out=${OUT:-$made/out}
mkdir -p "$out"
step() { # step SECONDS NAME COMMAND...: runs, says what came of it, goes on
  local limit=$1 name=$2 status=0
  shift 2
  echo "== $name"
  timeout "$limit" "$@" >"$out/step.txt" 2>&1 || status=$?
  { echo "== $name: $*"; cat "$out/step.txt"; } >>"$out/log.txt"
  tail -n "${lines:-12}" "$out/step.txt"
  [ $status = 0 ] || echo "== $name FAILED with status $status (124: not within $limit s)" | tee -a "$out/log.txt"
  return $status
}

: >"$out/log.txt"
nvidia-smi --query-gpu=name,driver_version,clocks.sm,clocks.mem,memory.total --format=csv | tee "$out/card.txt"
git log -1 --format=%H 2>/dev/null | tee -a "$out/card.txt"
[ -f $made/cases.bin ] || { echo "no $made/cases.bin: run bench/cuda/run.sh --build first, and carry $made"; exit 1; }
"$made/device_test" >/dev/null 2>&1
if [ $? -ne 2 ]; then # 2 is its usage
  echo "the programs that were carried do not load, building here"
  step 150 "build" bash -c "$(declare -f compile programs); made=$made nvcc=$nvcc architecture=$architecture; programs" || exit 1
fi

correct=yes
step 60 "products and primitives, bit for bit" "$made/device_test" "$made/cases.bin" "$out/primitives.bin" || correct=no
if command -v compute-sanitizer >/dev/null; then
  for tool in memcheck racecheck initcheck synccheck; do
    step 30 "compute-sanitizer $tool" compute-sanitizer --tool $tool --error-exitcode 9 "$made/device_test" "$made/cases.bin" small
  done
else
  echo "no compute-sanitizer here"
fi
lines=40 step 60 "ceilings" "$made/ceilings"
grep -a , "$out/step.txt" >"$out/ceilings.csv"
read_bandwidth=$(sed -n 's/^read bandwidth,\([^,]*\),.*/\1/p' "$out/ceilings.csv")
if ls $made/wheels/*.whl >/dev/null 2>&1; then
  python3 -m pip install -q --no-index --no-deps --target /tmp/slim_peers $made/wheels/*.whl 2>/dev/null && export PYTHONPATH=/tmp/slim_peers
fi
[ $correct = yes ] || echo "OUTPUTS ARE WRONG: the times below are worth nothing"
left=$((570 - SECONDS)) # of ten minutes
PYTHONUNBUFFERED=1 lines=400 step $left "table" python3 bench/cuda/table.py "$PWD/$made/libslim_cuda_bench.so" "$out" "${read_bandwidth:-4.3}" $((left - 40))
[ $correct = yes ]
