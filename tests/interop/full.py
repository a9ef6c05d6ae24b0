"""full.py toy SLIM_LLM | llama_cpp SLIM_LLM MODEL.gguf BIN | gptq SLIM_LLM: what light.py leaves out because its readers are large or
have to be built.

toy: the model of light.py in transformers (compressed-tensors, plain folders) and PEFT: weights bit for bit, logits in float32.
gptq: the same in GPTQModel. llama_cpp: a real model in llama-perplexity and llama-imatrix, binaries in the folder BIN."""
import json, re, subprocess, sys, tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "golden"))
from light import RANKS, RELATIVE_BAR, TABLE, FAILED, Program, check, equal, packed_values, relative, toy, with_adapters, write_models

RECIPES = ("int3-lr@bf16-scales", "int2-lr@bf16-scales", "joint-q@g128@bf16-scales")


class Toy:
    """The compressed toy: packed values, prompts, and the logits of the NumPy model in float64."""

    def __init__(self, slim, folder, recipe):
        from model_oracle import llama

        self.name = recipe.split("@")[0]
        rng = np.random.default_rng(1)
        cfg, w = toy(rng)
        if not (folder / "toy").exists():
            write_models(folder, cfg, w)
        self.prompts = [[int(n) for n in rng.integers(0, 512, 24)] for _ in range(6)]
        self.packed = slim.compress(folder / "toy", self.name + ".slim", recipe, *RANKS)
        self.weights, self.adapters = packed_values(self.packed)

        def reference(weights):
            all64 = {n: v.astype(np.float64) for n, v in (w | weights).items()}
            return np.array([llama(cfg, all64, np.array(ids))[-1] for ids in self.prompts])

        self.bare, self.full = reference(self.weights), reference(with_adapters(self.weights, self.adapters))


def logits_of(model, prompts):
    import torch

    with torch.no_grad():
        return np.array([model(torch.tensor([ids])).logits[0, -1].float().numpy() for ids in prompts])


def load(folder, **more):
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager", **more).eval()


def decompressed(folder):
    """The weights that compressed-tensors itself makes of the folder, in float32."""
    from transformers.utils.quantization_config import CompressedTensorsConfig

    model = load(folder, quantization_config=CompressedTensorsConfig(dequantize=True))
    return {n: p.detach().float().numpy() for n, p in model.named_parameters()}, model


def toy_checks(slim, folder):
    from peft import PeftModel

    for recipe in RECIPES:
        t = Toy(slim, folder, recipe)
        ct, hf, merged = folder / f"{t.name}-ct", folder / f"{t.name}-hf", folder / f"{t.name}-merged"
        slim.export(t.packed, "ct", ct)
        slim.export(t.packed, "hf", hf, "--adapter", "peft")
        slim.export(t.packed, "hf", merged)
        found, model = decompressed(ct)
        equal(f"{t.name}, compressed-tensors in transformers: weights", np.concatenate([found[n].ravel() for n in t.weights]),
              np.concatenate([w.ravel() for w in t.weights.values()]))
        check(f"{t.name}, compressed-tensors in transformers: logits, float32", relative(logits_of(load(ct), t.prompts), t.bare), RELATIVE_BAR)
        adapted = PeftModel.from_pretrained(model, str(folder / f"{t.name}-ct-adapter")).eval()
        check(f"{t.name}, compressed-tensors + PEFT: logits, float32", relative(logits_of(adapted, t.prompts), t.full), RELATIVE_BAR)
        plain = load(hf)
        check(f"{t.name}, hf in transformers: logits, float32", relative(logits_of(plain, t.prompts), t.bare), RELATIVE_BAR)
        adapted = PeftModel.from_pretrained(plain, str(folder / f"{t.name}-hf-adapter")).eval()
        check(f"{t.name}, hf + PEFT: logits, float32", relative(logits_of(adapted, t.prompts), t.full), RELATIVE_BAR)
        check(f"{t.name}, hf merged: logits, float32", relative(logits_of(load(merged), t.prompts), t.full), RELATIVE_BAR)


def gptq_checks(slim, folder):
    import torch
    from gptqmodel import BACKEND, GPTQModel

    for recipe in RECIPES:
        t = Toy(slim, folder, recipe)
        out = folder / f"{t.name}-gptq"
        slim.export(t.packed, "gptq", out)
        model = GPTQModel.load(str(out), backend=BACKEND.TORCH, device="cpu", dtype=torch.float16)
        every, expected = [], []
        for name, module in model.model.named_modules():
            if hasattr(module, "qweight"):
                every.append(module.dequantize_weight().T.float().numpy().ravel())
                expected.append(t.weights[name + ".weight"].ravel())
        assert len(every) == len(t.weights)
        equal(f"{t.name}, GPTQModel: weights, float16", np.concatenate(every), np.concatenate(expected).astype(np.float16).astype(np.float32))
        check(f"{t.name}, GPTQModel: logits, float16", relative(logits_of(model.model, t.prompts), t.bare), 3e-3)


def said(run, pattern):
    found = re.search(pattern, run.stdout + run.stderr)
    if not found:
        sys.exit(f"nothing like {pattern} in\n{run.stdout[-3000:]}\n{run.stderr[-3000:]}")
    return float(found[1])


