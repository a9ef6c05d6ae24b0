#!/usr/bin/env python3
"""Checks the house rules that a compiler does not: check_layers.py INCLUDE_DIR [...]. Prints one line per breach, exit code 1.

Rules: headers include downwards only (LAYERS), slim.hpp reaches all but io/, interop/, testing/, training/ and OPT_IN_HEADERS, the
headers of a folder do not include each other in a circle, macros are called SLIM_..., no anonymous namespace and no `static` at namespace scope
(two programs' worth of symbols), the context is the last parameter, parameters stand in the order of docs/conventions.md
(Signatures), the library's namespaces are opened so that ctags sees them, no costly standard headers, no printing, Eigen
only in linalg/ and interop/, xtensor and CBLAS only in interop/, json only in io/.
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
    "training": BASE | METHODS,
    "packing": {"core", "simd"},
    "kernels": {"core", "simd", "packing"},
    "pipeline": BASE | METHODS | {"joint", "packing", "kernels"},
    "io": {"core", "packing", "pipeline"},
    "interop": BASE | METHODS,
    "testing": BASE | METHODS | {"joint", "packing", "kernels", "pipeline", "training"},
    # slim.hpp itself: the umbrella
    "": BASE | METHODS | {"joint", "packing", "kernels", "pipeline", "training"},
}
# Single headers of other folders. Siblings meet only here: concepts, and the plain data types (mask, codes) that go from one
# to the other. The one header of models in the list is named by the aliases that pair a solver with its paper's saliency
# (slim_lora = saliency_lora<...>). Packed formats and kernels take the data types, and nothing that makes them.
SIBLINGS = {
    "pruning": {"slim/saliency/saliency.hpp"},
    "transforms": {"slim/saliency/saliency.hpp", "slim/pruning/mask.hpp", "slim/quantization/quantizer.hpp",
                   "slim/quantization/input_quantizer.hpp"},
    "adapters": {"slim/saliency/saliency.hpp", "slim/saliency/channel_weights.hpp", "slim/quantization/quantizer.hpp",
                 "slim/quantization/codes/integer_codes.hpp", "slim/pruning/mask.hpp", "slim/pruning/pruner.hpp"},
    "quantization": {"slim/pruning/mask.hpp", "slim/pruning/pruner.hpp", "slim/saliency/saliency.hpp"},
    "packing": {"slim/quantization/codes/integer_codes.hpp", "slim/quantization/codes/codebook_codes.hpp",
                "slim/quantization/codes/with_outliers.hpp", "slim/quantization/codes/column_parts.hpp",
                "slim/quantization/codes/any_codes.hpp", "slim/quantization/sparse_codes.hpp", "slim/pruning/mask.hpp"},
    "kernels": {"slim/quantization/codes/integer_codes.hpp", "slim/quantization/codes/plain_values.hpp", "slim/pruning/mask.hpp",
                "slim/quantization/codes/with_outliers.hpp", "slim/quantization/codes/column_parts.hpp",
                "slim/adapters/adapter.hpp"},
    "interop": {"slim/kernels/cuda/dense_product.cuh", "slim/io/tensor.hpp", "slim/io/gguf/blocks.hpp"},
    "io": {"slim/quantization/codes/integer_codes.hpp", "slim/quantization/codes/codebook_codes.hpp", "slim/pruning/mask.hpp"},
}

COSTLY = {"iostream", "regex", "random", "ranges", "format"}
PRINTING = re.compile(r"\bstd::(cout|cerr|clog)\b|\b(printf|fprintf|puts|abort)\s*\(")
ONLY_IN = {"Eigen": {"linalg", "interop"}, "unsupported": set(), "xtensor": {"interop"}, "nlohmann": {"io"},
           "cblas.h": {"interop"}, "cublas_v2.h": {"interop"}}


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


def matching(code, begin):
    """Where the bracket opened at `begin` closes."""
    pairs = {"(": ")", "{": "}", "[": "]"}
    depth, opened, closed = 0, code[begin], pairs[code[begin]]
    for i in range(begin, len(code)):
        depth += (code[i] == opened) - (code[i] == closed)
        if depth == 0:
            return i
    return len(code)


def public_only(code):
    """Namespaces detail and private parts of classes blanked out, line breaks kept."""
    def blank(text):
        return re.sub(r"[^\n]", " ", text)

    while found := re.search(r"\bnamespace\s+detail\s*\{", code):
        end = matching(code, found.end() - 1)
        code = code[:found.start()] + blank(code[found.start():end + 1]) + code[end + 1:]
    while found := re.search(r"^[ \t]*(?:private|protected):", code, re.M):
        end, depth = found.end(), 0  # up to the end of the class
        while end < len(code) and depth >= 0 and not (depth == 0 and code.startswith("public:", end)):
            depth += (code[end] == "{") - (code[end] == "}")
            end += 1
        code = code[:found.start()] + blank(code[found.start():end - 1]) + code[end - 1:]
    return code


def split_parameters(text):
    """Parameters of a list: cut at commas outside all brackets, without their defaults."""
    parts, depth, part = [], 0, ""
    for c in text:
        depth += (c in "([{<") - (c in ")]}>")
        if c == "," and depth == 0:
            parts.append(part)
            part = ""
        else:
            part += c
    return [" ".join(p.split("=")[0].split()) for p in [*parts, part] if p.strip()]


def declarations(code):
    """(line, words before the name, name, parameters) of functions and constructors: their parameters are a type and a name."""
    for found in re.finditer(r"(\w+)\(", code):
        inside = code[found.end():matching(code, found.end() - 1)]
        parameters = split_parameters(inside)
        before = re.split(r"[;{}:>]|\n\s*\n", code[:found.start()])[-1].split()
        if parameters and found.group(1) not in {"requires", "if", "for", "while", "switch"} and \
                all(re.search(r"[\w>&*] \w+$|^context const&$|&&\w*$", p) for p in parameters):
            yield code.count("\n", 0, found.start()) + 1, before, found.group(1), parameters


CONTEXT = re.compile(r"^context const&")
CONFIG = re.compile(r"^(?:\w+_config|\w+_options)(?: const&)? \w+$")
CALLABLE = re.compile(r"^[A-Z]\w*(?: const)?&{1,2} \w+$")  # a template parameter: work to be done, which reads best at the end
RESULT = re.compile(r"^(?:matrix_view<(?!.*\bconst\b)[^>]*>|matrix<\w+>&) \w+$")
INPUT = re.compile(r"^(?:matrix_view<.*const.*>|matrix<\w+> const&) \w+$")


def check_signatures(code):
    """The order of docs/conventions.md: object, inputs, results, options, context."""
    code = public_only(code)
    classes = set(re.findall(r"\b(?:class|struct) (\w+)", code))
    for line, before, name, parameters in declarations(code):
        places = [i for i, p in enumerate(parameters) if CONTEXT.match(p)]
        if places and any(not CALLABLE.match(p) for p in parameters[places[-1] + 1:]):
            yield line, f"{name}: the context is not the last parameter"
        configs = [i for i, p in enumerate(parameters) if CONFIG.match(p)]
        if configs and any(not CALLABLE.match(p) and not CONTEXT.match(p) and not CONFIG.match(p) for p in parameters[configs[-1] + 1:]):
            yield line, f"{name}: a part or an input stands behind the configuration"
        if name in classes and any(p.split()[0].endswith("_config") for p in parameters) and "explicit" not in before:
            yield line, f"{name}: a constructor from a configuration is explicit"
        if name.endswith("_into"):
            results = [i for i, p in enumerate(parameters) if RESULT.match(p)]
            if results and any(INPUT.match(p) for p in parameters[results[0]:]):
                yield line, f"{name}: an input stands behind the result"


def check_includes(folder, name, line, target, root):
    if target.startswith("slim/"):
        if not (root / target).is_file():
            yield line, f"includes {target}, which does not exist"
        parts = target.split("/")
        if name.endswith(".cuh") and (parts[1] not in {"core", "kernels"} or target == "slim/kernels/cuda/pack_device.hpp" or
                                      (parts[1] == "kernels" and parts[2] != "cuda")):
            yield line, f"nvcc reads core/ and the GPU's own headers only, not {target}"
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
        if PRINTING.search(line):
            yield number, "prints or aborts"
        if "Eigen::" in line and folder not in ONLY_IN["Eigen"]:
            yield number, "Eigen is named outside interop, linalg"
        if re.search(r"namespace\s+slim::", line):
            yield number, "open `namespace slim {` and `inline namespace SLIM_ABI {` one by one: ctags does not read the short form"
    yield from check_signatures(without_preprocessor(code))
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


OPT_IN = {"io", "interop", "testing", "training", "training.hpp"}
# Entropy coding is for files; what compresses and runs layers does not need it.
OPT_IN_HEADERS = {"slim/packing/entropy_coded.hpp", "slim/packing/entropy_coded_matrix.hpp",
                  "slim/packing/rans.hpp", "slim/packing/rans_kernels.hpp"}


def check_umbrella(root):
    """slim.hpp reaches every header but those that are included by name."""
    if not (root / "slim" / "slim.hpp").is_file():
        return
    reached, todo = set(), ["slim/slim.hpp"]
    while todo:
        name = todo.pop()
        if name not in reached and (root / name).is_file():
            reached.add(name)
            todo += re.findall(r'^\s*#\s*include\s*"(slim/[^"]+)"', (root / name).read_text(encoding="utf-8"), re.M)
    for path in sorted((root / "slim").rglob("*.hpp")):
        name = path.relative_to(root).as_posix()
        if name not in reached and name.split("/")[1] not in OPT_IN and name not in OPT_IN_HEADERS:
            yield name, "slim.hpp does not include it, nor any header that it includes"


def check_tree(root):
    """All breaches under an include folder, as lines of text."""
    for path in sorted(p for ending in ("hpp", "cuh", "inc") for p in (root / "slim").rglob(f"*.{ending}")):
        for line, what in check_file(path, root):
            yield f"{path}:{line}: {what}"
    for name, what in [*check_circles(root), *check_umbrella(root)]:
        yield f"{root / name}:1: {what}"


def main():
    breaches = [line for root in sys.argv[1:] for line in check_tree(Path(root))]
    print("\n".join(breaches) if breaches else "no breach")
    return 1 if breaches else 0


if __name__ == "__main__":
    sys.exit(main())
