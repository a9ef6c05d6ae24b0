"""check_symbols.py NM BUILD_DIR UNIT...: the objects of two_units, compiled with different flags, define no common symbol of slim, any
two of them.

A symbol of slim is one whose name has the namespace slim in it, template arguments of std:: functions included: those are
instantiated in both units too, and differ because the argument's name does.
There must be something to compare: functions that both units hold under names that differ in the flags' part only.
"""
import re
import subprocess
import sys
from pathlib import Path


def slim_symbols(nm, path):
    lines = subprocess.run([nm, "--defined-only", path], capture_output=True, text=True, check=True).stdout.splitlines()
    return {line.split()[-1] for line in lines if "4slim" in line}  # Itanium mangling of `slim`


nm, folder = sys.argv[1], Path(sys.argv[2])
units = sys.argv[3:]
symbols = {name: slim_symbols(nm, next(folder.rglob(f"{name}.cpp.o"))) for name in units}
flags = re.compile(r"\d+v0_[a-z0-9]+_[a-z]+_[a-z_]+_math_[a-z]+")
failed = False
for k, one in enumerate(units):
    for other in units[k + 1:]:
        a, b = symbols[one], symbols[other]
        shared = sorted(a & b)
        same_but_for_flags = len({flags.sub("", name) for name in a} & {flags.sub("", name) for name in b})
        print(f"{one}: {len(a)} symbols, {other}: {len(b)}, same but for the flags: {same_but_for_flags}, shared: {len(shared)}",
              *shared[:20], sep="\n")
        failed = failed or bool(shared) or same_but_for_flags == 0
if failed:
    sys.exit("shared symbols (whichever comes first on the link line runs in both), or nothing to compare")
