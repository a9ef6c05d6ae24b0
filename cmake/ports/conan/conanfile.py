"""A Conan 2 recipe of this checkout: `conan create cmake/ports/conan`. A recipe of a remote would fetch a release instead."""
from pathlib import Path

from conan import ConanFile
from conan.tools.cmake import CMake, CMakeToolchain, cmake_layout
from conan.tools.files import copy


class Slim(ConanFile):
    name = "slim"
    version = "0.1.0"
    description = "One-shot compression of the linear layers of language models, header-only C++20"
    package_type = "header-library"
    settings = "os", "arch", "compiler", "build_type"
    no_copy_source = True

    def export_sources(self):
        root = Path(self.recipe_folder).parents[2]
        for pattern in ("CMakeLists.txt", "include/*", "cmake/*"):
            copy(self, pattern, root, self.export_sources_folder)

    def requirements(self):
        self.requires("eigen/[>=3.3]", transitive_headers=True)

    def layout(self):
        cmake_layout(self)

    def generate(self):
        toolchain = CMakeToolchain(self)
        for option in ("TESTS", "EXAMPLES", "BENCHMARKS"):
            toolchain.cache_variables[f"SLIM_BUILD_{option}"] = False
        toolchain.cache_variables["SLIM_USE_OPENMP"] = False
        toolchain.generate()

    def build(self):
        CMake(self).configure()

    def package(self):
        CMake(self).install()

    def package_id(self):
        self.info.clear()

    def package_info(self):
        self.cpp_info.set_property("cmake_target_name", "slim::slim")
        self.cpp_info.bindirs = self.cpp_info.libdirs = []
