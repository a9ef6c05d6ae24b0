"""light.py SLIM_LLM [MODEL.gguf]: a two-block model made here is compressed and exported to every format, and read by gguf,
mlx, mlx-lm, llama.cpp (xllamacpp), transformers' configuration and tokenizer, and by the unpackers of compressed-tensors and GPTQ
restated in NumPy. Weights are compared bit for bit with the .slim file as tests/golden/packing_oracle.py reads it, logits with
the NumPy model of tests/golden/model_oracle.py in float64. Ends with a table of what was loaded and what came back."""
import json, os, struct, subprocess, sys, tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "golden"))

KL_BAR, KL_WITHOUT, RELATIVE_BAR, HALF_BAR = 1e-3, 0.05, 1e-5, 1e-2
TABLE = []
FAILED = []


def check(what, value, bar, below=True):
    good = bool(value <= bar if below else value > bar)
    TABLE.append((what, f"{value:.3g}", f"{'<=' if below else '>'} {bar:g}", "yes" if good else "NO"))
    if not good:
        FAILED.append(what)


def equal(what, a, b):
    a, b = np.asarray(a), np.asarray(b)
    share = float(np.mean(a == b)) if a.shape == b.shape else 0.0
    TABLE.append((what, f"{100 * share:.2f}% equal", "100%", "yes" if share == 1 else "NO"))
    if share != 1:
        FAILED.append(what)


# ------------------------------------------------------------------------------------------------- llama.cpp, a process per model


def llama_cpp_worker(model, lora, vocab, prompts, out):
    from xllamacpp import CommonAdapterLoraInfo, CommonParams, Server

    p = CommonParams()
    p.model.path, p.n_ctx, p.n_parallel, p.warmup = model, 128, 1, False
    p.cpuparams.n_threads = 1
    if lora != "-":
        p.lora_adapters = [CommonAdapterLoraInfo(lora, 1.0)]
    server, rows = Server(p), []
    for ids in json.loads(Path(prompts).read_text()):
        for seed in range(100):  # a drawn token that is half a character comes without probabilities: draw another
            said = server.handle_completions({"prompt": ids, "n_predict": 1, "n_probs": int(vocab), "temperature": 1.0, "seed": seed,
                                              "samplers": ["temperature"], "cache_prompt": False})["choices"][0]["logprobs"]
            if said:
                break
        row = np.full(int(vocab), -np.inf)
        for entry in said["content"][0]["top_logprobs"]:
            row[entry["id"]] = entry["logprob"]
        rows.append(row)
    np.save(out, np.array(rows))
    sys.stdout.flush()
    os._exit(0)  # the server's threads do not always end


def llama_cpp(model, lora, vocab, prompts, folder):
    (folder / "prompts.json").write_text(json.dumps(prompts))
    out = folder / "rows.npy"
    subprocess.run([sys.executable, __file__, "--worker", str(model), str(lora or "-"), str(vocab), str(folder / "prompts.json"), str(out)],
                   check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=300)
    return np.load(out)


# --------------------------------------------------------------------------------------------------------------- references


def log_softmax(x):
    x = np.asarray(x, np.float64)
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def mean_kl(reference_logits, other_log_probs):
    p = log_softmax(reference_logits)
    q = np.maximum(other_log_probs, -1e3)
    return float((np.exp(p) * (p - q)).sum(-1).mean())


