#!/usr/bin/env python3
"""Models on ggml's grids, solved here and quantized by llama.cpp, side by side: KL divergence from the dense model and excess NLL of files
that stock engines load.

    stock_grids.py --slim-llm SLIM_LLM --llama-cpp BIN --model OFF_GRID.gguf --text valid.txt --work FOLDER [--types q4_0,q4_k_m] [--ours ...]

The model should lie on no quantization grid: SmolLM2-135M-Instruct (Q4_1) with random factors on its input channels and their
inverses folded into what stands before them. Calibration: the first tokens of the text. Evaluation: its last ones.
Both programs get the same two texts. Every file, ours and llama.cpp's, is evaluated by llama-perplexity --kl-divergence at context 512
on its CPU backend; embedding and head are Q8_0 in all of them. BIN holds llama-imatrix, llama-quantize and llama-perplexity.
Prints a Markdown table, llama.cpp's version, and the SHA-256 of slim-llm, model and texts. What is made stays in the folder and is not made again.
"""
import argparse
import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

CONTEXT = 512


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
    parser.add_argument("--tokens", type=int, default=16384, help="to calibrate on, for both")
    parser.add_argument("--windows", type=int, default=16, help="to evaluate on")
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
    first.write_text(text[: int(o.tokens * 5.5)])
    last.write_text(text[-int(o.windows * CONTEXT * 5.5):])
    return first, last


def made(path, make):
    if not path.exists():
        print("making", path.name, file=sys.stderr)
        draft = path.with_name("new." + path.name)
        make(draft)
        draft.rename(path)
    return path


def predictions(o, text):
    """The dense model's predictions, which all files are held against."""
    return made(o.work / f"dense.{o.windows}.logits", lambda path: said(
        [o.llama_cpp / "llama-perplexity", "-m", o.model, "-f", text, "-c", CONTEXT, "--chunks", o.windows, "-t", o.threads,
         "--kl-divergence-base", path]))


def evaluation(o, model, base):
    """KL divergence, excess NLL (each with its standard error) and the share of equal likeliest tokens, kept beside the model."""
    kept = o.work / f"{model.stem}.{o.windows}.divergence.json"
    if not kept.exists():
        print("evaluating", model.name, file=sys.stderr)
        out = said([o.llama_cpp / "llama-perplexity", "-m", model, "-c", CONTEXT, "--chunks", o.windows, "-t", o.threads,
                    "--kl-divergence-base", base, "--kl-divergence"])
        number = r"\s*:\s*(-?[0-9.]+)\s*(?:±|\+/-)\s*([0-9.]+)"
        found = [re.search(name + number, out) for name in (r"Mean\s+KLD", r"Mean ln\(PPL\(Q\)/PPL\(base\)\)", r"Same top p")]
        kept.write_text(json.dumps([[float(f[1]), float(f[2])] for f in found]))
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
        [o.llama_cpp / "llama-imatrix", "-m", o.model, "-f", calibration, "-o", path, "-c", CONTEXT, "--chunks", o.tokens // CONTEXT,
         "-t", o.threads]))
    base = predictions(o, text)
    print("| type | bits/weight | KL: llama-quantize + imatrix | slim-llm | ratio | excess NLL: theirs | ours | ratio | same top: theirs | ours "
          "| types of ours |\n|:--|--:|--:|--:|--:|--:|--:|--:|--:|--:|:--|", flush=True)
    for name in o.types.split(","):
        peer = made(o.work / f"peer.{name}.gguf", lambda path: said(
            [o.llama_cpp / "llama-quantize", "--imatrix", imatrix, "--token-embedding-type", "q8_0", "--output-tensor-type", "q8_0", o.model,
             path, name.upper(), o.threads]))
        if o.peers_only:
            evaluation(o, peer, base)
            continue
        ours = made(o.work / f"slim.{name}{o.suffix}.gguf", lambda path: said(
            [o.slim_llm, "--threads", o.threads, "compress", o.model, "--recipe", f"gguf:{name}{o.suffix}", "--out", path, "--no-eval",
             "--calib", calibration, "--text", text, "--calib-tokens", o.tokens, "--held-out-tokens", 0, "--context", CONTEXT,
             "--json", o.work / f"slim.{name}{o.suffix}.json"]))
        (kl, excess, same), (our_kl, our_excess, our_same) = (evaluation(o, file, base) for file in (peer, ours))
        (peer_bits, _), (bits, types) = linear_bits(peer), linear_bits(ours)
        cells = [name.upper() + o.suffix, f"{bits:.3f} ({peer_bits:.3f})"]
        for theirs, mine in ((kl, our_kl), (excess, our_excess)):
            cells += [f"{theirs[0]:.4f} ± {theirs[1]:.4f}", f"{mine[0]:.4f} ± {mine[1]:.4f}", f"{mine[0] / theirs[0]:.2f}x"]
        cells += [f"{same[0]:.1f} %", f"{our_same[0]:.1f} %", types]
        print("| " + " | ".join(cells) + " |", flush=True)
    print(f"\nnats per token, {o.tokens} tokens to calibrate, {o.windows} windows of {CONTEXT}, second halves")
    print("llama.cpp", re.search(r"version: (.*)", said([o.llama_cpp / "llama-perplexity", "--version"]))[1])
    for path in (o.slim_llm, o.model, o.text, calibration, text):
        print(sha256(path), path.name)


if __name__ == "__main__":
    main()
