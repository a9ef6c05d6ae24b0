"""The layer check is itself checked: every breach below must be found, every sound header must pass."""
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "cmake"))
import check_layers

SOUND = """#pragma once
#include "slim/config.hpp"
#include "slim/core/a.hpp"
#define SLIM_X 1
#if defined(_OPENMP)
#define SLIM_LONG(a) \\
  static a
#endif
/// static int in_a_comment; namespace { ; Eigen:: ; printf(
namespace slim {
inline namespace SLIM_ABI {
namespace detail { inline int f(int a = 3) { static int const table[] = {1, 2}; return table[0] + a; } }
struct s { static int g() { return 1; } static constexpr int h = 2; };
inline constexpr char const* text = "namespace { static std::cout";
template <class T> requires requires(T t) { t.f(); } int k(T) { return static_cast<int>(1); }
} // namespace SLIM_ABI
} // namespace slim
"""

# path of a header, its text after #pragma once, a piece of the complaint
BREACHES = [
    ("core/b.hpp", '#include "slim/linalg/a.hpp"', "core/ must not include slim/linalg/a.hpp"),
    ("saliency/b.hpp", '#include "slim/pruning/a.hpp"', "saliency/ must not include slim/pruning/a.hpp"),
    ("pruning/b.hpp", '#include "slim/saliency/a.hpp"', "pruning/ must not include slim/saliency/a.hpp"),
    ("quantization/b.hpp", '#include "slim/pipeline/a.hpp"', "quantization/ must not include"),
    ("packing/b.hpp", '#include "slim/pruning/a.hpp"', "packing/ must not include slim/pruning/a.hpp"),
    ("packing/b.hpp", '#include "slim/kernels/a.hpp"', "packing/ must not include slim/kernels/a.hpp"),
    ("kernels/b.hpp", '#include "slim/linalg/a.hpp"', "kernels/ must not include slim/linalg/a.hpp"),
    ("kernels/b.cuh", '#include "slim/packing/a.hpp"', "nvcc reads core/ and the GPU's own headers only"),
    ("core/b.hpp", '#include "slim/core/missing.hpp"', "does not exist"),
    ("core/b.hpp", '#include "slim/slim.hpp"', "umbrella"),
    ("core/b.hpp", "#define MAX(a, b) a", "macro MAX"),
    ("core/b.hpp", "namespace slim {\nnamespace {\nint f();\n}\n}", "anonymous namespace"),
    ("core/b.hpp", "namespace slim {\nstatic int f() { return 1; }\n}", "static at namespace scope"),
    ("core/b.hpp", "namespace slim {\ntemplate <class T> static int f(T) { return 1; }\n}", "static at namespace scope"),
    ("core/b.hpp", "namespace slim {\n[[nodiscard]] static inline int f() { return 1; }\n}", "static at namespace scope"),
    ("core/b.hpp", "#include <iostream>", "<iostream>"),
    ("core/b.hpp", "#include <ranges>", "<ranges>"),
    ("core/b.hpp", "#include <Eigen/Core>", "Eigen is named outside"),
    ("pruning/b.hpp", "inline void f(Eigen::MatrixXf&) {}", "Eigen is named outside"),
    ("core/b.hpp", "#include <xtensor/xtensor.hpp>", "xtensor is named outside"),
    ("linalg/b.hpp", "#include <cblas.h>", "cblas.h is named outside"),
    ("core/b.hpp", '#include <cstdio>\ninline void f() { std::printf("x"); }', "prints"),
    ("core/b.hpp", "namespace slim::inline SLIM_ABI {\n}", "ctags"),
    ("core/b.hpp", "inline void f(context const& ctx = {}, int n = 0) {}", "not the last parameter"),
    ("core/b.hpp", "template <class T>\nvoid f(matrix_view<T const> w,\n       context const& ctx,\n       int n) {}", "not the last parameter"),
    ("core/b.hpp", "struct s {\n  void f(int n, context const& ctx = {}, mode m = mode::x) const;\n};", "not the last parameter"),
    ("core/b.hpp", "void f(absmax_config const& how, calibration const& calib, context const& ctx = {});", "behind the configuration"),
    ("core/b.hpp", "class alps {\npublic:\n  explicit alps(alps_config config, Projection p);\n};", "behind the configuration"),
    ("core/b.hpp", "class ria {\npublic:\n  ria(ria_config config = {}) : c_(config) {}\nprivate:\n  ria_config c_;\n};", "explicit"),
    ("core/b.hpp", "void f_into(matrix_view<float> y, matrix_view<float const> x, context const& ctx = {});", "behind the result"),
    ("simd/b.inc", '#include "slim/linalg/a.hpp"', "simd/ must not include slim/linalg/a.hpp"),
    ("nowhere/b.hpp", "", "folder nowhere/"),
]


