#!/usr/bin/env python3
"""The related systems beside each other: run.py SLIM_LLM MODEL [--blocks N] [ablate's options].

Without --blocks the whole model, by `slim-llm ablate` (three draws, 24,576 evaluated tokens unless its options say otherwise). With
--blocks N only the first N blocks, by trials of `slim-llm compress`: no perplexity, but the layers' output errors on calibration
tokens and on 2,048 tokens held out, in minutes. Rivals have the damping and the order of the systems they stand beside.
"""
import csv
import subprocess
import sys
import tempfile
from pathlib import Path

RECIPES = [
    "rtn-int3", "rtn-int3@range=dobi", "rtn-int3@range=output", "kmeans-3", "squeeze-3-dense", "squeeze-3",
    "gptq-int3@g32@damp1", "gptq-int3@g16@damp1", "spqr-3",
    "gptq-int2@damp1", "sba-2", "gptq-int2@g32@damp1", "spqr-2", "bits-2-4-16",
    "rtn-w4a4", "smoothquant-w4a4", "svdquant",
]


def trial(program, model, recipe, blocks, folder):
    table = folder / "layers.csv"
    subprocess.run([program, "compress", model, "--recipe", recipe, "--max-blocks", str(blocks), "--layers-csv", str(table)],
                   check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    last = {}
    for row in csv.DictReader(table.open(encoding="utf-8")):
        last[row["tensor"]] = row  # the last step of a layer
    size = {name: int(row["d_out"]) * int(row["d_in"]) for name, row in last.items()}
    mean = lambda column: sum(float(row[column]) for row in last.values()) / len(last)
    bits = sum(float(row["bits_per_weight"]) * size[name] for name, row in last.items()) / sum(size.values())
    return bits, mean("output_error"), mean("held_out_error")


def main(program, model, *options):
    if "--blocks" not in options:
        tokens = [] if "--max-tokens" in options else ["--max-tokens", "24576"]
        draws = [] if "--draws" in options else ["--draws", "3"]
        return subprocess.run([program, "ablate", model, "--recipes", ",".join(["dense", *RECIPES]), *tokens, *draws, *options]).returncode
    blocks = options[options.index("--blocks") + 1]
    print("| recipe | bits per weight | output error | on tokens held out |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for recipe in RECIPES:
            bits, seen, held_out = trial(program, model, recipe, blocks, Path(folder))
            print(f"| `{recipe}` | {bits:.3f} | {seen:.4f} | {held_out:.4f} |", flush=True)
    return 0


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))
