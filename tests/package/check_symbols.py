"""check_symbols.py NM BUILD_DIR: the objects of two_units, compiled with different flags, define no common symbol of slim.

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
fast, plain = (slim_symbols(nm, next(folder.rglob(f"{name}.cpp.o"))) for name in ("fast", "plain"))
shared = sorted(fast & plain)
flags = re.compile(r"\d+v0_[a-z0-9]+_[a-z]+_math_[a-z]+")
same_but_for_flags = len({flags.sub("", name) for name in fast} & {flags.sub("", name) for name in plain})
print(f"fast: {len(fast)} symbols, plain: {len(plain)}, same but for the flags: {same_but_for_flags}, shared: {len(shared)}", *shared, sep="\n")
if shared:
    sys.exit("shared symbols: whichever comes first on the link line runs in both")
if same_but_for_flags == 0:
    sys.exit("nothing to compare")
