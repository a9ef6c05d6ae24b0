#!/usr/bin/env python3
"""Versions: check_changelog.py ROOT. Entries of docs/changelog.md are called "X.Y.Z, YYYY-MM-DD", the first perhaps "X.Y.Z (in
progress)", newest first; the newest with a date is the version of CMakeLists.txt and slim/config.hpp. Exit code 1 if not."""
import re
import sys
from pathlib import Path


def check(root):
    headings = re.findall(r"^## (.*)$", (root / "docs" / "changelog.md").read_text(encoding="utf-8"), re.M)
    entries = [re.fullmatch(r"(\d+)\.(\d+)\.(\d+)(?:, (\d{4}-\d\d-\d\d)| \(in progress\))", heading) for heading in headings]
    for heading, entry in zip(headings, entries):
        if not entry or (not entry[4] and heading != headings[0]):
            yield f"docs/changelog.md: \"{heading}\" has no date"
    entries = [entry for entry in entries if entry]
    versions = [tuple(int(entry[k]) for k in (1, 2, 3)) for entry in entries]
    dates = [entry[4] for entry in entries if entry[4]]
    if versions != sorted(set(versions), reverse=True) or dates != sorted(dates, reverse=True):
        yield "docs/changelog.md: the newest entry is not the first"
    released = next((version for version, entry in zip(versions, entries) if entry[4]), None)
    if not released:
        yield "docs/changelog.md: no entry has a date"
        return
    built = re.search(r"project\(slim VERSION (\d+)\.(\d+)\.(\d+)", (root / "CMakeLists.txt").read_text(encoding="utf-8"))
    header = (root / "include" / "slim" / "config.hpp").read_text(encoding="utf-8")
    macros = [re.search(rf"#define SLIM_VERSION_{part} (\d+)", header) for part in ("MAJOR", "MINOR", "PATCH")]
    for where, numbers in {"CMakeLists.txt": built and built.groups(), "slim/config.hpp": all(macros) and [m[1] for m in macros]}.items():
        if not numbers or tuple(int(n) for n in numbers) != released:
            yield f"{where}: version {'.'.join(numbers or '?')}, the newest dated entry of the changelog is {'.'.join(map(str, released))}"


def main():
    wrong = list(check(Path(sys.argv[1])))
    print("\n".join(wrong) or "versions agree")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
