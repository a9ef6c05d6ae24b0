#!/usr/bin/env python3
"""What nvcc makes of the GPU's kernels: gates.py NVCC INCLUDE_DIR BUILD_DIR [ARCHITECTURE...]. Exit code 1 if a gate is missed.

Gates, per architecture and kernel: no warnings, no register spilled, no local memory, no load or store of it in the code. On sm_90a an
atom of 8 tokens takes at most so many instructions (MOST). slim.hpp in a .cu file is refused with its sentence. Prints the tables of
docs/benchmarks-gpu.md.
"""
import re
import struct
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

ARCHITECTURES = ["80", "86", "89", "90a", "100", "120"]
MOST = {"sparse24": 52, "dense3": 100}
KERNELS = 10  # 4 numbers of tokens and the kernel that writes matrices out, in fp16 and bf16
SENTENCE = "slim.hpp is host code that nvcc cannot read"
# An instruction is 16 bytes, its opcode the low 12 bits. Names were read off known kernels.
NAMES = {0x23c: "HMMA", 0x83b: "LDSM", 0x984: "LDS", 0x812: "LOP3", 0x212: "LOP3", 0x819: "SHF", 0x830: "HADD2", 0x230: "HADD2",
         0x430: "HADD2", 0x831: "HFMA2", 0x231: "HFMA2", 0x431: "HFMA2", 0x387: "STL", 0x983: "LDL"}


def census(path):
    """(kernel, how often each opcode stands in it) of a cubin, an ELF file with a section .text.KERNEL for each kernel."""
    data = path.read_bytes()
    table, = struct.unpack_from("<Q", data, 40)
    _, count, names = struct.unpack_from("<HHH", data, 58)

    def section(k):
        return struct.unpack_from("<IIQQQQIIQQ", data, table + 64 * k)

    strings = section(names)[4]
    for k in range(count):
        head = section(k)
        name = data[strings + head[0]:data.index(b"\0", strings + head[0])].decode()
        if name.startswith(".text."):
            body = data[head[4]:head[4] + head[5]]
            yield name[6:], Counter(struct.unpack_from("<H", body, i)[0] & 0xfff for i in range(0, len(body), 16))


def main():
    nvcc, include, build = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    architectures = sys.argv[4:] or ARCHITECTURES
    build.mkdir(parents=True, exist_ok=True)
    here, failed = Path(__file__).parent, []

    def compile_for(source, arch, *options):
        cubin = build / f"{source}.{arch}.cubin"
        command = [nvcc, "-std=c++20", "-I", include, "-Werror", "all-warnings", f"-gencode=arch=compute_{arch},code=sm_{arch}", "-cubin",
                   *options, "-o", str(cubin), str(here / f"{source}.cu")]
        done = subprocess.run(command, capture_output=True, text=True)
        return done.returncode, done.stdout + done.stderr, cubin

    print("| architecture | tokens, type | registers | spilled bytes | instructions |\n|---|---|--:|--:|--:|")
    for arch in architectures:
        started = time.monotonic()
        status, said, cubin = compile_for("kernels", arch, "-Xptxas", "-v")
        if status != 0:
            failed.append(f"sm_{arch}: kernels.cu does not compile:\n{said}")
            continue
        sizes = dict(census(cubin))
        found = re.findall(r"Compiling entry function '(\w*_kernel\w*)'.*?(\d+) bytes stack frame, (\d+) bytes spill stores, "
                           r"(\d+) bytes spill loads.*?Used (\d+) registers", said, re.S)
        if len(found) != KERNELS:
            failed.append(f"sm_{arch}: {len(found)} kernels instead of {KERNELS}")
        for name, stack, stores, loads, registers in found:
            kind, tiles = re.search(r"number_formatE(\d)E(?:Li(\d)E)?", name).groups()
            label = f"{8 * int(tiles)}" if tiles else "dequantize"
            label += ", bf16" if kind == "1" else ", fp16"
            ops = sizes[name]
            print(f"| sm_{arch} | {label} | {registers} | {int(stores) + int(loads)} | {sum(ops.values())} |")
            if int(stack) or int(stores) or int(loads) or ops[0x387] or ops[0x983]:
                failed.append(f"sm_{arch}, {label}: {stack} bytes of stack, {stores} + {loads} spilled, {ops[0x387]} STL, {ops[0x983]} LDL")
        print(f"sm_{arch}: {time.monotonic() - started:.0f} s", file=sys.stderr)

    status, said, cubin = compile_for("atoms", "90a")
    if status != 0:
        failed.append(f"atoms.cu does not compile:\n{said}")
    else:
        found = {}
        for name, ops in census(cubin):
            kind, count = re.search(r"device_kindE(\d)ELi(\d)E", name).groups()
            found[["", "sparse24", "dense2", "dense3", "dense4"][int(kind)], int(count)] = ops
        print("\n| atom, 8 tokens, sm_90a | all | by name |\n|---|--:|---|")
        for kind in ["sparse24", "dense2", "dense3", "dense4"]:
            cost = Counter()
            for op in found[kind, 4].keys() | found[kind, 2].keys():
                cost[NAMES.get(op, hex(op))] += (found[kind, 4][op] - found[kind, 2][op]) / 2
            total = sum(cost.values())
            print(f"| {kind} | {total:g} | " + ", ".join(f"{op} {n:g}" for op, n in cost.most_common(7) if n) + " |")
            if total > MOST.get(kind, 1000):
                failed.append(f"an atom of {kind} takes {total:g} instructions, at most {MOST[kind]}")

    status, said, _ = compile_for("umbrella", "90a")
    if status == 0 or SENTENCE not in said:
        failed.append(f"slim.hpp in a .cu file is not refused with its sentence:\n{said[:500]}")
    print("\n".join(["", *failed]) if failed else "\nall gates hold")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
