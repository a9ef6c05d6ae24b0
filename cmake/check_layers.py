#!/usr/bin/env python3
"""Checks the house rules that a compiler does not: check_layers.py INCLUDE_DIR [...]. Prints one line per breach, exit code 1.

Rules: headers include downwards only (LAYERS), the headers of a folder do not include each other in a circle, macros are
called SLIM_..., no anonymous namespace and no `static` at namespace scope (two programs' worth of symbols), the context is
the last parameter, the library's namespaces are opened so that ctags sees them, no costly standard headers, no printing, Eigen only in linalg/ and interop/, xtensor and CBLAS only in interop/, json only in io/.
"""
import re
import sys
from pathlib import Path

# folder -> folders it may include. Siblings meet only where SIBLINGS says so.
BASE = {"core", "simd", "linalg", "calibration"}
METHODS = {"saliency", "pruning", "quantization", "transforms", "adapters", "allocation"}
LAYERS = {
    "core": set(),
    "simd": {"core"},
    "linalg": {"core", "simd"},
    "calibration": {"core", "simd", "linalg"},
    **{folder: BASE for folder in METHODS},
    "joint": BASE | METHODS,
    "packing": {"core"},
    "kernels": {"core", "simd", "packing"},
    "pipeline": BASE | METHODS | {"joint", "packing", "kernels"},
    "io": {"core", "packing", "pipeline"},
    "interop": {"core", "linalg"},
    "testing": BASE | METHODS | {"joint", "packing", "kernels", "pipeline"},
    # slim.hpp itself: the umbrella
    "": BASE | METHODS | {"joint", "packing", "kernels", "pipeline"},
}
# Single headers of other folders. Siblings meet only here: concepts, and the plain data types (mask, codes) that go from one
# to the other. The one header of models in the list is named by the aliases that pair a solver with its paper's saliency
# (slim_lora = saliency_lora<...>). Packed formats and kernels take the data types, and nothing that makes them.
SIBLINGS = {
    "pruning": {"slim/saliency/saliency.hpp"},
    "transforms": {"slim/saliency/saliency.hpp", "slim/pruning/mask.hpp"},
    "adapters": {"slim/saliency/saliency.hpp", "slim/saliency/channel_weights.hpp", "slim/quantization/quantizer.hpp",
                 "slim/quantization/codes/integer_codes.hpp", "slim/pruning/mask.hpp", "slim/pruning/pruner.hpp"},
    "packing": {"slim/quantization/codes/integer_codes.hpp", "slim/pruning/mask.hpp"},
    "kernels": {"slim/quantization/codes/integer_codes.hpp", "slim/pruning/mask.hpp", "slim/adapters/adapter.hpp"},
}

COSTLY = {"iostream", "regex", "random", "ranges", "format"}
PRINTING = re.compile(r"\bstd::(cout|cerr|clog)\b|\b(printf|fprintf|puts|abort)\s*\(")
ONLY_IN = {"Eigen": {"linalg", "interop"}, "unsupported": set(), "xtensor": {"interop"}, "nlohmann": {"io"},
           "cblas.h": {"interop"}}


def without_comments(text):
    """Comments and string literals blanked out, line breaks kept."""
    pattern = re.compile(r'//[^\n]*|/\*.*?\*/|(?<![\w\'])"(?:\\.|[^"\\\n])*"|(?<!\w)\'(?:\\.|[^\'\\\n])\'', re.S)
    return pattern.sub(lambda m: re.sub(r"[^\n]", " ", m.group()), text)


def without_preprocessor(code):
    return re.sub(r"^[ \t]*#(?:[^\n]*\\\n)*[^\n]*", lambda m: "\n" * m.group().count("\n"), code, flags=re.M)


def namespace_scope(code):
    """(line, statement) for everything that starts at namespace scope."""
    stack, start, line, start_line, parens = [], 0, 1, 1, 0
    for i, c in enumerate(code):
        if c == "\n":
            line += 1
        elif c in "()":
            parens += 1 if c == "(" else -1
        elif c in "{};" and not (c == ";" and parens):
            statement = code[start:i].strip()
            if all(stack) and statement:
                yield start_line + code[start:i][: len(code[start:i]) - len(code[start:i].lstrip())].count("\n"), statement + c
            if c == "{":
                stack.append(bool(re.search(r"\bnamespace\b[^;=()]*$", statement)) or statement.startswith("extern"))
            elif c == "}" and stack:
                stack.pop()
            start, start_line = i + 1, line


