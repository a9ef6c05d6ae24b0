#!/usr/bin/env python3
"""Tools that index sources see the library: check_ctags.py INCLUDE_DIR [NAME...]. `ctags -x` lists every NAME as a type or a
function, and at least one definition of every header (but those that define nothing, or concepts only, which ctags does not
know). Exit code 1 if it does not, 77 (skipped) without universal-ctags."""
import subprocess
import sys
from pathlib import Path

SKIPPED = 77
EMPTY = {"slim/slim.hpp", "slim/training.hpp", "slim/compiled.hpp", "slim/config.hpp", "slim/testing/laws.hpp"}  # includes, macros, instantiations


def main():
    root, names = Path(sys.argv[1]), sys.argv[2:]
    try:
        version = subprocess.run(["ctags", "--version"], capture_output=True, text=True).stdout
    except FileNotFoundError:
        version = ""
    if "Universal Ctags" not in version:
        print("skipped: there is no universal-ctags (Debian: apt-get install universal-ctags)")
        return SKIPPED
    headers = sorted(p for p in (root / "slim").rglob("*.hpp"))
    listing = subprocess.run(["ctags", "-x", "--_xformat=%N %K %F", *headers], capture_output=True, text=True, check=True).stdout
    found, defines = set(), set()
    for line in listing.splitlines():
        name, kind, file = line.split(" ", 2) if line.count(" ") == 2 else (line.split(" ")[0], "other", line.split(" ")[-1])
        if kind in {"struct", "class", "function", "enum", "typedef", "variable", "other"}:
            found.add(name)
            defines.add(file)
    missing = [f"ctags does not find {name}" for name in names if name not in found]
    for header in headers:
        nothing = header.relative_to(root).as_posix() in EMPTY or "\nconcept " in header.read_text(encoding="utf-8")
        if str(header) not in defines and not nothing:
            missing.append(f"{header}: ctags finds no definition")
    print("\n".join(missing + [f"{len(headers)} headers, {len(found)} names, {len(missing)} missing"]))
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
