#!/usr/bin/env python3
"""Every pointer leads somewhere: check_links.py ROOT. One line per broken pointer, exit code 1.

1. Relative links of Markdown files: files and folders exist inside ROOT; a #part is a heading of the file it points into, by
   GitHub's rule for names. Links inside code are not links.
2. Paths named in prose, in backticks of Markdown and in comments of C++, CMake and shell (`core/error.hpp`, `docs/decisions.md`):
   some file of the repository has a path that ends so.
3. No word of documents outside the repository (OUTSIDE): whoever reads the library does not have them.

Folders that git would not hold (build, hidden) are passed over.
"""
import re
import sys
from pathlib import Path

LINK = re.compile(r"\[[^\]]*\]\(([^()\s]+(?:\([^()\s]*\))?)\)")
NAMED = re.compile(r"(?<![\w/.<*{$}-])((?:[\w-]+/)*[\w-]+\.(?:md|hpp|cuh|inc|cpp|py|sh|cmake))\b(?![/.]\w)")
COMMENT = {".hpp": "//", ".inc": "//", ".cuh": "//", ".cpp": "//", ".cmake": "#", ".sh": "#", ".txt": "#"}
OUTSIDE = re.compile(r"\bdesign study\b|\bthe study\b|(?<![\w/])design/|\bthe design (?:has|asks|says)\b|\bslim_method\b|\bfrontier_experiment\b", re.I)
# Files of other projects that we name as our sources.
FOREIGN = {"llama.cpp", "docs/gguf.md", "src/gguf.cpp", "gguf-py/gguf/constants.py", "slim/lora.py", "slim/quantization/quantization.py",
           "sparsegpt.py", "modeling_rope_utils.py"}
# Files that pages of docs/developing add as examples.
EXAMPLES = {"slim/pruning/threshold_pruner.hpp", "slim/packing/bit_planes.hpp", "slim/saliency/score_kernels.hpp",
            "slim/saliency/score_kernels.inc"}
# Their text holds what the checks look for.
NOT_READ = {"tests/docs/check_links.py", "tests/docs/check_docs_test.py", "tests/layers/check_layers_test.py"}


def without_code(text):
    text = re.sub(r"^(```|~~~).*?^\1", "", text, flags=re.S | re.M)
    return re.sub(r"`[^`\n]*`", "", text)


def anchors(text):
    """Names of a file's headings: lower case, punctuation dropped, spaces to hyphens."""
    text = re.sub(r"^(```|~~~).*?^\1", "", text, flags=re.S | re.M)
    headings = re.findall(r"^#{1,6} +(.*?) *#*$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def all_files(root):
    return [f for f in sorted(root.rglob("*"))
            if f.is_file() and not any(p.startswith((".", "build", "_")) for p in f.relative_to(root).parts)]


def broken_links(root, files):
    count, broken = 0, []
    for file in (f for f in files if f.suffix == ".md"):
        for target in LINK.findall(without_code(file.read_text(encoding="utf-8"))):
            if re.match(r"[a-z]+:", target):
                continue
            count += 1
            path, _, part = target.partition("#")
            place = (file.parent / path).resolve() if path else file
            where = f"{file.relative_to(root)}: ({target})"
            if not place.is_relative_to(root) or not place.exists():
                broken.append(f"{where}: there is no such file")
            elif part and (place.suffix != ".md" or part not in anchors(place.read_text(encoding="utf-8"))):
                broken.append(f"{where}: there is no such heading")
    return count, broken


def prose(file, line):
    """What a line says to a reader: of Markdown what stands in backticks, of code its comment."""
    if file.suffix == ".md":
        return " ".join(re.findall(r"`([^`]+)`", line))
    mark = COMMENT.get(file.suffix)
    return line[line.index(mark) + len(mark):] if mark and mark in line else ""


def broken_names(root, files):
    names = {f.relative_to(root).as_posix() for f in files}
    endings = {name[i:] for name in names for i in [0] + [m.end() for m in re.finditer("/", name)]}
    count, broken = 0, []
    for file in files:
        name = file.relative_to(root).as_posix()
        if name in NOT_READ or file.suffix not in {".md", ".py", *COMMENT}:
            continue
        for number, line in enumerate(file.read_text(encoding="utf-8").split("\n"), 1):
            for path in NAMED.findall(prose(file, line)):
                count += 1
                if path not in endings | FOREIGN | EXAMPLES:
                    broken.append(f"{name}:{number}: names {path}, which does not exist")
            if outside := OUTSIDE.search(line):
                broken.append(f"{name}:{number}: \"{outside.group()}\" is outside the repository")
    return count, broken


def main():
    root = Path(sys.argv[1]).resolve()
    files = all_files(root)
    links, broken = broken_links(root, files)
    names, missing = broken_names(root, files)
    print("\n".join(broken + missing + [f"{links} relative links, {names} paths in prose, {len(broken) + len(missing)} broken"]))
    return 0 if links > 0 and not broken and not missing else 1


if __name__ == "__main__":
    sys.exit(main())