def check_includes(folder, name, line, target, root):
    if target.startswith("slim/"):
        if not (root / target).is_file():
            yield line, f"includes {target}, which does not exist"
        parts = target.split("/")
        if len(parts) == 2 or parts[1] == folder or folder not in LAYERS:  # config.hpp, own folder
            if target == "slim/slim.hpp":
                yield line, "includes the umbrella"
            return
        if parts[1] in LAYERS[folder]:
            return
        if target in SIBLINGS.get(folder, ()):
            return
        yield line, f"{folder}/ must not include {target}"
    elif target in COSTLY:
        yield line, f"<{target}> costs every user compile time"
    elif (top := target.split("/")[0]) in ONLY_IN and folder not in ONLY_IN[top]:
        yield line, f"{top} is named outside " + (", ".join(sorted(ONLY_IN[top])) or "what it is worth")


def check_file(path, root):
    relative = path.relative_to(root / "slim")
    folder = relative.parts[0] if len(relative.parts) > 1 else ""
    text = path.read_text(encoding="utf-8")
    if folder and folder not in LAYERS:
        yield 1, f"folder {folder}/ is not in the layers of cmake/check_layers.py"
    if path.suffix != ".inc" and not text.startswith("#pragma once\n"):
        yield 1, "does not begin with #pragma once"
    for number, line in enumerate(text.split("\n"), 1):
        if include := re.match(r'\s*#\s*include\s*[<"]([^>"]+)[>"]', line):
            yield from check_includes(folder, relative.name, number, include.group(1), root)
        if (define := re.match(r"\s*#\s*define\s+(\w+)", line)) and not define.group(1).startswith("SLIM_"):
            yield number, f"macro {define.group(1)} is not called SLIM_..."
    code = without_comments(text)
    for number, line in enumerate(code.split("\n"), 1):
        if re.search(r"context const& \w+ = \{\},", line):
            yield number, "the context is not the last parameter"
        if PRINTING.search(line):
            yield number, "prints or aborts"
        if "Eigen::" in line and folder not in ONLY_IN["Eigen"]:
            yield number, "Eigen is named outside interop, linalg"
        if re.search(r"namespace\s+slim::", line):
            yield number, "open `namespace slim {` and `inline namespace SLIM_ABI {` one by one: ctags does not read the short form"
    for number, statement in namespace_scope(without_preprocessor(code)):
        if re.match(r"(inline\s+)?namespace\s*\{", statement):
            yield number, "anonymous namespace"
        if re.search(r"(^|\s|\])static\s", re.split(r"[({=]", statement)[0]):
            yield number, "static at namespace scope"


def check_circles(root):
    """Headers that include each other in a circle: #pragma once hides it until an include order changes."""
    edges = {}
    for path in sorted((root / "slim").rglob("*.hpp")):
        name = path.relative_to(root).as_posix()
        edges[name] = re.findall(r'^\s*#\s*include\s*"(slim/[^"]+)"', path.read_text(encoding="utf-8"), re.M)
    done, active = set(), []

    def visit(name):
        if name in active:
            yield name, "circle: " + " -> ".join(active[active.index(name):] + [name])
        elif name not in done:
            active.append(name)
            for target in edges.get(name, []):
                yield from visit(target)
            active.pop()
            done.add(name)

    for name in edges:
        yield from visit(name)


def check_tree(root):
    """All breaches under an include folder, as lines of text."""
    for path in sorted(p for ending in ("hpp", "cuh", "inc") for p in (root / "slim").rglob(f"*.{ending}")):
        for line, what in check_file(path, root):
            yield f"{path}:{line}: {what}"
    for name, what in check_circles(root):
        yield f"{root / name}:1: {what}"


def main():
    breaches = [line for root in sys.argv[1:] for line in check_tree(Path(root))]
    print("\n".join(breaches) if breaches else "no breach")
    return 1 if breaches else 0


if __name__ == "__main__":
    sys.exit(main())
