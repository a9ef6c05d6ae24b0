#!/usr/bin/env python3
"""The defaults that docs/components.md states are those of the headers: check_components.py ROOT. One line per difference, exit
code 1.

An entry of the page is a row of a table, or a paragraph that begins with a component's name in backticks. Where it says
"`name` (value; more)" or "component({.name = value})", `name` is a member of the component's configuration (the aggregate called
..._config that its constructor takes, the component itself if it is an aggregate, or a parameter of its constructor), and `value`
is its default. An entry that states defaults names every member of the configuration.
"""
import re
import sys
from pathlib import Path

MEMBER = re.compile(r"^  (?! |friend|return|static|using|template|///)((?:std::)?\w[\w:]*(?:<[^;=(]*>)?) (\w+)(?:\s*=\s*([^;]+)|(\{[^;]*\}))?;", re.M)


def without_comments(text):
    return re.sub(r"//[^\n]*", "", text)


def read_headers(folder):
    """Members of every struct, {struct: {member: (type, default)}}, and the configuration of every component."""
    structs, configs = {}, {}
    for header in sorted(folder.rglob("*.hpp")):
        code = without_comments(header.read_text(encoding="utf-8"))
        for name, body in re.findall(r"^struct (\w+) \{\n(.*?)^\};", code, re.S | re.M):
            members = {m: (kind, (a or b).strip() if a or b else "") for kind, m, a, b in MEMBER.findall(body) if a or b}
            structs.setdefault(name, {}).update(members)
        for name, inside in re.findall(r"\b(\w+)\(([^()]*(?:\([^()]*\)[^()]*)*)\)", code):
            for config in re.findall(r"\b(\w+_config)(?: const&)? \w+", inside):
                configs.setdefault(name, config)
            for kind, parameter, default in re.findall(r"([\w:]+)(?: const&)? (\w+) = ([^,]+)$", inside.strip()):
                if not kind.endswith("_config") and kind != "context":
                    structs.setdefault(name + "()", {})[parameter] = (kind, default.strip())
    return structs, configs


def normal(value):
    """One spelling of a value: no qualifier, no suffix, numbers as numbers, 2:4 as {2, 4}."""
    value = value.strip().strip("`")
    if ratio := re.fullmatch(r"(\d+):(\d+)", value):
        value = f"{{{ratio[1]}, {ratio[2]}}}"
    value = re.sub(r"\b\w+::", "", value).replace(" ", "")
    try:
        return str(float(re.sub(r"(?<=[\d.])f$", "", value)))
    except ValueError:
        return value


def same(stated, kind, default, structs):
    """Whether a stated value is the default of a member of a type: the text itself, or all its members by name."""
    if stated.strip("` ").startswith("{."):
        pairs, given = (dict(re.findall(r"\.(\w+) = ([^,}]+)", text)) for text in (stated, default))
        values = {m: value for m, (_, value) in structs.get(kind, {}).items()} | given
        return all(m in values and normal(v) == normal(values[m]) for m, v in pairs.items())
    return normal(stated) == normal(default)


def entries(page):
    """(line, text) of rows and paragraphs that begin with a component."""
    number = 1
    for block in page.split("\n\n"):
        lines = block.split("\n")
        if lines[0].startswith("|"):
            yield from ((number + i, line) for i, line in enumerate(lines) if line.startswith("| `"))
        elif lines[0].startswith("`"):
            yield number, " ".join(lines)
        number += len(lines) + 1


def check(root):
    structs, configs = read_headers(root / "include" / "slim")
    checked, wrong = 0, []
    for number, text in entries((root / "docs" / "components.md").read_text(encoding="utf-8")):
        first = text.split("|")[1] if text.startswith("|") else text.split("`")[1]
        names = re.findall(r"(?:^|[`, ])(\w+)(?=[`(<{])", first)
        known = [n for n in names if n in configs or n + "()" in structs or n in structs]
        stated = re.findall(r"`(\w+)` \((`[^`]*`|(?:[^;,:) ]|:(?=\d))+)[^)]*\)", text)
        stated += re.findall(r"\.(\w+) = ([^,}]+)", first)
        if not known:
            continue
        members = {}
        for name in known:
            members |= structs.get(name + "()", {}) | structs.get(configs.get(name, name), {})
        for member, value in stated:
            if value == "of":  # "of its parts", "of `masked_least_squares`": the default is another entry's
                continue
            checked += 1
            if member not in members:
                wrong.append(f"docs/components.md:{number}: {known[0]} has no member {member}")
            elif not same(value, *members[member], structs):
                wrong.append(f"docs/components.md:{number}: {known[0]}: {member} is {members[member][1]}, not {value}")
        for member in structs.get(configs.get(known[0], known[0]), {}):
            if stated and not re.search(rf"`{member}`|\.{member} =", text):
                wrong.append(f"docs/components.md:{number}: {known[0]}: {member} is not named")
    return checked, wrong


def main():
    checked, wrong = check(Path(sys.argv[1]))
    print("\n".join(wrong + [f"{checked} defaults, {len(wrong)} wrong"]))
    return 0 if checked > 0 and not wrong else 1


if __name__ == "__main__":
    sys.exit(main())
