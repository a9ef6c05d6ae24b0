#!/usr/bin/env python3
"""Models on ggml's grids, solved here and quantized by llama.cpp, side by side: excess NLL in files that stock engines load.

    stock_grids.py --slim-llm SLIM_LLM --llama-cpp BIN --model OFF_GRID.gguf --text valid.txt --work FOLDER [--types q4_0,q4_k_m] [--ours ...]

The model should lie on no quantization grid: SmolLM2-135M-Instruct (Q4_1) with random factors on its input channels and their
inverses folded into what stands before them. Calibration: the first 16,384 tokens of the text. Evaluation: its last tokens.
Both programs get the same two texts. Every file, ours and llama.cpp's, is evaluated by llama-perplexity at context 512 on its CPU
backend; embedding and head are Q8_0 in all of them. BIN holds llama-imatrix, llama-quantize and llama-perplexity.
Prints a Markdown table, llama.cpp's version, and the SHA-256 of slim-llm, model and texts. What is made stays in the folder and is not made again.
"""
import argparse
import hashlib
import json
import math
import re
import subprocess
import sys
from pathlib import Path

CONTEXT, CALIBRATION, EVALUATED = 512, 16384, 16


def options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slim-llm", type=Path, required=True)
    parser.add_argument("--llama-cpp", type=Path, required=True, help="folder of llama-perplexity and the others")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="folder for what is made")
    parser.add_argument("--types", default="q4_0,iq4_nl,q4_k_m,q5_k_m,q3_k_m,q2_k", help="as llama-quantize calls them")
    parser.add_argument("--peers-only", action="store_true", help="make and evaluate llama.cpp's files alone")
    parser.add_argument("--suffix", default="", help="modifiers of our recipes, such as @guided")
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


def said(command):
    """What a command prints, both streams."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(str(word) for word in command)}\n{done.stdout[-2000:]}{done.stderr[-3000:]}")
    return done.stdout + done.stderr


def sha256(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def cut(o):
    """Texts that begin and end at lines: what calibrates is well before what is evaluated."""
    lines = o.text.read_text().splitlines(keepends=True)
    text = "".join(lines)
    first, last = o.work / "calibration.txt", o.work / "evaluation.txt"
    first.write_text(text[: int(CALIBRATION * 5.5)])
    last.write_text(text[-int(EVALUATED * CONTEXT * 5.5):])
    return first, last


def made(path, make):
    if not path.exists():
        print("making", path.name, file=sys.stderr)
        draft = path.with_name("new." + path.name)
        make(draft)
        draft.rename(path)
    return path


def evaluation(o, model, text):
    """(perplexity, its standard error), kept beside the model."""
    kept = o.work / (model.stem + ".perplexity.json")
    if not kept.exists():
        print("evaluating", model.name, file=sys.stderr)
        out = said([o.llama_cpp / "llama-perplexity", "-m", model, "-f", text, "-c", CONTEXT, "--chunks", EVALUATED, "-t", o.threads])
        found = re.search(r"Final estimate: PPL = ([0-9.]+) \+/- ([0-9.]+)", out)
        kept.write_text(json.dumps([float(found[1]), float(found[2])]))
    return json.loads(kept.read_text())


def linear_bits(path):
    """Bits per weight of the linears of the blocks, and how many of each type."""
    import gguf

    bits = weights = 0
    types = {}
    for t in gguf.GGUFReader(path).tensors:
        if re.fullmatch(r"blk\.\d+\.(attn_(q|k|v|output)|ffn_(gate|up|down))\.weight", t.name):
            bits += 8 * t.n_bytes
            weights += int(t.n_elements)
            types[t.tensor_type.name] = types.get(t.tensor_type.name, 0) + 1
    return bits / weights, ", ".join(f"{n} {name}" for name, n in sorted(types.items()))


def main():
    o = options()
    o.work.mkdir(parents=True, exist_ok=True)
    calibration, text = cut(o)
    imatrix = made(o.work / "imatrix.gguf", lambda path: said(
        [o.llama_cpp / "llama-imatrix", "-m", o.model, "-f", calibration, "-o", path, "-c", CONTEXT, "--chunks", CALIBRATION // CONTEXT,
         "-t", o.threads]))
    dense = math.log(evaluation(o, o.model, text)[0])
    print("| type | bits/weight | llama-quantize + imatrix | slim-llm | ratio | types of ours |\n|:--|--:|--:|--:|--:|:--|", flush=True)
    for name in o.types.split(","):
        peer = made(o.work / f"peer.{name}.gguf", lambda path: said(
            [o.llama_cpp / "llama-quantize", "--imatrix", imatrix, "--token-embedding-type", "q8_0", "--output-tensor-type", "q8_0", o.model,
             path, name.upper(), o.threads]))
        if o.peers_only:
            evaluation(o, peer, text)
            continue
        ours = made(o.work / f"slim.{name}{o.suffix}.gguf", lambda path: said(
            [o.slim_llm, "--threads", o.threads, "compress", o.model, "--recipe", f"gguf:{name}{o.suffix}", "--out", path, "--no-eval",
             "--calib", calibration, "--text", text, "--calib-tokens", CALIBRATION, "--held-out-tokens", 0, "--context", CONTEXT,
             "--json", o.work / f"slim.{name}{o.suffix}.json"]))
        theirs, mine = (math.log(evaluation(o, file, text)[0]) - dense for file in (peer, ours))
        (peer_bits, _), (bits, types) = linear_bits(peer), linear_bits(ours)
        print(f"| {name.upper()} | {bits:.3f} ({peer_bits:.3f}) | {theirs:.4f} | {mine:.4f} | {mine / theirs:.2f}x | {types} |", flush=True)
    print(f"\ndense perplexity {math.exp(dense):.4f}; excess NLL in nats per token, {EVALUATED} windows of {CONTEXT}, second halves")
    print("llama.cpp", re.search(r"version: (.*)", said([o.llama_cpp / "llama-perplexity", "--version"]))[1])
    for path in (o.slim_llm, o.model, o.text, calibration, text):
        print(sha256(path), path.name)


if __name__ == "__main__":
    main()
