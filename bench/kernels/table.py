#!/usr/bin/env python3
"""Runs bench_linear several times, each a process of its own, and prints its row of docs/benchmarks.md: medians over the processes of
what each printed, ratios formed within a process, their range in brackets.

    bench/kernels/table.py --processes 5 build/release/bench/bench_linear 1 4096 4096 1 41
"""
import argparse
import re
import statistics
import subprocess

ROW = re.compile(r"^\|\s*(?P<name>.*?)\s*\|\s*(?P<ms>[\d.]+)\s*\|\s*[\d.]+\s*\|\s*[\d.]+\s*\|\s*(?P<read>\d+)%\s*\|\s*(?P<ratio>[\d.]+)x\s*\|$")
OURS = {
    "adapters": "slim 2:4 int4 g128 + int4 adapters 0.1",
    "int3": "slim dense int3 g128",
    "int4": "slim dense int4 g128",
    "16-bit": "slim 2:4 int4 g128, 16-bit inputs",
    "per 128": "slim 2:4 int4 g128, a scale per 128 inputs",
    "AVX2": "slim 2:4 int4 g128, AVX2",
    "exact": "slim 2:4 int4 g128, exact",
    "Eigen": "Eigen float",
    "OpenBLAS": "OpenBLAS float",
}
SPARSE = "slim 2:4 int4 g128"


def run(command):
    """{name: (ms, percent of the read loop, time as a multiple of 2:4 int4)} of one process."""
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    rows = {m["name"]: (float(m["ms"]), int(m["read"]), float(m["ratio"])) for m in map(ROW.match, printed.splitlines()) if m}
    if SPARSE not in rows:
        raise SystemExit(f"{' '.join(command)} printed no table:\n{printed}")
    return rows


def spread(values, form):
    """The median, with the range behind it where there is one."""
    middle, low, high = statistics.median(values), min(values), max(values)
    return form(middle) if form(low) == form(high) else f"{form(middle)} ({form(low)} .. {form(high)})"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("--processes", type=int, default=5)
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="of bench_linear: threads, d_out, d_in, tokens, rounds, megabytes")
    options = parser.parse_args()
    runs = [run([options.program, *options.arguments]) for _ in range(options.processes)]

    def times(form="{:.2f}x".format, **names):
        for title, name in names.items():
            if all(name in rows for rows in runs):
                print(f"  {title}: {spread([rows[name][2] for rows in runs], form)}")

    print(f"bench_linear {' '.join(options.arguments)}, {options.processes} processes")
    print(f"  2:4 int4 ms: {spread([rows[SPARSE][0] for rows in runs], '{:.3f}'.format)}")
    times(**OURS)
    for title, name in {"2:4": SPARSE, "int3": OURS["int3"], "int4": OURS["int4"], "adapters": OURS["adapters"]}.items():
        if name in runs[0]:
            print(f"  share of the read loop, {title}: {spread([rows[name][1] for rows in runs], '{:.0f}%'.format)}")
    peers = sorted({name for name in runs[0] if name.startswith("ggml")})
    if peers:
        best = [min((rows[name][2], name) for name in peers) for rows in runs]
        print(f"  best of ggml: {spread([ratio for ratio, _ in best], '{:.2f}x'.format)}, {', '.join(sorted({name for _, name in best}))}")
        if OURS["int3"] in runs[0]:
            to_int3 = [ratio / rows[OURS["int3"]][2] for (ratio, _), rows in zip(best, runs)]
            print(f"  best of ggml to dense int3: {spread(to_int3, '{:.2f}x'.format)}")


if __name__ == "__main__":
    main()
