#!/usr/bin/env python3
"""Prompt and generation speed of slim-llm's .slim files and of llama.cpp's quantized ones, side by side.

    run.py --slim-llm build/release/examples/llm/slim-llm --llama-cpp LLAMA_CPP_BUILD [--rounds 5] [--threads 1,2] [--csv FILE]

Everybody takes turns in every round: each a process of its own, warmed up by an untimed repetition, a prompt of 512 tokens,
then 128 single tokens behind it. llama.cpp runs with and without flash attention and counts with the faster of the two, for
the prompt and for the tokens behind it apart. Of ours also the seconds that a process takes to write one token behind a short prompt,
start and end included. Prints medians, spread and ratios as a Markdown table. With --csv, measurements are
appended to the file and the table is made of all that it holds, so that a long run can be done in parts. OMP_WAIT_POLICY is
the caller's, and the same for all; leave it unset on a machine that is otherwise idle: with "passive" every parallel region
of ours wakes its threads, while llama.cpp's spin in barriers of their own.

Model files that are missing are made in the cache folder, from the model and the text that examples/fetch_model.sh brings.
Needs llama-bench and llama-quantize in LLAMA_CPP_BUILD/bin.
"""
import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PROMPT, GENERATED = 512, 128
FIELDS = ["round", "what", "threads", "prompt", "generation", "one_token"]
# name -> recipe. The speed does not depend on what the weights are: few tokens of calibration will do.
OURS = {"2:4 int4 g128 + int4 adapters": "slim-q@g128", "dense int4 g128": "rtn-int4@g128"}
PEERS = {"llama.cpp Q4_0": "Q4_0", "llama.cpp Q4_K_M": "Q4_K_M"}


def options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slim-llm", type=Path, required=True)
    parser.add_argument("--llama-cpp", type=Path, required=True, help="build folder of llama.cpp")
    parser.add_argument("--cache", type=Path, default=Path(os.environ.get("SLIM_CACHE", Path.home() / ".cache/slim")))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--csv", type=Path)
    return parser.parse_args()


def checked(command):
    """Standard output of a command."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(str(word) for word in command)}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout


def slim_file(o, model, recipe):
    file = o.cache / f"speed.{recipe}.slim"
    if not file.exists():
        print(f"making {file}", file=sys.stderr)
        checked([o.slim_llm, "compress", model, "--recipe", recipe, "--out", file, "--no-eval", "--calib",
                 o.cache / "jargon.first.txt", "--text", o.cache / "jargon.last.txt", "--calib-tokens", 512,
                 "--held-out-tokens", 256, "--context", 256])
    return file


def peer_file(o, model, preset):
    file = o.cache / f"speed.{preset}.gguf"
    if not file.exists():
        print(f"making {file}", file=sys.stderr)
        checked([o.llama_cpp / "bin/llama-quantize", "--allow-requantize", model, f"{file}.new", preset])
        Path(f"{file}.new").rename(file)
    return file


def our_speed(o, file, threads):
    """(prompt, generation) in tokens per second, the first generated token comes with the prompt; seconds for one token."""
    text = (o.cache / "jargon.last.txt").read_text()[:8 * PROMPT]
    command = [o.slim_llm, "--threads", threads, "generate", file]
    start = time.monotonic()
    checked([*command, "--prompt", "Once upon a time", "--max-tokens", 1])
    one_token = time.monotonic() - start
    with tempfile.TemporaryDirectory() as scratch:
        checked([*command, "--prompt", text, "--prompt-tokens", PROMPT, "--max-tokens", GENERATED + 1, "--ignore-end",
                 "--repetitions", 2, "--json", f"{scratch}/speed.json"])
        result = json.loads(Path(f"{scratch}/speed.json").read_text())
    return result["prompt_tokens_per_second"], result["tokens_per_second"], one_token


def peer_speed(o, file, threads):
    """llama-bench warms up by itself. Its generation starts behind a prompt, as ours does."""
    def speed(what):
        command = [o.llama_cpp / "bin/llama-bench", "-m", file, "-t", threads, "-fa", "0,1", "-r", 1, "-o", "json", *what]
        return max(run["avg_ts"] for run in json.loads(checked(command)))

    return speed(["-p", PROMPT, "-n", 0]), speed(["-p", 0, "-n", GENERATED, "-d", PROMPT]), 0


def measure(o, contestants, rows):
    """Adds rounds to the rows, and to the file whenever everybody has had a turn."""
    first_round = 1 + max((int(r["round"]) for r in rows), default=0)
    for k in range(first_round, first_round + o.rounds):
        for threads in map(int, o.threads.split(",")):
            for what, speed in contestants.items():
                prompt, generation, one_token = speed(threads)
                rows.append(dict(zip(FIELDS, [k, what, threads, round(prompt, 2), round(generation, 2), round(one_token, 3)])))
                print(f"round {k}, {threads} threads, {what}: {prompt:.0f}, {generation:.0f}", file=sys.stderr)
            if o.csv:
                with o.csv.open("w", newline="") as file:
                    writer = csv.DictWriter(file, FIELDS)
                    writer.writeheader()
                    writer.writerows(rows)


def table(rows):
    """Medians with the range of rounds, and medians of the ratios to each peer of the same round."""
    speeds = {what: {(int(r["round"]), int(r["threads"])): r for r in rows if r["what"] == what} for what in [*OURS, *PEERS]}
    names = [*PEERS]
    ratios_to = " | ".join(f"to {name.split()[-1]}" for name in names)
    print(f"| threads | what | prompt, tokens/s | {ratios_to} | generation, tokens/s | {ratios_to} | one token, s |")
    print("|--:|:--|" + "--:|" * (3 + 2 * len(names)))
    for threads in sorted({int(r["threads"]) for r in rows}):
        for what, runs in speeds.items():
            keys = [key for key in runs if key[1] == threads]
            cells = []
            for phase in ["prompt", "generation"]:
                values = [float(runs[key][phase]) for key in keys]
                cells.append(f"{statistics.median(values):.0f} ({min(values):.0f} .. {max(values):.0f})")
                for name in names:
                    ratios = [float(runs[key][phase]) / float(speeds[name][key][phase]) for key in keys]
                    cells.append(f"{statistics.median(ratios):.2f}x")
            one_token = statistics.median(float(runs[key]["one_token"]) for key in keys)
            cells.append(f"{one_token:.2f}" if one_token > 0 else "")
            print(f"| {threads} | {what} | " + " | ".join(cells) + " |")
    print(f"\n{len({r['round'] for r in rows})} rounds, OMP_WAIT_POLICY={os.environ.get('OMP_WAIT_POLICY', '(not set)')}")


def main():
    o = options()
    model = o.cache / "SmolLM2-135M-Instruct.Q4_1.gguf"
    if not model.exists():
        sys.exit(f"{model} is not there: bash examples/fetch_model.sh brings it")
    contestants = {}
    for what, recipe in OURS.items():
        contestants[what] = lambda threads, file=slim_file(o, model, recipe): our_speed(o, file, threads)
    for what, preset in PEERS.items():
        contestants[what] = lambda threads, file=peer_file(o, model, preset): peer_speed(o, file, threads)
    rows = list(csv.DictReader(o.csv.open())) if o.csv and o.csv.exists() else []
    measure(o, contestants, rows)
    table(rows)


if __name__ == "__main__":
    main()
