#!/usr/bin/env python3
"""Every relative link of every Markdown file leads somewhere: check_links.py ROOT. One line per broken link, exit code 1.

Files and folders must exist inside ROOT; a #part must be a heading of the file it points into, by GitHub's rule for names.
Links inside code are not links. Folders that git would not hold (build, hidden) are passed over.
"""
import re
import sys
from pathlib import Path

LINK = re.compile(r"\[[^\]]*\]\(([^()\s]+(?:\([^()\s]*\))?)\)")


def without_code(text):
    text = re.sub(r"^(```|~~~).*?^\1", "", text, flags=re.S | re.M)
    return re.sub(r"`[^`\n]*`", "", text)


def anchors(text):
    """Names of a file's headings: lower case, punctuation dropped, spaces to hyphens."""
    text = re.sub(r"^(```|~~~).*?^\1", "", text, flags=re.S | re.M)
    headings = re.findall(r"^#{1,6} +(.*?) *#*$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(root):
    root = root.resolve()
    files = [f for f in sorted(root.rglob("*.md")) if not any(p.startswith((".", "build", "_")) for p in f.relative_to(root).parts)]
    count, broken = 0, []
    for file in files:
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
    return len(files), count, broken


def main():
    files, count, broken = broken_links(Path(sys.argv[1]))
    print("\n".join(broken + [f"{files} files, {count} relative links, {len(broken)} broken"]))
    return 0 if count > 0 and not broken else 1


if __name__ == "__main__":
    sys.exit(main())
