#!/usr/bin/env bash
# run.sh light SLIM_LLM [MODEL.gguf]: what slim-llm exports, read by software that nobody here wrote.
# light: packages of 0.4 GB without torch, installed once into the cache; 77 if they cannot be had, with a sentence.
# MODEL.gguf: instead of a small model made here, one of one's own with linears that are rounded here: the sizes in
# docs/guides/engines.md.
# run.sh full SLIM_LLM [MODEL.gguf LLAMA_BIN]: readers that are large or have to be built, by hand. transformers with
# compressed-tensors and PEFT (6 GB with torch), GPTQModel, and, with a model, llama-perplexity, llama-imatrix and llama-quantize
# in the folder LLAMA_BIN. Parts whose packages do not load are left out with a sentence.
set -u
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$here/../../cmake/setup.sh"
tier=${1:-} program=${2:-}
case $tier in light | full) ;; *) program= ;; esac
[ -x "$program" ] || { say "usage: run.sh light|full SLIM_LLM [MODEL.gguf [LLAMA_BIN]]"; exit 2; }
shift 2

python=$(find_python) || { say "skipped: no python"; exit 77; }
export HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 TOKENIZERS_PARALLELISM=false
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')

# install NAME [pip option]... -- PACKAGES: into a folder of the cache, once. The folder's name is left in $target.
install() {
  target=$slim_cache/interop-$1-$version
  shift
  options=()
  while [ "$1" != -- ]; do options+=("$1"); shift; done
  shift
  [ "$(cat "$target/.installed" 2>/dev/null)" = "$*" ] && return
  say "installing with pip into $target: $*"
  "$python" -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --target "$target" --upgrade \
    ${options[@]+"${options[@]}"} "$@" && echo "$*" >"$target/.installed"
}

# loads PATHS MODULES: whether python finds modules behind PYTHONPATH=PATHS; else says why.
loads() {
  PYTHONPATH=$1 "$python" -c "import $2" 2>/dev/null && return
  say "skipped: a package does not load on this machine: $(PYTHONPATH=$1 "$python" -c "import $2" 2>&1 | tail -1)"
  return 1
}

if [ "$tier" = light ]; then
  install light -- xllamacpp==2026.10.11549 gguf==0.19.0 mlx==0.32.4 mlx-cpu==0.32.4 mlx-lm==0.32.2 transformers==5.19.0 \
    safetensors==0.8.0 numpy==2.4.6 || { say "skipped: the packages cannot be installed here"; exit 77; }
  loads "$target" "xllamacpp, gguf, mlx.core, mlx_lm, transformers, safetensors" || exit 77
  PYTHONPATH=$target exec "$python" "$here/light.py" "$program" "$@"
fi

# part NAME PATHS MODULES ARGUMENTS...: one part of full.py, left out with a sentence where its packages do not load.
failed=0
part() {
  loads "$2" "$3" || return
  PYTHONPATH=$2 "$python" "$here/full.py" "$1" "$program" "${@:4}" || failed=1
}

stack="torch==2.13.0 compressed-tensors==0.20.1 peft==0.21.2 accelerate==1.15.0 gguf==0.19.0 numpy==2.4.6 safetensors==0.8.0"
# shellcheck disable=SC2086
install full -- transformers==5.19.0 $stack
stock=$target
part toy "$stock" "torch, transformers, compressed_tensors, peft, gguf"
install gptq --no-deps -- gptqmodel==7.7.0 transformers==5.24.0 threadpoolctl device-smi protobuf pillow pypcre tokenicer logbar defuser \
  dill datasets pyarrow pandas multiprocess xxhash python-dateutil six pytz tzdata # without torchao, which wants a newer torch
part gptq "$target:$stock" gptqmodel
[ $# -lt 2 ] || part llama_cpp "$stock" "gguf, numpy" "$1" "$2"
exit $failed
