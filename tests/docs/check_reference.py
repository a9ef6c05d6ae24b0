#!/usr/bin/env python3
"""The reference pages are whole: check_reference.py DOXYGEN DOXYFILE OUTPUT_FOLDER. Runs Doxygen, then reads what it wrote.
Exit code 1, and a line each, for

* what Doxygen warns of: references that lead nowhere, docstrings that it cannot read;
* a public name at namespace scope (type, concept, function, alias, constant) without a docstring. Overloads share one. Names in
  `detail`, macros and members are not counted: members of one line often say all there is to say;
* a link of a page to a page or an anchor that is not there.
"""
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path


def documented(element):
    return any("".join(part.itertext()).strip() for kind in ("briefdescription", "detaileddescription") for part in element.findall(kind))


def where(element):
    location = element.find("location")
    return f"{location.get('file')}:{location.get('line')}" if location is not None else "?"


def is_private(name):
    return "detail" in re.split(r"::|<", name) or "@" in name


def undocumented(xml):
    """(place, name) of public names without a docstring, and the number of public names."""
    index, names = ElementTree.parse(xml / "index.xml").getroot(), {}
    namespaces = {c.findtext("name") for c in index.findall("compound") if c.get("kind") == "namespace"}
    for compound in index.findall("compound"):
        name, kind = compound.findtext("name"), compound.get("kind")
        if is_private(name) or kind not in {"class", "struct", "union", "concept", "namespace"}:
            continue
        root = ElementTree.parse(xml / (compound.get("refid") + ".xml")).getroot().find("compounddef")
        if kind == "namespace":
            if name.startswith("slim"):
                names[name] = (documented(root), where(root))
            for member in root.iter("memberdef"):
                full = f"{name}::{member.findtext('name')}"
                before = names.get(full, (False, where(member)))
                names[full] = (before[0] or documented(member), before[1])
        elif name.rpartition("::")[0] in namespaces and "<" not in name:  # no nested types, no specializations
            names[name] = (documented(root), where(root))
    names = {n: v for n, v in names.items() if n.startswith("slim")}
    return sorted((place, name) for name, (said, place) in names.items() if not said), len(names)


def dead_links(html):
    """Links of pages to files or anchors that are not there, and the number of links looked at."""
    pages = {p.name: p.read_text(encoding="utf-8", errors="replace") for p in html.glob("*.html")}
    anchors = {name: set(re.findall(r'(?:id|name)="([^"]+)"', text)) for name, text in pages.items()}
    count, dead = 0, []
    for name, text in sorted(pages.items()):
        for target in set(re.findall(r'href="([^"]+)"', text)):
            if re.match(r"[a-z]+:", target) or target in {"#", "javascript:void(0)"}:
                continue
            count += 1
            page, _, anchor = target.partition("#")
            if page and not (html / page).exists():
                dead.append(f"{name}: links to {target}, which is not there")
            elif anchor and (page or name) in anchors and anchor not in anchors[page or name]:
                if anchor != "nested-classes":  # of Doxygen 1.9.4 itself, where no nested class is documented
                    dead.append(f"{name}: links to {target}, where there is no such anchor")
    return dead, count


def main():
    doxygen, doxyfile, output = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    for old in (output / "html", output / "xml"):  # pages of headers that are no more
        shutil.rmtree(old, ignore_errors=True)
    output.mkdir(parents=True, exist_ok=True)
    run = subprocess.run([doxygen, doxyfile], capture_output=True, text=True)
    lines = [line for line in (run.stdout + run.stderr).splitlines() if line.strip()]
    if not (output / "xml" / "index.xml").exists():
        print("\n".join([*lines, f"{doxygen} wrote nothing to {output}"]))
        return 1
    missing, names = undocumented(output / "xml")
    dead, links = dead_links(output / "html")
    print("\n".join([*lines, *(f"{place}: {name} has no docstring" for place, name in missing), *dead]))
    print(f"{names} public names, {len(missing)} without a docstring; {links} links, {len(dead)} dead; {output / 'html' / 'index.html'}")
    return 1 if lines or missing or dead or run.returncode or names == 0 else 0


if __name__ == "__main__":
    sys.exit(main())
