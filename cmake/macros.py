#!/usr/bin/env python3
"""The macros a user gets from <slim/slim.hpp>.

macros.py headers INCLUDE_DIR            prints `#include` lines of all foreign headers that slim.hpp reaches
macros.py leaks INCLUDE_DIR COMPILER...  fails if slim.hpp leaves a macro behind that those headers alone do not, and that is
                                         not called SLIM_...
"""
import re
import subprocess
import sys
from pathlib import Path


# Headers that some compilers have for machines other than the one they compile for, where including them is an error.
ONLY_ON = {"arm_neon.h": "defined(__aarch64__)", "immintrin.h": "defined(__x86_64__)"}


def guarded(name):
    machine = f"{ONLY_ON[name]} && " if name in ONLY_ON else ""
    return f"#if {machine}__has_include(<{name}>)\n#include <{name}>\n#endif\n"


def foreign_headers(root, start="slim/slim.hpp"):
    """Headers in <> that `start` reaches, sorted."""
    seen, todo, found = set(), [start], set()
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        text = (root / name).read_text(encoding="utf-8")
        todo += re.findall(r'^\s*#\s*include\s*"(slim/[^"]+)"', text, re.M)
        found |= set(re.findall(r"^\s*#\s*include\s*<([^>]+)>", text, re.M))
    return sorted(found)


def macros_after(source, compiler):
    run = subprocess.run([*compiler, "-x", "c++", "-dM", "-E", "-"], input=source, capture_output=True, text=True, check=True)
    return set(re.findall(r"^#define (\w+)", run.stdout, re.M))


def main():
    command, root, compiler = sys.argv[1], Path(sys.argv[2]), sys.argv[3:]
    others = "".join(guarded(name) for name in foreign_headers(root))
    if command == "headers":
        print(others, end="")
        return 0
    before, after = macros_after(others, compiler), macros_after(others + "#include <slim/slim.hpp>\n", compiler)
    ours = sorted(name for name in after - before if name.startswith("SLIM_"))
    leaked = sorted(after - before - set(ours))
    print(f"{len(ours)} macros of slim: {' '.join(ours)}\nothers: {' '.join(leaked) or 'none'}")
    return 0 if ours and not leaked else 1


if __name__ == "__main__":
    sys.exit(main())
