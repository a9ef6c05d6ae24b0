# Sourced by tests/run.sh and examples/run.sh: what a bare Debian machine needs first. Nothing is installed twice, and
# nothing needs the network when all is there.

slim_cache=${SLIM_CACHE:-${HOME:-/tmp}/.cache/slim}

say() { printf 'slim: %s\n' "$*" >&2; }

# as_root COMMAND...: directly as root, through sudo otherwise.
as_root() {
  if [ "$(id -u)" = 0 ]; then
    "$@"
  elif command -v sudo >/dev/null; then
    sudo "$@"
  else
    say "not root, and no sudo: cannot run $*"
    return 1
  fi
}

# need_packages PACKAGE...: installs the Debian packages that are missing; 1 if it could not. Says what it installs.
need_packages() {
  local package missing=()
  if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
    say "not a Debian system; please see to it that these are there, by the names Debian gives them: $*"
    return 0
  fi
  for package in "$@"; do
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  say "installing with apt-get: ${missing[*]}"
  as_root apt-get -q update >/dev/null || say "apt-get update failed; trying with the lists that are here"
  if ! as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -y install --no-install-recommends "${missing[@]}" >/dev/null; then
    say "could not install ${missing[*]} (no network?); going on with what is here"
    return 1
  fi
}

# The system's own python before any other on PATH: its version is the one our packages were fetched for.
find_python() {
  local python
  for python in "${SLIM_PYTHON:-}" /usr/bin/python3 python3; do
    if [ -n "$python" ] && command -v "$python" >/dev/null && "$python" -c '' 2>/dev/null; then
      command -v "$python"
      return 0
    fi
  done
  return 1
}

# need_python_modules MODULE==VERSION...: into a folder of the cache, put on PYTHONPATH; 1 if they could not be had.
need_python_modules() {
  local python target names
  python=$(find_python) || return 1
  target=$slim_cache/python-$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
  names=$(printf '%s,' "${@%%==*}")
  export PIP_ROOT_USER_ACTION=ignore SLIM_PYTHON=$python PYTHONPATH=$target${PYTHONPATH:+:$PYTHONPATH}
  "$python" -c "import ${names%,}" 2>/dev/null && return 0
  say "installing with pip into $target: $*"
  "$python" -m pip install --quiet --disable-pip-version-check --target "$target" --upgrade "$@" && "$python" -c "import ${names%,}"
}