def llama_cpp_checks(slim, folder, model, binaries):
    """llama.cpp rounds inputs to int8 in blocks of 32; of a .slim file `eval --inputs int8` does, too."""
    context, chunks = 512, 8
    text = Path.home() / ".cache/slim/jargon.last.txt"

    def tool(name, *arguments):
        run = subprocess.run([str(binaries / name), *map(str, arguments)], capture_output=True, text=True)
        if run.returncode:
            sys.exit(f"{name} {arguments}: exit code {run.returncode}\n{run.stderr[-3000:]}")
        return run

    def ours(*arguments):
        slim("eval", *arguments, "--json", folder / "e.json")
        return json.loads((folder / "e.json").read_text())

    slim("compress", model, "--recipe", "slim-q@g128@bf16-scales", "--calib-tokens", 4096, "--held-out-tokens", 0, "--no-eval", "--out", folder / "s.slim")
    slim("export", folder / "s.slim", "--to", "gguf", "--out", folder / "s.gguf")
    window = ("-c", context, "--chunks", chunks, "-f", text, "-t", 2)
    protocol = ("--text", text, "--protocol", "llama.cpp", "--context", context, "--max-tokens", context * chunks)
    source_logits = folder / "source.logits"
    theirs_source = said(tool("llama-perplexity", "-m", model, *window, "--save-all-logits", source_logits), r"Final estimate: PPL = ([0-9.]+)")
    theirs = said(tool("llama-perplexity", "-m", folder / "s.gguf", "--lora", folder / "s-lora.gguf", *window), r"Final estimate: PPL = ([0-9.]+)")
    check("source: perplexity, llama-perplexity against eval", abs(ours(model, *protocol)["perplexity"] / theirs_source - 1), 0.01)
    check("GGUF + LoRA: perplexity, llama-perplexity against eval of the .slim file", abs(ours(folder / "s.slim", *protocol)["perplexity"] / theirs - 1), 0.01)
    check("GGUF + LoRA: the same, int8 inputs", abs(ours(folder / "s.slim", *protocol, "--inputs", "int8")["perplexity"] / theirs - 1), 0.003)
    divergence = tool("llama-perplexity", "-m", folder / "s.gguf", "-f", text, "-c", context, "-t", 2, "--kl-divergence", "--kl-divergence-base", source_logits)
    kl, top = said(divergence, r"Mean\s+KLD:\s+([0-9.]+)"), said(divergence, r"Same top p:\s+([0-9.]+)")
    mine = ours(folder / "s.gguf", "--kl", source_logits)["divergence"]
    check("GGUF: mean KL from llama-perplexity's logits, both programs", abs(mine["kl"]["mean"] - kl), 0.02 * kl + 1e-4)
    check("GGUF: same likeliest token, points", abs(100 * mine["same_top"]["mean"] - top), 0.3)
    ours(model, *protocol, "--save-logits", folder / "ours.logits")
    back = tool("llama-perplexity", "-m", model, "-f", text, "-c", context, "-t", 2, "--kl-divergence", "--kl-divergence-base", folder / "ours.logits")
    kl = said(back, r"Mean\s+KLD:\s+([0-9.]+)")  # what int8 inputs make of the source, seen from either side
    check("source: KL between the two programs, each by the other's logits file", abs(ours(model, "--kl", source_logits)["divergence"]["kl"]["mean"] - kl), 0.02 * kl + 1e-4)

    from gguf import GGUFReader

    tool("llama-imatrix", "-m", model, *window, "-o", folder / "theirs.gguf", "--output-format", "gguf", "--no-ppl")
    slim("imatrix", model, "--text", text, "--context", context, "--max-tokens", context * chunks, "--out", folder / "ours.gguf")
    a, b = ({t.name: np.array(t.data) for t in GGUFReader(folder / n).tensors} for n in ("theirs.gguf", "ours.gguf"))
    names = sorted(b)
    assert set(a) == set(b), set(a) ^ set(b)
    equal("imatrix: counts of llama-imatrix", [a[n].item() for n in names if "counts" in n], [b[n].item() for n in names if "counts" in n])
    check("imatrix: sums of squares against llama-imatrix, relative L2, worst linear", max(relative(b[n], a[n]) for n in names if "in_sum2" in n), 0.05)
    tool("llama-quantize", "--imatrix", folder / "ours.gguf", "--allow-requantize", model, folder / "q4.gguf", "Q4_0")
    plain = said(tool("llama-perplexity", "-m", folder / "q4.gguf", *window), r"Final estimate: PPL = ([0-9.]+)")
    check("llama-quantize --imatrix of ours, Q4_0: perplexity over the source's", plain / theirs_source, 1.5)


def main():
    what = sys.argv[1]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        slim = Program(sys.argv[2], folder)
        {"toy": lambda: toy_checks(slim, folder), "gptq": lambda: gptq_checks(slim, folder),
         "llama_cpp": lambda: llama_cpp_checks(slim, folder, Path(sys.argv[3]), Path(sys.argv[4]))}[what]()
    print("| what | found | bar | holds |\n|---|---|---|---|")
    for row in TABLE:
        print("| " + " | ".join(row) + " |")
    if FAILED:
        sys.exit(f"{len(FAILED)} of {len(TABLE)} failed: {', '.join(FAILED)}")
    print(len(TABLE), "checks hold")


if __name__ == "__main__":
    main()
