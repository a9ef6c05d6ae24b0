#!/usr/bin/env bash
# The example, from a bare Debian machine: bash examples/run.sh [--model PATH] [options of `slim-llm compress`]
# Installs what is missing, builds slim-llm, fetches a small model and a text, compresses the model with the default recipe and
# ends with a .slim file, which is smaller than the model, and a table: dense against compressed. Without network it says so, and
# runs on what --model names.
set -u
start=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
source cmake/setup.sh

model=
if [ "${1:-}" = --model ]; then
  model=$(cd "$start" && realpath "${2:?--model PATH}") || exit 1
  shift 2
fi

need_packages g++ make cmake ninja-build ca-certificates pkg-config python3 python3-pip \
  libeigen3-dev libcli11-dev nlohmann-json3-dev libutf8proc-dev libopenblas-dev

say "building slim-llm"
mkdir -p build
cmake -G Ninja -S . -B build/example -DCMAKE_BUILD_TYPE=Release -DSLIM_BUILD_TESTS=OFF -DSLIM_BUILD_BENCHMARKS=OFF \
  >build/example.log 2>&1 && cmake --build build/example --target slim-llm >>build/example.log 2>&1 || { cat build/example.log; exit 1; }
slim_llm=$(find "$PWD/build/example" -name slim-llm -type f -perm -u+x | head -n 1)

if [ -z "$model" ]; then
  bash examples/fetch_model.sh model || { say "no model: give one with --model PATH (a GGUF file or a Hugging Face folder)"; exit 1; }
  model=$slim_cache/SmolLM2-135M-Instruct.Q4_1.gguf
fi

first=$slim_cache/jargon.first.txt last=$slim_cache/jargon.last.txt
if ! bash examples/fetch_model.sh text; then
  say "using the licences in /usr/share/common-licenses as text: enough to try, too plain to believe the numbers"
  first=$PWD/build/first.txt last=$PWD/build/last.txt
  cat /usr/share/common-licenses/{GPL-3,LGPL-2.1,Apache-2.0,MPL-2.0} >"$first" && cat /usr/share/common-licenses/GFDL-1.3 >"$last" || exit 1
fi

out=$PWD/build/compressed.slim
cd "$start" || exit 1
exec "$slim_llm" compress "$model" --out "$out" --calib "$first" --text "$last" "$@"
