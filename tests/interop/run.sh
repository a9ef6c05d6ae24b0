#!/usr/bin/env bash
# run.sh light SLIM_LLM [MODEL.gguf]: what slim-llm exports, read by software that nobody here wrote.
# light: packages of 0.4 GB without torch, installed once into the cache; 77 if they cannot be had, with a sentence.
# MODEL.gguf: instead of a small model made here, one of one's own with linears that are rounded here: the sizes in
# docs/guides/engines.md.
set -u
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$here/../../cmake/setup.sh"
tier=${1:-} program=${2:-}
[ "$tier" = light ] && [ -x "$program" ] || { say "usage: run.sh light SLIM_LLM [MODEL.gguf]"; exit 2; }
shift 2

python=$(find_python) || { say "skipped: no python"; exit 77; }
wanted="xllamacpp==2026.10.11549 gguf==0.19.0 mlx==0.32.4 mlx-cpu==0.32.4 mlx-lm==0.32.2 transformers==5.19.0 safetensors==0.8.0 numpy==2.4.6"
target=$slim_cache/interop-light-$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
if [ "$(cat "$target/.installed" 2>/dev/null)" != "$wanted" ]; then
  say "installing with pip into $target: $wanted"
  # shellcheck disable=SC2086
  "$python" -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --target "$target" --upgrade $wanted ||
    { say "skipped: the packages cannot be installed here"; exit 77; }
  echo "$wanted" >"$target/.installed"
fi
export PYTHONPATH=$target HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 TOKENIZERS_PARALLELISM=false
"$python" -c 'import xllamacpp, gguf, mlx.core, mlx_lm, transformers, safetensors' 2>/dev/null ||
  { say "skipped: a package does not load on this machine: $("$python" -c 'import xllamacpp, gguf, mlx.core, mlx_lm' 2>&1 | tail -1)"; exit 77; }
exec "$python" "$here/light.py" "$program" "$@"
