#!/usr/bin/env python3
"""What including the library costs a compiler: time and memory, beside Eigen, fmt and xtensor, medians of several turns.

    bench/compile_time/measure.py [--rounds 5] [--compiler g++] [--against OTHER_CHECKOUT]

Units are compiled by turns, so that a busy machine is busy for all of them. With --against, the same units of another checkout
take turns, too. Times are user + system CPU seconds of the compiler.
"""
import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
EIGEN = ["-isystem", "/usr/include/eigen3"]

# name, source (text, or a path inside the checkout), flags. Peers that are not installed are left out.
UNITS = [
    ("Eigen/Dense", "#include <Eigen/Dense>\n", ["-fsyntax-only"]),
    ("fmt/format.h", "#include <fmt/format.h>\n", ["-fsyntax-only"]),
    ("xtensor/xarray.hpp", "#include <xtensor/xarray.hpp>\n", ["-fsyntax-only"]),
    ("slim/slim.hpp", "#include <slim/slim.hpp>\n", ["-fsyntax-only"]),
    ("slim/pipeline/compress.hpp, absmax, 2:4", "#include <slim/pipeline/compress.hpp>\n#include <slim/quantization/absmax.hpp>\n"
     "#include <slim/pruning/nm_pruner.hpp>\n#include <slim/saliency/wanda.hpp>\n", ["-fsyntax-only"]),
    ("slim/kernels/packed_linear.hpp", "#include <slim/kernels/packed_linear.hpp>\n", ["-fsyntax-only"]),
    ("slim/slim.hpp, compiled form", "#include <slim/slim.hpp>\n", ["-fsyntax-only", "-DSLIM_COMPILED"]),
    ("README example, -O2", Path("examples/00_readme.cpp"), ["-O2", "-c", "-o", os.devnull]),
    ("README example, -O2, compiled form", Path("examples/00_readme.cpp"), ["-O2", "-c", "-o", os.devnull, "-DSLIM_COMPILED"]),
    ("the compiled form itself, -O2", Path("cmake/compiled/compiled.cpp"), ["-O2", "-c", "-o", os.devnull, "-DSLIM_COMPILING"]),
]
PEERS = {"Eigen/Dense": "", "fmt/format.h": "/usr/include/fmt/format.h", "xtensor/xarray.hpp": "/usr/include/xtensor/xarray.hpp"}


def compile_once(compiler, source, flags, include):
    """CPU seconds and peak megabytes of one compilation."""
    command = [compiler, "-std=c++20", "-fopenmp", *flags, f"-I{include}", *EIGEN, source]
    pid = os.fork()
    if pid == 0:
        run = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        if run.returncode != 0:
            sys.stderr.write(run.stderr.decode())
        os.write(OUT, f"{used.ru_utime + used.ru_stime} {used.ru_maxrss / 1024} {run.returncode}\n".encode())
        os._exit(0)
    os.waitpid(pid, 0)
    seconds, megabytes, code = os.read(IN, 200).decode().split()
    if code != "0":
        sys.exit(f"{' '.join(command)} failed")
    return float(seconds), float(megabytes)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--compiler", default="g++")
    parser.add_argument("--against", type=Path)
    args = parser.parse_args()
    checkouts = [("here", ROOT)] + ([("other", args.against)] if args.against else [])
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(args.rounds):
            for k, (name, text, flags) in enumerate(UNITS):
                for label, root in checkouts:
                    if name in PEERS and (label == "other" or not Path(PEERS[name] or "/").exists()):
                        continue
                    source = root / text if isinstance(text, Path) else Path(folder) / f"unit{k}.cpp"
                    if not isinstance(text, Path):
                        source.write_text(text)
                    elif not source.exists():
                        continue
                    results.setdefault((name, label), []).append(compile_once(args.compiler, source, flags, root / "include"))
    print("| unit | checkout | CPU seconds | of Eigen/Dense | peak MB |\n|:--|:--|--:|--:|--:|")
    eigen = statistics.median(s for s, _ in results[("Eigen/Dense", "here")])
    for (name, label), all_runs in results.items():
        seconds, megabytes = (statistics.median(column) for column in zip(*all_runs))
        print(f"| {name} | {label} | {seconds:.2f} | {seconds / eigen:.2f} | {megabytes:.0f} |")


IN, OUT = os.pipe()
if __name__ == "__main__":
    main()