def breaches_of(files):
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for name, text in {"config.hpp": "#pragma once\n", **files}.items():
            path = root / "slim" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return list(check_layers.check_tree(root))


class CheckLayers(unittest.TestCase):
    def test_sound_headers_pass(self):
        files = {f"{folder}/a.hpp": "#pragma once\n" for folder in check_layers.LAYERS if folder}
        self.assertEqual(breaches_of({**files, "pruning/b.hpp": SOUND, "saliency/saliency.hpp": "#pragma once\n",
                                      "pruning/c.hpp": '#pragma once\n#include "slim/saliency/saliency.hpp"\n'}), [])

    def test_breaches_are_found(self):
        files = {f"{folder}/a.hpp": "#pragma once\n" for folder in check_layers.LAYERS if folder}
        files["slim.hpp"] = "#pragma once\n" + "".join(f'#include "slim/{name}"\n' for name in ["config.hpp", *files]
                                                     if name.split("/")[0] not in check_layers.OPT_IN)
        for name, text, complaint in BREACHES:
            with self.subTest(text):
                found = breaches_of({**files, name: "#pragma once\n" + text + "\n"})
                found = [line for line in found if "slim.hpp does not" not in line]
                self.assertEqual(len(found), 1, found)
                self.assertIn(complaint, found[0])

    def test_missing_pragma_once(self):
        self.assertIn("#pragma once", breaches_of({"core/a.hpp": "\n#pragma once\n"})[0])

    def test_umbrella(self):
        files = {"core/a.hpp": "#pragma once\n", "io/b.hpp": "#pragma once\n", "linalg/a.hpp": '#pragma once\n#include "slim/core/a.hpp"\n'}
        umbrella = '#pragma once\n#include "slim/config.hpp"\n'
        self.assertEqual(breaches_of({**files, "slim.hpp": umbrella + '#include "slim/linalg/a.hpp"\n'}), [])
        found = breaches_of({**files, "slim.hpp": umbrella + '#include "slim/core/a.hpp"\n'})
        self.assertEqual(len(found), 1, found)
        self.assertIn("linalg/a.hpp:1: slim.hpp does not include it", found[0])

    def test_circle(self):
        found = breaches_of({"core/a.hpp": '#pragma once\n#include "slim/core/b.hpp"\n',
                             "core/b.hpp": '#pragma once\n#include "slim/core/a.hpp"\n'})
        self.assertEqual(len(found), 1)
        self.assertIn("circle: slim/core/a.hpp -> slim/core/b.hpp -> slim/core/a.hpp", found[0])


    def test_signatures_that_are_right(self):
        for text in ["template <class F>\nvoid parallel(context const& ctx, F const& run);",
                     "void f(matrix_view<float const> w, saliency const& s, absmax_config const& how = {}, context const& ctx = {});",
                     "class ria {\npublic:\n  explicit ria(ria_config config = {}) : c_(config) {}\n};",
                     "class box {\npublic:\n  int f() const { return g(ctx_, 1); }\nprivate:\n  void g(context const& ctx, int n) const {}\n};",
                     "namespace detail {\nvoid g(context const& ctx, int n);\n}",
                     "void forward_into(layer const& l, matrix_view<float const> x, matrix_view<float> y, product_options const& o, context const& ctx);"]:
            with self.subTest(text):
                self.assertEqual(breaches_of({"core/b.hpp": "#pragma once\n" + text + "\n"}), [])


class CheckCtags(unittest.TestCase):
    """The short form of nested inline namespaces hides a library from ctags 5.9: that is what the test is for."""

    def check(self, text, expected):
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "slim").mkdir()
            (Path(folder) / "slim" / "a.hpp").write_text("#pragma once\n" + text)
            run = subprocess.run([sys.executable, Path(__file__).parent / "check_ctags.py", folder, "compress"],
                                 capture_output=True, text=True)
        if run.returncode == 77:
            self.skipTest(run.stdout)
        self.assertEqual(run.returncode, expected, run.stdout)

    def test_both_forms(self):
        body = "struct s {};\ntemplate <class M> [[nodiscard]] auto compress(M const& w) { return w; }\n"
        self.check("namespace slim {\ninline namespace SLIM_ABI {\n" + body + "}\n}\n", 0)
        self.check("namespace slim::inline SLIM_ABI {\n" + body + "}\n", 1)

    def test_a_name_that_is_not_there(self):
        self.check("namespace slim { struct s {}; }\n", 1)


if __name__ == "__main__":
    unittest.main()
