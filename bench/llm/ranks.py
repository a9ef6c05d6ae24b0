#!/usr/bin/env python3
"""What several ranks gain: ranks.py SLIM_LLM MODEL [--recipes int3-lr,slim-q] [--ranks 1,2] [--blocks 2] [--turns 3]
[--tokens 16384]. SLIM_LLM is built with -DSLIM_LLM_MPI=ON.

Compresses the first blocks of MODEL with the default text, a thread per rank, numbers of ranks in turn. Seconds are those of
the compression (`seconds` of --json), medians over turns; load is that of the minute before, so 0 on an idle machine."""
import argparse
import json
import os
import statistics
import subprocess
import tempfile

arguments = argparse.ArgumentParser(usage=__doc__)
arguments.add_argument("program")
arguments.add_argument("model")
arguments.add_argument("--recipes", default="int3-lr,slim-q")
arguments.add_argument("--ranks", default="1,2")
arguments.add_argument("--blocks", default="2")
arguments.add_argument("--turns", type=int, default=3)
arguments.add_argument("--tokens", default="16384")
given = arguments.parse_args()
counts = [int(count) for count in given.ranks.split(",")]
environment = dict(os.environ, OMP_NUM_THREADS="1", OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")
load = os.getloadavg()[0]


def seconds(recipe, count, folder):
    out = f"{folder}/out.json"
    job = ["mpirun", "--bind-to", "core", "-n", str(count)] if count > 1 else []
    subprocess.run(job + [given.program, "--threads", "1", "compress", given.model, "--recipe", recipe, "--no-eval", "--max-blocks",
                          given.blocks, "--calib-tokens", given.tokens, "--json", out],
                   env=environment, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with open(out) as file:
        return json.load(file)["seconds"]


with tempfile.TemporaryDirectory() as folder:
    print(f"load before: {load:.2f}; {given.blocks} blocks, {given.tokens} tokens, medians of {given.turns}\n")
    print("| recipe | " + " | ".join(f"{count} rank{'s' * (count > 1)}, seconds" for count in counts) + " | gain |")
    print("|---|" + "---|" * (len(counts) + 1))
    for recipe in given.recipes.split(","):
        turns = [[seconds(recipe, count, folder) for count in counts] for _ in range(given.turns)]
        medians = [statistics.median(column) for column in zip(*turns)]
        print(f"| `{recipe}` | " + " | ".join(f"{x:.1f}" for x in medians) + f" | {medians[0] / medians[-1]:.2f}x |", flush=True)