def packed_values(path):
    """Weights and adapters of a .slim file: float32 as its format says."""
    from packing_oracle import decode
    from safetensors import safe_open
    from safetensors.numpy import load_file

    def matrix(data):
        _, codes, _, scales, zeros, factors, book = decode(bytes(data))
        rows, cols, tall, wide = header(bytes(data))
        s = np.array(scales, np.uint32).view(np.float32).reshape(-(-rows // tall), -(-cols // wide))
        z = np.array(zeros, np.float32).reshape(s.shape) if zeros else np.zeros_like(s)
        spread = lambda t: np.repeat(np.repeat(t, tall, 0)[:rows], wide, 1)[:, :cols]
        q = np.array(codes, np.float32).reshape(rows, cols)
        assert not factors and not book
        return spread(s) * (q - spread(z))

    def header(data):
        fields = struct.unpack("<4sHBBBBHIIIqqqqq", data[:64])
        rows, cols, tall, wide = fields[10:14]
        return rows, cols, max(min(tall or rows, rows), 1), max(min(wide or cols, cols), 1)

    stored = load_file(path)
    value = lambda name: matrix(stored[name].tobytes()) if stored[name].dtype == np.uint8 else stored[name].astype(np.float32)
    with safe_open(path, "np") as file:
        listed = json.loads(file.metadata()["tensors"])
    weights = {t["name"]: value(t["name"]) for t in listed if t["type"] == "codes"}
    adapters = {n: (value(n + ".left"), value(n + ".right")) for n in weights if n + ".left" in stored}
    return weights, adapters


def with_adapters(weights, adapters):
    merged = {n: w.astype(np.float64) for n, w in weights.items()}
    for n, (left, right) in adapters.items():
        merged[n] = merged[n] + (left.astype(np.float64) @ right.astype(np.float64)).T
    return merged


def unpack_stream(words, bits, count):
    """Fields of rows of 32-bit words, lowest bits first: as compressed-tensors and GPTQ unpack them, one bit at a time."""
    words = np.asarray(words).view(np.uint32)
    stream = (words[:, :, None] >> np.arange(32, dtype=np.uint32)) & 1
    stream = stream.reshape(len(words), -1)[:, : count * bits].reshape(len(words), count, bits).astype(np.int64)
    return (stream << np.arange(bits)).sum(-1)


def compressed_tensors_weight(t, m, bits):
    out, cols = (int(n) for n in t[m + ".weight_shape"])
    q = unpack_stream(t[m + ".weight_packed"], bits, cols) - (1 << bits - 1)
    s = t[m + ".weight_scale"].astype(np.float32)
    z = np.zeros(s.shape, np.int64)
    if m + ".weight_zero_point" in t:
        z = unpack_stream(np.ascontiguousarray(t[m + ".weight_zero_point"].T), bits, out).T - (1 << bits - 1)
    spread = lambda v: np.repeat(v, cols // s.shape[1], 1)
    return (q - spread(z)).astype(np.float32) * spread(s)


def gptq_weight(t, m, bits, one_less):
    scales = t[m + ".scales"].astype(np.float32)
    groups, out = scales.shape
    cols = t[m + ".qweight"].shape[0] * 32 // bits
    q = unpack_stream(np.ascontiguousarray(t[m + ".qweight"].T), bits, cols)
    z = unpack_stream(t[m + ".qzeros"], bits, out) + one_less
    at = t[m + ".g_idx"]
    return ((q - z.T[:, at]).astype(np.float32) * scales.T[:, at])


# -------------------------------------------------------------------------------------------------------------------- the toy


def toy(rng):
    from model_oracle import random_llama

    cfg, w = random_llama(rng, "llama", hidden=256, inter=512, heads=4, kv_heads=2, head_dim=64, vocab=512, theta=10000.0, max_positions=256)
    for name in w:  # logits of a real model's size, and rounding that does not grow from layer to layer
        w[name] *= 0.0625 if "embed" in name else 0.6 if "proj" in name else 1
    return cfg, {n: v.astype(np.float16).astype(np.float32) for n, v in w.items()}


def byte_tokens():
    printable = [b for b in range(256) if 33 <= b <= 126 or 161 <= b <= 172 or 174 <= b <= 255]
    rest = [b for b in range(256) if b not in printable]
    names = {b: chr(b) for b in printable} | {b: chr(256 + k) for k, b in enumerate(rest)}
    return [names[b] for b in range(256)]


def vocabulary():
    tokens, letters = byte_tokens(), "abcdefghijklmnopqrstuvwxyz"
    merges = [f"{a} {b}" for a in letters for b in letters][:256]
    return tokens + [m.replace(" ", "") for m in merges], merges


def write_models(folder, cfg, w):
    import gguf
    from model_oracle import write_folder, write_gguf

    tokens, merges = vocabulary()

    def words(out):
        out.add_tokenizer_model("gpt2")
        out.add_tokenizer_pre("gpt-2")
        out.add_token_list(tokens)
        out.add_token_types([1] * len(tokens))
        out.add_token_merges(merges)
        out.add_bos_token_id(0)
        out.add_eos_token_id(1)
        out.add_file_type(0)
        out.add_rope_dimension_count(cfg["head_dim"])

    write_gguf(folder / "toy.gguf", cfg, w, words)
    write_folder(folder / "toy", cfg, {n: v.astype(np.float16) for n, v in w.items()}, 4)
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    (folder / "toy/tokenizer.json").write_text(json.dumps({
        "version": "1.0", "added_tokens": [], "normalizer": None, "pre_tokenizer": level, "post_processor": None, "decoder": level,
        "model": {"type": "BPE", "vocab": {t: k for k, t in enumerate(tokens)}, "merges": merges}}))
    (folder / "toy/tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    rng = np.random.default_rng(5)
    (folder / "a.txt").write_text("".join(rng.choice(list("abcdefgh ijklmno pqrs"), 9000)))


class Program:
    def __init__(self, path, folder):
        self.path, self.folder = path, folder

    def __call__(self, *arguments, fails=None):
        run = subprocess.run([self.path, *map(str, arguments)], capture_output=True, text=True)
        if (run.returncode != 0) != bool(fails) or (fails and fails not in run.stderr):
            sys.exit(f"slim-llm {' '.join(map(str, arguments))}: exit code {run.returncode}\n{run.stdout}\n{run.stderr}")
        return run.stdout + run.stderr

    def compress(self, model, name, recipe, *more):
        """To a .slim file; embedding and head stay as they are, since logits are compared with those of the model's own."""
        how = self.folder / "recipe.json"
        how.write_text(json.dumps({"recipe": recipe, "rules": [{"match": r".*(embd|embed_tokens|lm_head|output)\.weight", "type": "f16"}]}))
        self("compress", model, "--recipe", how, "--calib", self.folder / "a.txt", "--context", 64, "--calib-tokens", 512,
             "--held-out-tokens", 64, "--text", self.folder / "a.txt", "--max-tokens", 256, "--no-eval", "--out", self.folder / name, *more)
        return self.folder / name

    def export(self, packed, to, out, *more):
        self("export", packed, "--to", to, "--out", out, "--json", self.folder / "export.json", *more)
        return json.loads((self.folder / "export.json").read_text())


RANKS = ["--rank-by-role", "q=8,k=16,v=24,o=32,gate=40,up=16,down=24"]


def gguf_names(weights, heads, kv_heads):
    """HF weights as a GGUF of architecture llama has them."""
    from model_oracle import LAYER_NAMES, permute

    back = {v: k for k, v in LAYER_NAMES.items()}
    out = {}
    for name, value in weights.items():
        number, rest = name.split(".", 3)[2:]
        if "q_proj" in name or "k_proj" in name:
            value = permute(value, heads if "q_proj" in name else kv_heads)
        out[f"blk.{number}.{back[rest]}"] = value
    return out


def mlx_logits(folder, adapter, prompts, dtype):
    import mlx.core as mx
    from mlx_lm.tuner.utils import load_adapters
    from mlx_lm.utils import load_model

    mx.set_default_device(mx.cpu)
    model, _ = load_model(Path(folder))
    if adapter:
        model = load_adapters(model, str(adapter))
    model.set_dtype(dtype)
    model.eval()
    return np.array([np.array(model(mx.array([ids]))[0, -1].astype(mx.float32)) for ids in prompts])


def relative(a, b):
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def check_weights(label, folder, kind, weights, bits, zeros_one_less=0):
    import mlx.core as mx
    from safetensors.numpy import load_file

    t = load_file(Path(folder) / "model.safetensors")
    every, expected = [], []
    for name, w in weights.items():
        m = name.removesuffix(".weight")
        if kind == "ct":
            every.append(compressed_tensors_weight(t, m, bits))
        elif kind == "gptq":
            every.append(gptq_weight(t, m, bits, zeros_one_less))
        elif kind == "mlx":
            parts = [mx.array(t[m + s] if bits < 4 or s == ".weight" else t[m + s].astype(np.float32)) for s in (".weight", ".scales", ".biases")]
            group = parts[0].shape[1] * 32 // bits // parts[1].shape[1]
            every.append(np.array(mx.dequantize(*parts, group, bits).astype(mx.float32)))
        else:
            every.append(t[name].astype(np.float32))
        expected.append(w)
    equal(label, np.concatenate([v.ravel() for v in every]), np.concatenate([v.ravel() for v in expected]))


def check_gguf(label, path, weights):
    import gguf
    from gguf.quants import dequantize

    found = {t.name: dequantize(t.data, t.tensor_type).astype(np.float32) for t in gguf.GGUFReader(path).tensors if t.name in weights}
    names = list(weights)
    equal(label, np.concatenate([found[n].reshape(weights[n].shape).ravel() for n in names]), np.concatenate([weights[n].ravel() for n in names]))


def toy_checks(slim, folder):
    import mlx.core as mx
    from model_oracle import llama, unpermute

    rng = np.random.default_rng(1)
    cfg, w = toy(rng)
    write_models(folder, cfg, w)
    prompts = [[int(n) for n in rng.integers(0, 512, 24)] for _ in range(6)]

    def reference(weights):
        all64 = {n: v.astype(np.float64) for n, v in (w | weights).items()}
        return np.array([llama(cfg, all64, np.array(ids))[-1] for ids in prompts])

    model = folder / "toy"
    for recipe, bits, types in (("int3-lr@bf16-scales", 3, ["q4_0", "q4_1"]), ("int2-lr@bf16-scales", 2, []), ("joint-q@g128@bf16-scales", 4, ["q4_0", "q8_0"])):
        short = recipe.split("@")[0]
        packed = slim.compress(model, short + ".slim", recipe, *RANKS)
        weights, adapters = packed_values(packed)
        assert len(adapters) == 14 and len({a[0].shape[1] for a in adapters.values()}) >= 5
        bare, full = reference(weights), reference(with_adapters(weights, adapters))
        check(f"{short}: KL that its adapters make", mean_kl(full, log_softmax(bare)), KL_WITHOUT, below=False)
        for to in ("ct", "gptq", "mlx", "hf"):
            slim.export(packed, to, folder / f"{short}-{to}", *(["--adapter", "peft"] if to == "hf" else []))
        one_less = int(json.loads((folder / f"{short}-gptq/config.json").read_text())["quantization_config"]["checkpoint_format"] == "gptq")
        check_weights(f"{short}, compressed-tensors: weights (unpacked by NumPy)", folder / f"{short}-ct", "ct", weights, bits)
        check_weights(f"{short}, GPTQ v{2 - one_less}: weights (unpacked by NumPy)", folder / f"{short}-gptq", "gptq", weights, bits, one_less)
        exact = "float16" if bits < 4 else "float32"  # MLX multiplies in the type of its scales: 8 bits times 15 are too many for F16
        check_weights(f"{short}, MLX: weights (mx.dequantize, {exact})", folder / f"{short}-mlx", "mlx", weights, bits)
        check_weights(f"{short}, hf: weights (safetensors)", folder / f"{short}-hf", "hf", weights, bits)
        for precision, bar in ((mx.float32, RELATIVE_BAR), (mx.float16, HALF_BAR)):
            check(f"{short}, MLX: logits, {str(precision)[9:]}, mlx-lm", relative(mlx_logits(folder / f"{short}-mlx", None, prompts, precision), bare), bar)
            check(f"{short}, MLX + adapter: logits, {str(precision)[9:]}, mlx-lm",
                  relative(mlx_logits(folder / f"{short}-mlx", folder / f"{short}-mlx-adapter", prompts, precision), full), bar)
        check_peft(f"{short}, PEFT: factors and ranks", folder / f"{short}-hf-adapter", adapters)
        for number, kind in enumerate(types):
            path = folder / f"{short}-{kind}.gguf"
            slim.export(packed, "gguf:" + kind, path, "--base", folder / "toy.gguf")
            check_gguf(f"{short}, GGUF {kind}: weights (gguf.dequantize)", path, gguf_names(weights, 4, 2))
            lora = path.with_name(path.stem + "-lora.gguf")
            check_lora(f"{short}, LoRA GGUF: factors (gguf.dequantize)", lora, adapters)
            if number > 0:
                continue
            check(f"{short}, GGUF {kind}: KL, llama.cpp", mean_kl(bare, llama_cpp(path, None, 512, prompts, folder)), KL_BAR)
            check(f"{short}, GGUF {kind} + LoRA: KL, llama.cpp", mean_kl(full, llama_cpp(path, lora, 512, prompts, folder)), KL_BAR)

    # From a GGUF file: names and rows come back.
    packed = slim.compress(folder / "toy.gguf", "g.slim", "int3-lr@bf16-scales", *RANKS)
    weights, adapters = packed_values(packed)
    from model_oracle import LAYER_NAMES
    hf_name = lambda n: f"model.layers.{n.split('.')[1]}.{LAYER_NAMES[n.split('.', 2)[2]]}"
    rows = lambda n, v: unpermute(v, 4 if "attn_q" in n else 2) if n.endswith(("attn_q.weight", "attn_k.weight")) else v
    bare_w = {hf_name(n): rows(n, v) for n, v in weights.items()}
    full_w = {hf_name(n): rows(n, v) for n, v in with_adapters(weights, adapters).items()}
    slim.export(packed, "mlx", folder / "g-mlx")
    slim.export(packed, "ct", folder / "g-ct")
    slim.export(packed, "gguf", folder / "g.gguf")
    check_weights("GGUF source, compressed-tensors: weights", folder / "g-ct", "ct", bare_w, 3)
    check("GGUF source, MLX + adapter: logits, float32", relative(mlx_logits(folder / "g-mlx", folder / "g-mlx-adapter", prompts, mx.float32), reference(full_w)), RELATIVE_BAR)
    check_gguf("GGUF source, GGUF of the smallest exact types: weights", folder / "g.gguf", weights)
    check("GGUF source, GGUF + LoRA: KL, llama.cpp", mean_kl(reference(full_w), llama_cpp(folder / "g.gguf", folder / "g-lora.gguf", 512, prompts, folder)), KL_BAR)
    check_stock_grids(slim, folder, prompts)
    check_transformers(slim, folder)
    check_refusals(slim, folder, model)


def check_stock_grids(slim, folder, prompts):
    """Models solved on ggml's grids: the perplexity that compress prints is that of what gguf decodes from its file, in NumPy."""
    from model_oracle import llama, read_gguf

    slim("tokenize", folder / "toy.gguf", "--text", folder / "a.txt", "--json", folder / "t.json")
    windows = np.array(json.loads((folder / "t.json").read_text())["tokens"][-256:]).reshape(-1, 64)
    for kind in ("q4_0", "iq4_nl", "iq4_xs", "q2_k", "q3_k_m", "q4_k_m", "q5_k_m"):
        path = folder / f"stock-{kind}.gguf"
        slim("compress", folder / "toy.gguf", "--recipe", "gguf:" + kind, "--calib", folder / "a.txt", "--text", folder / "a.txt", "--context", 64,
             "--calib-tokens", 512, "--held-out-tokens", 0, "--max-tokens", 256, "--out", path, "--json", folder / "stock.json")
        cfg, w = read_gguf(path)
        w = {n: v.astype(np.float64) for n, v in w.items()}
        nll = np.mean([-log_softmax(llama(cfg, w, ids)[:-1])[np.arange(63), ids[1:]] for ids in windows])
        check(f"gguf:{kind}: nll of compress against gguf + NumPy", abs(nll - json.loads((folder / "stock.json").read_text())["nll"]), 2e-5)
        if kind in ("q4_0", "q4_k_m"):
            bare = np.array([llama(cfg, w, np.array(ids))[-1] for ids in prompts])
            check(f"gguf:{kind}: KL, llama.cpp", mean_kl(bare, llama_cpp(path, None, 512, prompts, folder)), KL_BAR)


def check_peft(label, folder, adapters):
    from safetensors.numpy import load_file

    config = json.loads((folder / "adapter_config.json").read_text())
    t = load_file(folder / "adapter_model.safetensors")
    assert config["r"] == config["lora_alpha"] == max(a[0].shape[1] for a in adapters.values())
    good = []
    for name, (left, right) in adapters.items():
        m = name.removesuffix(".weight")
        a, b = t[f"base_model.model.{m}.lora_A.weight"], t[f"base_model.model.{m}.lora_B.weight"]
        rank = config["rank_pattern"].get(m, config["r"])
        assert config["alpha_pattern"].get(m, config["lora_alpha"]) == rank == left.shape[1]
        good += [np.array_equal(a.astype(np.float32), left.T), np.array_equal(b.astype(np.float32), right.T), a.dtype == np.float16]
    equal(label, good, np.ones(len(good), bool))


def check_lora(label, path, adapters):
    import gguf
    from gguf.quants import dequantize
    from model_oracle import LAYER_NAMES, permute

    back = {v: k for k, v in LAYER_NAMES.items()}
    found = {t.name: dequantize(t.data, t.tensor_type).reshape([int(n) for n in t.shape[::-1]]) for t in gguf.GGUFReader(path).tensors}
    good = [t.tensor_type == gguf.GGMLQuantizationType.Q4_0 for t in gguf.GGUFReader(path).tensors]
    for name, (left, right) in adapters.items():
        number, rest = name.split(".", 3)[2:]
        a, b = found[f"blk.{number}.{back[rest]}.lora_a"], found[f"blk.{number}.{back[rest]}.lora_b"]
        r = left.shape[1]
        expected = right.T if "q_proj" not in name and "k_proj" not in name else permute(np.ascontiguousarray(right.T), 4 if "q_proj" in name else 2)
        good += [np.array_equal(a[:r], left.T), np.array_equal(b[:, :r], expected), not a[r:].any(), not b[:, r:].any()]
    equal(label, good, np.ones(len(good), bool))


def check_transformers(slim, folder):
    """Configuration and tokenizer of written folders, without torch."""
    from transformers import AutoConfig, AutoTokenizer

    config = AutoConfig.from_pretrained(folder / "g-ct")
    source = AutoConfig.from_pretrained(folder / "toy")
    keys = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "vocab_size", "rms_norm_eps", "tie_word_embeddings", "head_dim", "intermediate_size")
    equal("GGUF source: configuration, transformers", [getattr(config, k) == getattr(source, k) for k in keys] + [config.rope_parameters["rope_theta"] == source.rope_parameters["rope_theta"]], np.ones(len(keys) + 1, bool))
    assert config.quantization_config["quant_method"] == "compressed-tensors"
    text = (folder / "a.txt").read_text()[:2000] + " 12 34\n\n x's"
    (folder / "t.txt").write_text(text)
    slim("tokenize", folder / "toy.gguf", "--text", folder / "t.txt", "--json", folder / "t.json")
    ours = json.loads((folder / "t.json").read_text())["tokens"]
    equal("GGUF source: tokenizer.json, transformers", AutoTokenizer.from_pretrained(folder / "g-ct")(text, add_special_tokens=False)["input_ids"], ours)


def check_refusals(slim, folder, model):
    packed = slim.compress(model, "half.slim", "int4-lr", *RANKS)
    slim("export", packed, "--to", "mlx", "--out", folder / "no", fails="mlx cannot hold it: scale")
    assert not (folder / "no").exists()
    said = slim.export(packed, "mlx", folder / "lossy-mlx", "--allow-lossy")
    check("int4-lr, MLX --allow-lossy: relative change of a layer, as reported", said["largest_change"], 1e-3)
    assert said["rounded_layers"] > 0
    slim("export", packed, "--to", "gguf:q4_0", "--base", folder / "toy.gguf", "--out", folder / "no.gguf", fails="zero points have no place")
    assert not (folder / "no.gguf").exists()
    slim("export", packed, "--to", "ct", "--out", folder / "no", "--max-rank", 16, fails="--max-rank is 16")


# --------------------------------------------------------------------------------------------------------- a model of one's own


def write_rounded(path, model):
    """A .slim file in the layout of int3-lr@bf16-scales, made without slim-llm from what docs/formats says: every linear of a GGUF file
    rounded to 3 bits in groups of 128, adapters of rank ratio 0.075 in 4-bit codes that are random and small. Sizes and exactness do not
    depend on how good codes are, and no solver has to run."""
    import gguf
    from gguf.quants import dequantize
    from safetensors.numpy import save_file

    rng = np.random.default_rng(3)
    bf16 = lambda x: (np.asarray(x, np.float32).view(np.uint32) + 0x8000 >> 16).astype(np.uint16)
    fields = lambda q, bits: np.packbits((q[:, :, None] >> np.arange(bits) & 1).astype(np.uint8).reshape(len(q), -1), axis=1, bitorder="little")

    def dense(codes, bits, scales, zeros, tall, wide):
        rows, cols = codes.shape
        low = -(1 << bits - 1)
        head = struct.pack("<4sHBBBBHIIIqqqqq", b"SLPK", 1, 1, bits, 1, int(zeros is not None), 0, 0, 0, 0, rows, cols, tall, wide, rows * cols)
        side = scales.tobytes() + (b"" if zeros is None else fields((zeros - low).reshape(1, -1), bits).tobytes())
        return np.frombuffer(head + side + fields(codes - low, bits).tobytes(), np.uint8)

    out, listed, weights, adapters = {}, [], {}, {}
    source = gguf.GGUFReader(model)
    for tensor in source.tensors:
        name, shape = tensor.name, [int(n) for n in tensor.shape[::-1]]
        linear = name.startswith("blk.") and len(shape) == 2
        listed.append({"name": name, "type": "codes" if linear else tensor.tensor_type.name, "shape": shape})
        if not linear:
            plain = tensor.tensor_type.name in ("F32", "F16")
            out[name] = np.array(tensor.data).reshape(shape) if plain else np.frombuffer(tensor.data.tobytes(), np.uint8)
            continue
        value = dequantize(tensor.data, tensor.tensor_type).reshape(shape).astype(np.float32)
        rows, cols = value.shape
        blocks = [value[:, k:k + 128] for k in range(0, cols, 128)]
        low, high = (np.stack([f(b, 1) for b in blocks], 1) for f in (np.min, np.max))
        low, high = np.minimum(low, 0), np.maximum(high, 0)
        scales = bf16((high - low) / 7)
        s = (scales.astype(np.uint32) << 16).view(np.float32)
        zeros = np.clip(np.rint(-low / s), 0, 7).astype(int) - 4
        spread = lambda t: np.repeat(t, 128, 1)[:, :cols]
        codes = np.clip(np.rint(value / spread(s)).astype(int) + spread(zeros), -4, 3)
        out[name], weights[name] = dense(codes, 3, scales, zeros, 1, 128), spread(s) * (codes - spread(zeros)).astype(np.float32)
        rank = int(0.075 * min(rows, cols))
        for part, shape in (("left", (cols, rank)), ("right", (rank, rows))):
            codes, scales = rng.integers(-7, 8, shape), bf16(np.full((-(-shape[0] // 128), shape[1]), 0.004))
            out[f"{name}.{part}"] = dense(codes, 4, scales, None, 128, 1)
            adapters.setdefault(name, []).append(codes.astype(np.float32) * (scales[:1, :1].astype(np.uint32) << 16).view(np.float32))
    # The header: GGUF's magic and version, no tensors, and all keys as they lie in the file (first and last field tell where).
    keys = [f for n, f in source.fields.items() if not n.startswith("GGUF.")]
    end = keys[-1].offset + sum(int(part.nbytes) for part in keys[-1].parts)
    raw = Path(model).read_bytes()
    header = raw[:8] + struct.pack("<QQ", 0, len(keys)) + raw[keys[0].offset:end]
    out["file:header.gguf"] = np.frombuffer(header, np.uint8)
    save_file(out, path, metadata={"format": "slim", "version": "1", "source": "", "recipe": json.dumps({"name": "rounded"}), "tensors": json.dumps(listed)})
    return weights, adapters


def own_model(slim, folder, model):
    """A GGUF model with rounded linears, exported to every format: bytes, seconds, KL of what llama.cpp and mlx-lm return."""
    import mlx.core as mx
    from model_oracle import LAYER_NAMES, llama, read_gguf, unpermute

    cfg, w = read_gguf(model)
    packed = folder / "rounded.slim"
    weights, adapters = write_rounded(packed, model)
    rng = np.random.default_rng(2)
    vocab = len(w["model.embed_tokens.weight"])
    prompts = [[int(n) for n in rng.integers(100, vocab, 16)] for _ in range(3)]
    rows = lambda n, v: unpermute(v, cfg["heads"] if "attn_q" in n else cfg["kv_heads"]) if n.endswith(("attn_q.weight", "attn_k.weight")) else v
    hf = lambda n: f"model.layers.{n.split('.')[1]}.{LAYER_NAMES[n.split('.', 2)[2]]}"
    bare_w = {hf(n): rows(n, v) for n, v in weights.items()}
    full64 = {n: v.astype(np.float64) for n, v in (w | {hf(n): rows(n, v) for n, v in with_adapters(weights, adapters).items()}).items()}
    full = np.array([llama(cfg, full64, np.array(ids))[-1] for ids in prompts])
    sizes = []
    for to in ("ct", "gptq", "mlx", "gguf", "gguf:q8_0", "hf"):
        out = folder / ("own-" + to.replace(":", "-") + (".gguf" if to.startswith("gguf") else ""))
        said = slim.export(packed, to, out)
        sizes.append((to, said))
        if to in ("ct", "mlx"):
            check_weights(f"own model, {to}: weights", out, to, bare_w, 3)
        if to.startswith("gguf"):
            check_gguf(f"own model, {to}: weights", out, weights)
            lora = Path(said["adapter"]) if said["adapter"] else None
            check(f"own model, {to} (+ LoRA): KL, llama.cpp", mean_kl(full, llama_cpp(out, lora, vocab, prompts, folder)), KL_BAR)
        if to == "mlx":
            check("own model, MLX (+ adapter): logits, float32", relative(mlx_logits(out, said["adapter"] or None, prompts, mx.float32), full), RELATIVE_BAR)
    print("| format | linears, MB | adapters, MB | bits per weight, both | everything else, MB | seconds | peak memory, MB |\n|---|---|---|---|---|---|---|")
    for to, s in sizes:
        print(f"| {to} | {s['linear_bytes'] / 1e6:.1f} | {s['adapter_bytes'] / 1e6:.1f} | {s['bits_per_weight']:.3f} | {s['other_bytes'] / 1e6:.1f} | {s['seconds']:.1f} | {s['peak_bytes'] / 1e6:.0f} |")


def main():
    if sys.argv[1] == "--worker":
        return llama_cpp_worker(*sys.argv[2:])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        slim = Program(sys.argv[1], folder)
        if len(sys.argv) > 2:
            own_model(slim, folder, Path(sys.argv[2]))
        else:
            toy_checks(slim, folder)
    print("| what | found | bar | holds |\n|---|---|---|---|")
    for row in TABLE:
        print("| " + " | ".join(row) + " |")
    if FAILED:
        sys.exit(f"{len(FAILED)} of {len(TABLE)} failed: {', '.join(FAILED)}")
    print(len(TABLE), "checks hold")


if __name__ == "__main__":
    main()
