#!/usr/bin/env python3
"""The README's first C++ block is, character for character, the marked part of examples/00_readme.cpp, which is compiled and
run as a test: check_readme.py ROOT. Prints the difference, exit code 1."""
import difflib
import re
import sys
from pathlib import Path


def main():
    root = Path(sys.argv[1])
    readme = (root / "README.md").read_text(encoding="utf-8")
    program = (root / "examples" / "00_readme.cpp").read_text(encoding="utf-8")
    shown = re.search(r"^```cpp\n(.*?)^```", readme, re.S | re.M)
    marked = re.search(r"^// \[readme\]\n(.*?)^// \[/readme\]", program, re.S | re.M)
    if not shown or not marked:
        print("no ```cpp block in README.md" if marked else "no // [readme] ... // [/readme] in examples/00_readme.cpp")
        return 1
    difference = list(difflib.unified_diff(shown[1].splitlines(), marked[1].splitlines(), "README.md", "examples/00_readme.cpp", lineterm=""))
    print("\n".join(difference) or "the same")
    return 1 if difference else 0


if __name__ == "__main__":
    sys.exit(main())
