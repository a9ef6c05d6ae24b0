#!/usr/bin/env python3
"""The documentation checks find what they look for."""
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

HERE = Path(__file__).parent


def run(script, files):
    with tempfile.TemporaryDirectory() as folder:
        for name, text in files.items():
            (Path(folder) / name).parent.mkdir(parents=True, exist_ok=True)
            (Path(folder) / name).write_text(text, encoding="utf-8")
        return subprocess.run([sys.executable, HERE / script, folder], capture_output=True, text=True).returncode


class Links(unittest.TestCase):
    def check(self, text, expected):
        other = "# Title\n## What it is, and isn't\n```\n# not a heading\n```\n"
        self.assertEqual(run("check_links.py", {"a.md": "[b](docs/b.md)\n" + text, "docs/b.md": other}), expected, text)

    def test_good_links(self):
        self.check("[x](docs) [y](docs/b.md#what-it-is-and-isnt) [z](https://example.org/no)\n# Here\n[w](#here)", 0)

    def test_a_missing_file(self):
        self.check("[x](docs/c.md)", 1)

    def test_a_missing_heading(self):
        self.check("[x](docs/b.md#not-a-heading)", 1)
        self.check("[x](#nowhere)", 1)

    def test_a_file_outside(self):
        self.check("[x](../../../../../../etc/hostname)", 1)

    def test_code_holds_no_links(self):
        self.check("`f[i](j)`\n```\n[x](nowhere)\n```\n", 0)

    def test_a_path_in_prose(self):
        self.check("`docs/b.md` and `b.md`, lines of `llama.cpp`", 0)
        self.check("see `docs/c.md`", 1)
        self.check("see docs/c.md, which is prose", 0)

    def comment(self, name, line, expected):
        files = {"a.md": "[b](docs/b.md)", "docs/b.md": "# T\n", "include/slim/core/a.hpp": "", name: line + "\n"}
        self.assertEqual(run("check_links.py", files), expected, line)

    def test_a_path_in_a_comment(self):
        self.comment("include/b.hpp", "int a; // see core/a.hpp, slim/core/a.hpp and <slim/core/a.hpp>", 0)
        self.comment("include/b.hpp", "int a; // see linalg/a.hpp", 1)
        self.comment("cmake/b.cmake", "# see core/b.hpp", 1)
        self.comment("include/b.inc", "// compiled by core/b.inc", 1)

    def test_documents_outside_the_repository(self):
        self.comment("bench/b.cpp", "// layers of the design study", 1)
        self.comment("docs/c.md", "The study's blocks", 1)
        self.comment("tests/b.cpp", "// as design/experiment has it", 1)
        self.comment("tests/b.cpp", "// by design, a study of its own: redesign/x", 0)

    def test_no_links_at_all_is_suspicious(self):
        self.assertEqual(run("check_links.py", {"a.md": "text"}), 1)


class Readme(unittest.TestCase):
    def check(self, shown, marked, expected):
        files = {"README.md": f"# T\n```\nbash\n```\n```cpp\n{shown}```\n", "examples/00_readme.cpp": f"// [readme]\n{marked}// [/readme]\n"}
        self.assertEqual(run("check_readme.py", files), expected)

    def test_equal(self):
        self.check("int a;\n", "int a;\n", 0)

    def test_different(self):
        self.check("int a;\n", "int b;\n", 1)
        self.check("int a;\n", "int a;\nint b;\n", 1)

    def test_missing(self):
        self.assertEqual(run("check_readme.py", {"README.md": "", "examples/00_readme.cpp": "// [readme]\n// [/readme]\n"}), 1)


class Snippets(unittest.TestCase):
    def check(self, shown, compiled, expected):
        files = {"docs/a.md": f"```cpp\n{shown}```\n```cpp\nint not_shown_by_docstring;\n```\n", "tests/docs/snippets_test.cpp": compiled}
        self.assertEqual(run("check_snippets.py", files), expected)

    def test_compiled(self):
        self.check("/// Doc.\nint f();\n\nint b;\n", "  int b; /// Doc.\n  int f();\n", 0)

    def test_not_compiled(self):
        self.check("/// Doc.\nint f();\n\nint c;\n", "  int b; /// Doc.\n  int f();\n", 1)

    def test_nothing_shown(self):
        self.check("int f();\n", "int f();\n", 1)


