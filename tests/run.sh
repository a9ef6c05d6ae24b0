#!/usr/bin/env bash
# Installs what is missing (apt-get, pip), builds, and runs all tests: first the unit tests under AddressSanitizer and
# UndefinedBehaviorSanitizer with clang++, then everything in Release with the default compiler. The last lines are ctest's
# summary of the Release run. Builds in build/; quick the second time.
set -u
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
source cmake/setup.sh

need_packages g++ make cmake ninja-build ccache git ca-certificates pkg-config python3 python3-pip \
  libeigen3-dev libxtensor-dev catch2 libcli11-dev nlohmann-json3-dev libutf8proc-dev libopenblas-dev \
  clang clang-tidy libomp-dev libclang-rt-14-dev g++-aarch64-linux-gnu qemu-user \
  universal-ctags doxygen
need_python_modules numpy==2.4.6 safetensors==0.8.0 gguf==0.19.0 tokenizers==0.23.3 autograd==1.8.0 ||
  say "python modules are missing; the tests against independent readers will be skipped"
need_packages libopenmpi-dev openmpi-bin || say "slim-llm is built without MPI"
bash examples/fetch_model.sh || say "tests that need the model or the text will be skipped"
model=$slim_cache/SmolLM2-135M-Instruct.Q4_1.gguf
[ -f "$model" ] && export SLIM_MODEL=$model

jobs=$(nproc)
export OMP_WAIT_POLICY=passive # tests run side by side: threads that wait must not spin
# Several files are compiled at once: a clean build takes half as long.
options=(-DPython3_EXECUTABLE="${SLIM_PYTHON:-python3}" -DCMAKE_UNITY_BUILD=ON)
command -v ccache >/dev/null && options+=(-DCMAKE_CXX_COMPILER_LAUNCHER=ccache)
export CCACHE_BASEDIR=$PWD CCACHE_NOHASHDIR=1 # another checkout of the same sources is served from the cache

# build PRESET TARGET
build() {
  say "building $1"
  cmake --preset "$1" "${options[@]}" >"build/$1.configure.log" 2>&1 || { cat "build/$1.configure.log"; return 1; }
  cmake --build --preset "$1" --target "$2" -j "$jobs"
}

mkdir -p build
status=0
if command -v clang++ >/dev/null; then
  { build asan slim_unit_tests && ctest --preset asan -j "$jobs"; } || { say "FAILED: the tests under sanitizers"; status=1; }
else
  say "no clang++: the tests under sanitizers are skipped"
fi
command -v mpirun >/dev/null && options+=(-DSLIM_LLM_MPI=ON)
build release all || exit 1
ctest --preset release -j "$jobs" || status=1
[ $status = 0 ] || say "FAILED: see above"
exit $status
