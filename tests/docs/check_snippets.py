#!/usr/bin/env python3
"""What the documentation shows is what is compiled: check_snippets.py ROOT. Every paragraph of every C++ block in docs/ that
begins with a docstring (`///`) occurs in tests/docs/snippets_test.cpp, spaces aside. Exit code 1 if one does not."""
import re
import sys
from pathlib import Path


def without_spaces(text):
    return re.sub(r"\s+", "", text)


def main():
    root = Path(sys.argv[1])
    compiled = without_spaces((root / "tests" / "docs" / "snippets_test.cpp").read_text(encoding="utf-8"))
    count, missing = 0, []
    for page in sorted((root / "docs").rglob("*.md")):
        for block in re.findall(r"^```cpp\n(/// .*?)^```", page.read_text(encoding="utf-8"), re.S | re.M):
            for paragraph in block.strip().split("\n\n"):
                count += 1
                if without_spaces(paragraph) not in compiled:
                    missing.append(f"{page.relative_to(root)}: not in tests/docs/snippets_test.cpp:\n{paragraph}")
    print("\n".join(missing + [f"{count} paragraphs, {len(missing)} not compiled"]))
    return 0 if count > 0 and not missing else 1


if __name__ == "__main__":
    sys.exit(main())