class Components(unittest.TestCase):
    HEADER = """
struct rank_of { double ratio = 0.1; ///< of something
  int number = -1; };
struct rank {
  double ratio = 0.1; ///< of something; rank = 3
  index_t multiple = 1;
};
struct ria_config {
  double power = 0.5f;
  scale_block block = per_group(128);
  number_format format = number_format::fp32;
  rank most = {};
  rank least = {.ratio = 0.0};
  sparsity_pattern pattern{2, 4};
  friend bool operator==(ria_config const&, ria_config const&) = default;
};
class ria {
public:
  explicit ria(ria_config config = {}) : config_(config) {}
};
struct target {
  double damping = 0.05;
};
class external {
  explicit external(M const& m, sparsity_pattern pattern = {});
};
"""
    ALL = "`power` (0.5; more), `block` (`per_group(128)`), `format` (fp32), `most` (`{.ratio = 0.1}`), `least` (`{.ratio = 0, .multiple = 1}`), `pattern` (2:4)"

    def check(self, entry, expected):
        files = {"docs/components.md": f"# T\n\n| component | configuration (default) |\n|---|---|\n{entry}\n",
                 "include/slim/a.hpp": self.HEADER}
        self.assertEqual(run("check_components.py", files), expected, entry)

    def test_right_defaults(self):
        self.check("| `ria` | " + self.ALL + " |", 0)
        self.check("| `ria(config)` | " + self.ALL.replace("fp32", "`number_format::fp32`, or bf16") + " |", 0)
        self.check("| `target{.damping = 0.05}` | first |\n| `external(m, pattern)` | pattern: `pattern` (`{}`: none) |", 0)

    def test_wrong_defaults(self):
        for right, wrong in [("0.5;", "0.6;"), ("128", "64"), ("(fp32)", "(fp16)"), ("0.1}", "0.2}"), ("0, .m", "0.1, .m"), ("2:4", "1:4")]:
            self.check("| `ria` | " + self.ALL.replace(right, wrong) + " |", 1)
        self.check("| `target{.damping = 0.06}` | first |", 1)
        self.check("x\n\n`ria(...)`: as published. `power` (0.7), the rest is\n" + self.ALL.replace("`power` (0.5; more)", ""), 1)

    def test_members(self):
        self.check("| `ria` | " + self.ALL.replace("`power` (0.5; more), ", "") + " |", 1)
        self.check("| `ria` | " + self.ALL + ", `clip` (3) |", 1)

    def test_nothing_stated_is_suspicious(self):
        self.check("| `ria` | nothing |", 1)


class Changelog(unittest.TestCase):
    def check(self, headings, expected, version="0.1.0"):
        macros = "".join(f"#define SLIM_VERSION_{p} {n}\n" for p, n in zip(("MAJOR", "MINOR", "PATCH"), "010"))
        self.assertEqual(run("check_changelog.py", {"docs/changelog.md": "".join(f"## {h}\n\n### Added\n\n" for h in headings),
                                                    "CMakeLists.txt": f"project(slim VERSION {version} LANGUAGES CXX",
                                                    "include/slim/config.hpp": macros}), expected, headings)

    def test_dated_entries(self):
        self.check(["0.1.0, 2026-11-29"], 0)
        self.check(["0.2.0 (in progress)", "0.1.0, 2026-11-29", "0.0.1, 2026-11-28"], 0)

    def test_what_is_wrong(self):
        self.check(["0.1.0"], 1)
        self.check(["0.2.0 (in progress)"], 1)
        self.check(["0.2.0, 2026-12-01", "0.1.0, 2026-11-29"], 1)  # the macros say 0.1.0
        self.check(["0.1.0, 2026-11-29", "0.2.0, 2026-11-28"], 1)
        self.check(["0.1.0, 2026-11-29", "0.0.1 (in progress)"], 1)
        self.check(["0.1.0, 2026-11-29"], 1, version="0.2.0")


@unittest.skipUnless(shutil.which("doxygen"), "there is no doxygen")
class Reference(unittest.TestCase):
    """With the Doxyfile of the library, on a library of one header."""

    def check(self, header, expected, said=""):
        template = (HERE.parents[1] / "cmake" / "Doxyfile.in").read_text(encoding="utf-8")
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            (root / "include" / "slim").mkdir(parents=True)
            (root / "docs").mkdir()
            (root / "README.md").write_text("# T\n[p](docs/p.md#part) [x](include/slim)\n")
            (root / "docs" / "p.md").write_text("# P\n## Part\n`slim::f`\n")
            (root / "docs" / "n.dox").write_text("/// @namespace slim\n/// All.\n")
            (root / "include" / "slim" / "a.hpp").write_text("#pragma once\nnamespace slim {\ninline namespace SLIM_ABI {\n" + header
                                                             + "\n} // namespace SLIM_ABI\n} // namespace slim\n")
            for name, value in {"PROJECT_SOURCE_DIR": folder, "SLIM_DOCS_FOLDER": f"{folder}/out", "PROJECT_VERSION": "1",
                                "PROJECT_DESCRIPTION": "d"}.items():
                template = template.replace(f"@{name}@", value)
            (root / "Doxyfile").write_text(template)
            run = subprocess.run([sys.executable, HERE / "check_reference.py", "doxygen", root / "Doxyfile", root / "out"],
                                 capture_output=True, text=True)
        self.assertEqual(run.returncode, expected, run.stdout + run.stderr)
        self.assertIn(said, run.stdout)

    WHOLE = """/// A function; see @ref g.
int f(int a);
int f(double a);
/// Another.
template <class T> requires requires(T t) { t.f(); } int g(T const& t);
/// A type.
struct s { int member; struct nested {}; };
/// A concept.
template <class T>
concept c = requires(T t) { t.f(); };
namespace detail { int hidden(); struct also {}; }"""

    def test_whole(self):
        self.check(self.WHOLE, 0, "5 public names, 0 without")

    def test_names_without_a_docstring(self):
        for line in ["/// A type.", "/// Another.", "/// A concept.", "/// A function; see @ref g."]:
            self.check(self.WHOLE.replace(line + "\n", ""), 1, "has no docstring")
        self.check(self.WHOLE + "\nenum class e { a };", 1, "slim::e has no docstring")
        self.check(self.WHOLE + "\nusing alias = s;", 1, "slim::alias has no docstring")
        self.check(self.WHOLE + "\ninline constexpr int k = 3;", 1, "slim::k has no docstring")

    def test_dead_references(self):
        self.check(self.WHOLE.replace("@ref g", "@ref no_such_thing"), 1, "unable to resolve reference")
        self.check(self.WHOLE.replace("A type.", "A type, @nosuch command."), 1, "unknown command")



if __name__ == "__main__":
    unittest.main()
