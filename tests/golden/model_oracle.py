#!/usr/bin/env python3
"""The forward pass of slim-llm's models once more, in NumPy and float64, written from the papers and from transformers'
modeling files, not from our C++: heads in a loop, full score matrices, rotate-half positions everywhere (rows of GGUF's
"llama" are un-permuted first).

    model_oracle.py families DUMP          random small models of every family and format; compares with model_dump's logits
    model_oracle.py refusals DUMP          broken models: model_dump must refuse each with a sentence that names the reason
    model_oracle.py gguf_refusals DUMP     the same for GGUF files
    model_oracle.py golden MODEL.gguf OUT  writes the golden file of tests/llm/golden_test.cpp
    model_oracle.py nll MODEL.gguf IDS CONTEXT [llama_cpp]   mean NLL of the first window of the ids in a text file

Exit status 77: a Python package is missing (skip)."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

try:
    import gguf
    import numpy as np
    from gguf.quants import dequantize
    from safetensors.numpy import save_file

    import family_oracle
except ImportError as missing:
    print(f"skipped: {missing}")
    sys.exit(77)


# ---------------------------------------------------------------------------------------------------------- the model


def rms_norm(x, weight, eps):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * weight


def layer_norm(x, weight, bias, eps=1e-5):
    centered = x - x.mean(-1, keepdims=True)
    return centered / np.sqrt((centered * centered).mean(-1, keepdims=True) + eps) * weight + bias


def inverse_frequencies(cfg):
    d = cfg["head_dim"]
    inv = 1.0 / cfg["theta"] ** (np.arange(0, d, 2) / d)
    scaling = cfg.get("scaling")
    if scaling and scaling["rope_type"] == "linear":
        return inv / scaling["factor"]
    if scaling and scaling["rope_type"] == "llama3":  # transformers, _compute_llama3_parameters
        old = scaling["original_max_position_embeddings"]
        low, high, factor = scaling["low_freq_factor"], scaling["high_freq_factor"], scaling["factor"]
        wavelength = 2 * np.pi / inv
        out = np.where(wavelength > old / low, inv / factor, inv)
        smooth = (old / wavelength - low) / (high - low)
        smoothed = (1 - smooth) * inv / factor + smooth * inv
        medium = ~(wavelength < old / high) & ~(wavelength > old / low)
        return np.where(medium, smoothed, out)
    return inv


def rotate(x, inv):  # x: (tokens, head_dim)
    angle = np.arange(len(x))[:, None] * np.concatenate([inv, inv])[None]
    half = x.shape[1] // 2
    return x * np.cos(angle) + np.concatenate([-x[:, half:], x[:, :half]], 1) * np.sin(angle)


def attention(cfg, q, k, v, prepare):
    t, d, group = len(q), cfg["head_dim"], cfg["heads"] // cfg["kv_heads"]
    hidden_keys = np.triu(np.ones((t, t), bool), 1)
    out = []
    for h in range(cfg["heads"]):
        g = h // group
        qh, kh = prepare(q[:, h * d : (h + 1) * d], "q"), prepare(k[:, g * d : (g + 1) * d], "k")
        scores = np.where(hidden_keys, -np.inf, qh @ kh.T / np.sqrt(d))
        p = np.exp(scores - scores.max(-1, keepdims=True))
        out.append(p / p.sum(-1, keepdims=True) @ v[:, g * d : (g + 1) * d])
    return np.concatenate(out, 1)


def linear(w, name, x):
    y = x @ w[name + ".weight"].T
    return y + w[name + ".bias"] if name + ".bias" in w else y


def llama(cfg, w, ids):
    x, eps, inv = w["model.embed_tokens.weight"][ids], cfg["eps"], inverse_frequencies(cfg)
    for n in range(cfg["layers"]):
        p = f"model.layers.{n}."

        def prepare(head, which):
            norm = w.get(f"{p}self_attn.{which}_norm.weight")
            return rotate(head if norm is None else rms_norm(head, norm, eps), inv)

        h = rms_norm(x, w[p + "input_layernorm.weight"], eps)
        q, k, v = (linear(w, f"{p}self_attn.{c}_proj", h) for c in "qkv")
        x = x + linear(w, p + "self_attn.o_proj", attention(cfg, q, k, v, prepare))
        h = rms_norm(x, w[p + "post_attention_layernorm.weight"], eps)
        gate = linear(w, p + "mlp.gate_proj", h)
        x = x + linear(w, p + "mlp.down_proj", gate / (1 + np.exp(-gate)) * linear(w, p + "mlp.up_proj", h))
    x = rms_norm(x, w["model.norm.weight"], eps)
    return x @ w.get("lm_head.weight", w["model.embed_tokens.weight"]).T


def opt(cfg, w, ids):
    r, before = "model.decoder.", cfg["norm_before"]
    x = w[r + "embed_tokens.weight"][ids]
    if r + "project_in.weight" in w:
        x = linear(w, r + "project_in", x)
    x = x + w[r + "embed_positions.weight"][2 : len(ids) + 2]
    for n in range(cfg["layers"]):
        p = f"{r}layers.{n}."
        first = lambda h: layer_norm(h, w[p + "self_attn_layer_norm.weight"], w[p + "self_attn_layer_norm.bias"])
        second = lambda h: layer_norm(h, w[p + "final_layer_norm.weight"], w[p + "final_layer_norm.bias"])
        h = first(x) if before else x
        q, k, v = (linear(w, f"{p}self_attn.{c}_proj", h) for c in "qkv")
        x = x + linear(w, p + "self_attn.out_proj", attention(cfg, q, k, v, lambda head, _: head))
        x = x if before else first(x)
        h = second(x) if before else x
        x = x + linear(w, p + "fc2", family_oracle.ACTIVATIONS[cfg.get("act", "relu")](linear(w, p + "fc1", h)))
        x = x if before else second(x)
    if before:
        x = layer_norm(x, w[r + "final_layer_norm.weight"], w[r + "final_layer_norm.bias"])
    if r + "project_out.weight" in w:
        x = linear(w, r + "project_out", x)
    return x @ w[r + "embed_tokens.weight"].T


def logits(cfg, w, ids):
    w = {name: value.astype(np.float64) for name, value in w.items()}
    return (opt if cfg["type"] == "opt" else llama)(cfg, w, np.asarray(ids))


def nll(rows, targets):
    top = rows.max(-1)
    return top + np.log(np.exp(rows - top[:, None]).sum(-1)) - rows[np.arange(len(rows)), targets]


# ------------------------------------------------------------------------------------------------------- GGUF <-> HF

LAYER_NAMES = {
    "attn_norm.weight": "input_layernorm.weight", "ffn_norm.weight": "post_attention_layernorm.weight",
    "attn_q.weight": "self_attn.q_proj.weight", "attn_k.weight": "self_attn.k_proj.weight",
    "attn_v.weight": "self_attn.v_proj.weight", "attn_q.bias": "self_attn.q_proj.bias",
    "attn_k.bias": "self_attn.k_proj.bias", "attn_v.bias": "self_attn.v_proj.bias",
    "attn_output.weight": "self_attn.o_proj.weight", "attn_q_norm.weight": "self_attn.q_norm.weight",
    "attn_k_norm.weight": "self_attn.k_norm.weight", "ffn_gate.weight": "mlp.gate_proj.weight",
    "ffn_up.weight": "mlp.up_proj.weight", "ffn_down.weight": "mlp.down_proj.weight",
}
TOP_NAMES = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight", "output.weight": "lm_head.weight"}


def permute(w, heads):  # as llama.cpp's converter
    return w.reshape(heads, 2, w.shape[0] // heads // 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)


def unpermute(w, heads):
    return w.reshape(heads, w.shape[0] // heads // 2, 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)


def read_gguf(path):
    reader = gguf.GGUFReader(path)
    field = lambda key: reader.fields["llama." + key].contents()
    cfg = {"type": "llama", "layers": field("block_count"), "heads": field("attention.head_count"),
           "kv_heads": field("attention.head_count_kv"), "eps": float(field("attention.layer_norm_rms_epsilon")),
           "theta": float(field("rope.freq_base")), "head_dim": field("embedding_length") // field("attention.head_count")}
    w = {}
    for tensor in reader.tensors:
        value = dequantize(tensor.data, tensor.tensor_type).astype(np.float32).reshape([int(n) for n in tensor.shape[::-1]])
        if tensor.name.endswith(("attn_q.weight", "attn_k.weight")):
            value = unpermute(value, cfg["heads"] if "attn_q" in tensor.name else cfg["kv_heads"])
        if tensor.name in TOP_NAMES:
            w[TOP_NAMES[tensor.name]] = value
        else:
            _, number, rest = tensor.name.split(".", 2)
            w[f"model.layers.{number}.{LAYER_NAMES[rest]}"] = value
    return cfg, w


def write_gguf(path, cfg, w, extra=None):
    arch = {"mistral": "llama"}.get(cfg["type"], cfg["type"])
    out = gguf.GGUFWriter(path, arch)
    out.add_block_count(cfg["layers"])
    out.add_context_length(cfg.get("max_positions", 64))
    out.add_embedding_length(cfg["hidden"])
    out.add_feed_forward_length(cfg["inter"])
    out.add_head_count(cfg["heads"])
    out.add_head_count_kv(cfg["kv_heads"])
    out.add_layer_norm_rms_eps(cfg["eps"])
    out.add_rope_freq_base(cfg["theta"])
    if cfg["head_dim"] * cfg["heads"] != cfg["hidden"]:
        out.add_key_length(cfg["head_dim"])
        out.add_value_length(cfg["head_dim"])
    if extra:
        extra(out)
    scaling = cfg.get("scaling")
    if scaling and scaling["rope_type"] == "linear":
        out.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        out.add_rope_scaling_factor(scaling["factor"])
    if scaling and scaling["rope_type"] == "llama3":
        plain = inverse_frequencies({**cfg, "scaling": None})
        out.add_tensor("rope_freqs.weight", (plain / inverse_frequencies(cfg)).astype(np.float32))
    back = {v: k for k, v in LAYER_NAMES.items()}
    top = {v: k for k, v in TOP_NAMES.items()}
    for name, value in w.items():
        if name in top:
            out.add_tensor(top[name], value)
            continue
        _, _, number, rest = name.split(".", 3)
        short = back[rest]
        if arch == "llama" and short.startswith(("attn_q.", "attn_k.")):
            value = permute(value, value.shape[0] // cfg["head_dim"])
        out.add_tensor(f"blk.{number}.{short}", np.ascontiguousarray(value))
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()


def write_folder(folder, cfg, w, version, shards=1):
    folder.mkdir()
    names = {"opt": "OPT", "llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2", "qwen3": "Qwen3"}
    config = {"architectures": [names[cfg["type"]] + "ForCausalLM"], "model_type": cfg["type"], "hidden_size": cfg["hidden"],
              "num_hidden_layers": cfg["layers"], "num_attention_heads": cfg["heads"], "vocab_size": cfg["vocab"],
              "max_position_embeddings": cfg.get("max_positions", 64), "bos_token_id": 1, "dtype" if version == 5 else "torch_dtype": "float32"}
    if cfg["type"] == "opt":
        config |= {"ffn_dim": cfg["inter"], "word_embed_proj_dim": cfg.get("embed", cfg["hidden"]), "activation_function": cfg.get("act", "relu"),
                   "do_layer_norm_before": cfg["norm_before"]}
    else:
        config |= {"intermediate_size": cfg["inter"], "num_key_value_heads": cfg["kv_heads"], "rms_norm_eps": cfg["eps"],
                   "hidden_act": "silu", "tie_word_embeddings": "lm_head.weight" not in w}
        if cfg["head_dim"] * cfg["heads"] != cfg["hidden"]:
            config["head_dim"] = cfg["head_dim"]
        if version == 5:
            config["rope_parameters"] = {"rope_theta": cfg["theta"], **(cfg.get("scaling") or {"rope_type": "default"})}
        else:
            config |= {"rope_theta": cfg["theta"], "rope_scaling": cfg.get("scaling")}
    (folder / "config.json").write_text(json.dumps(config))
    names = sorted(w)
    if shards == 1:
        save_file(w, folder / "model.safetensors", metadata={"format": "pt"})
        return
    weight_map = {}
    for k in range(shards):
        file = f"model-{k + 1:05}-of-{shards:05}.safetensors"
        part = {name: w[name] for name in names[k::shards]}
        save_file(part, folder / file, metadata={"format": "pt"})
        weight_map |= {name: file for name in part}
    total = sum(value.nbytes for value in w.values())
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map}))


# ------------------------------------------------------------------------------------------------------ random models


def random_llama(rng, kind, **changes):
    """Weights large enough that a wrong rotation, mask, head or bias moves the logits by far more than rounding."""
    cfg = {"type": kind, "layers": 2, "hidden": 48, "heads": 6, "kv_heads": 2, "head_dim": 8, "inter": 80, "vocab": 97,
           "eps": 1e-5, "theta": 500.0, "tied": True} | changes
    normal = lambda *shape: (rng.standard_normal(shape) * (1.5 / np.sqrt(shape[-1]))).astype(np.float32)
    scale = lambda n: rng.uniform(0.5, 1.5, n).astype(np.float32)
    d, q, kv, inter = cfg["hidden"], cfg["heads"] * cfg["head_dim"], cfg["kv_heads"] * cfg["head_dim"], cfg["inter"]
    w = {"model.embed_tokens.weight": rng.standard_normal((cfg["vocab"], d)).astype(np.float32), "model.norm.weight": scale(d)}
    if not cfg["tied"]:
        w["lm_head.weight"] = normal(cfg["vocab"], d)
    for n in range(cfg["layers"]):
        p = f"model.layers.{n}."
        for name, rows in (("q", q), ("k", kv), ("v", kv)):
            w[f"{p}self_attn.{name}_proj.weight"] = normal(rows, d)
            if kind == "qwen2":
                w[f"{p}self_attn.{name}_proj.bias"] = rng.standard_normal(rows).astype(np.float32)
        if kind == "qwen3":
            w[p + "self_attn.q_norm.weight"], w[p + "self_attn.k_norm.weight"] = scale(cfg["head_dim"]), scale(cfg["head_dim"])
        w[p + "self_attn.o_proj.weight"] = normal(d, q)
        w[p + "mlp.gate_proj.weight"], w[p + "mlp.up_proj.weight"], w[p + "mlp.down_proj.weight"] = normal(inter, d), normal(inter, d), normal(d, inter)
        w[p + "input_layernorm.weight"], w[p + "post_attention_layernorm.weight"] = scale(d), scale(d)
    return cfg, w


def random_opt(rng, norm_before, embed=None, positions=64, act="relu"):
    cfg = {"type": "opt", "layers": 2, "hidden": 48, "heads": 6, "kv_heads": 6, "head_dim": 8, "inter": 100, "vocab": 97,
           "norm_before": norm_before, "max_positions": positions, "act": act}
    normal = lambda *shape: (rng.standard_normal(shape) * (1.5 / np.sqrt(shape[-1]))).astype(np.float32)
    d, r = cfg["hidden"], "model.decoder."
    cfg["embed"] = embed or d
    w = {r + "embed_tokens.weight": rng.standard_normal((cfg["vocab"], cfg["embed"])).astype(np.float32),
         r + "embed_positions.weight": rng.standard_normal((positions + 2, d)).astype(np.float32)}
    if embed:
        w[r + "project_in.weight"], w[r + "project_out.weight"] = normal(d, embed), normal(embed, d)

    def norm(name):
        w[name + ".weight"], w[name + ".bias"] = rng.uniform(0.5, 1.5, d).astype(np.float32), rng.standard_normal(d).astype(np.float32)

    def biased(name, rows, cols):
        w[name + ".weight"], w[name + ".bias"] = normal(rows, cols), rng.standard_normal(rows).astype(np.float32)

    for n in range(cfg["layers"]):
        p = f"{r}layers.{n}."
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            biased(f"{p}self_attn.{name}", d, d)
        biased(p + "fc1", cfg["inter"], d)
        biased(p + "fc2", d, cfg["inter"])
        norm(p + "self_attn_layer_norm")
        norm(p + "final_layer_norm")
    if norm_before:
        norm(r + "final_layer_norm")
    return cfg, w


# ------------------------------------------------------------------------------------------------------------ commands

# SmolLM2's tokens of: The old bridge crosses the river at its narrowest point. In spring the water is high and brown, and people
# stop in the middle to watch the branches float by. In autumn the water is low and clear, and people stop in the middle to watch
# the fish, which are few, and the stones, which are
GOLDEN_TOKENS = [
    504, 1573, 7395, 21973, 260, 4626, 418, 624, 6260, 381, 1225, 30, 533, 4921, 260, 913, 314, 904, 284, 6354, 28, 284,
    701, 2853, 281, 260, 3891, 288, 4126, 260, 7938, 6458, 411, 30, 533, 15339, 260, 913, 314, 1642, 284, 2437, 28, 284,
    701, 2853, 281, 260, 3891, 288, 4126, 260, 2698, 28, 527, 359, 1443, 28, 284, 260, 8989, 28, 527, 359]

LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32}


def random_models(rng):
    """Title, windows of how many tokens, model. 150 and 300 tokens are more than one block of queries."""
    yield "llama, long window", 300, random_llama(rng, "llama", max_positions=300)
    yield "opt, long window", 150, random_opt(rng, True, positions=160)
    yield "llama with shared key-value heads", 23, random_llama(rng, "llama")
    yield "llama, own head, llama3 positions", 23, random_llama(rng, "llama", tied=False, scaling=LLAMA3)
    yield "llama, linear positions", 23, random_llama(rng, "llama", scaling={"rope_type": "linear", "factor": 4.0})
    yield "mistral, one key-value head", 23, random_llama(rng, "mistral", kv_heads=1, tied=False)
    yield "qwen2", 23, random_llama(rng, "qwen2", eps=1e-6)
    yield "qwen3, wide heads", 23, random_llama(rng, "qwen3", head_dim=16, eps=1e-6, tied=False)
    yield "opt, norm before", 23, random_opt(rng, True)
    yield "opt, norm after, projected", 23, random_opt(rng, False, embed=24)
    yield "opt, gelu", 23, random_opt(rng, True, act="gelu")


def families(dump):
    rng = np.random.default_rng(7)
    worst = 0.0
    with tempfile.TemporaryDirectory() as temporary:
        for number, (title, length, (cfg, w)) in enumerate(random_models(rng)):
            ids = rng.integers(0, cfg["vocab"], 2 * length)
            want = np.concatenate([logits(cfg, w, ids[:length]), logits(cfg, w, ids[length:])])  # two independent windows
            paths = {f"folder v{v}": Path(temporary) / f"{number}-v{v}" for v in (4, 5)}
            for v in (4, 5):
                write_folder(paths[f"folder v{v}"], cfg, w, v, shards=3 if v == 5 else 1)
            if cfg["type"] != "opt":
                paths["gguf"] = Path(temporary) / f"{number}.gguf"
                write_gguf(paths["gguf"], cfg, w)
            for form, path in paths.items():
                text = subprocess.run([dump, path, "logits", str(length), *map(str, ids)], check=True, capture_output=True, text=True).stdout
                have = np.array([line.split() for line in text.splitlines()], dtype=np.float64)
                error = np.abs(have - want).max() / np.abs(want).max()
                worst = max(worst, error)
                print(f"{title:36} {form:10} relative error {error:.2e}")
                assert have.shape == want.shape and error < 1e-5, (title, form, error)  # float32 forward: about 1e-6
    print(f"worst {worst:.2e}")


def refusals(dump):
    """(what the sentence must contain, how to break the model)"""
    def change(**keys):
        return lambda folder: (folder / "config.json").write_text(json.dumps(json.loads((folder / "config.json").read_text()) | keys))

    def without(name):
        return lambda folder: rewrite(folder, lambda w: w.pop(name))

    def rewrite(folder, edit):
        from safetensors.numpy import load_file
        w = load_file(folder / "model.safetensors")
        edit(w)
        save_file(w, folder / "model.safetensors")

    down = "model.layers.1.mlp.down_proj.weight"
    cases = [
        (["no tensor", down], without(down)),
        ([down, "48 x 79", "48 x 80"], lambda f: rewrite(f, lambda w: w.update({down: np.ascontiguousarray(w[down][:, :79])}))),
        (["model.layers.0.mlp.router.weight", "no place"], lambda f: rewrite(f, lambda w: w.update({"model.layers.0.mlp.router.weight": w[down]}))),
        (["model.layers.2.", "2 blocks"], lambda f: rewrite(f, lambda w: w.update({"model.layers.2.input_layernorm.weight": w["model.norm.weight"]}))),
        (["'gemma'", "not known"], change(model_type="gemma")),
        (["ntk", "not known"], change(rope_scaling={"type": "ntk", "factor": 2.0})),
        (["mish", "hidden_act", "not known", "gelu_new"], change(hidden_act="mish")),
        (["num_hidden_layers", "whole number"], change(num_hidden_layers="2")),
        (["num_hidden_layers", "missing"], change(num_hidden_layers=None)),
        (["max_position_embeddings", "9223372036854775807"], change(max_position_embeddings=2**63 - 1)),
        (["hidden size", "1099511627776"], change(hidden_size=2**40)),
        (["num_hidden_layers", "-1"], change(num_hidden_layers=-1)),
        (["6 attention heads", "4 key-value heads"], change(num_key_value_heads=4)),
        (["lm_head.weight"], change(tie_word_embeddings=False)),
        (["q_proj.bias"], change(attention_bias=True)),
        (["quantized"], change(quantization_config={"bits": 4})),
        (["config.json"], lambda f: (f / "config.json").unlink()),
        (["config.json"], lambda f: (f / "config.json").write_text("[")),
    ]
    cfg, w = random_llama(np.random.default_rng(3), "llama")
    with tempfile.TemporaryDirectory() as temporary:
        for number, (words, damage) in enumerate(cases):
            folder = Path(temporary) / str(number)
            write_folder(folder, cfg, w, 4)
            damage(folder)
            done = subprocess.run([dump, folder, "config"], capture_output=True, text=True)
            print(done.stderr.strip().replace(temporary, ""))
            assert done.returncode == 1 and all(word in done.stderr for word in words), (words, done)


def gguf_refusals(dump):
    """As refusals, for GGUF files: (what the sentence must contain, change of the configuration, change of the tensors, extra key)"""
    nothing = lambda w: None
    down = "model.layers.1.mlp.down_proj.weight"
    cases = [
        (["no tensor", "blk.1.ffn_down.weight"], {}, lambda w: w.pop(down), None),
        (["blk.1.ffn_down.weight", "48 x 79"], {}, lambda w: w.update({down: np.ascontiguousarray(w[down][:, :79])}), None),
        (["blk.1.attn_q_norm.weight", "no place"], {}, lambda w: w.update({"model.layers.1.self_attn.q_norm.weight": w["model.norm.weight"]}), None),
        (["attn_q_norm.weight", "no tensor"], {"type": "qwen3"}, nothing, None),
        (["attn_q.bias", "no tensor"], {"type": "qwen2"}, nothing, None),
        (["gemma", "not known"], {"type": "gemma"}, nothing, None),
        (["context"], {"max_positions": 0}, nothing, lambda out: out.add_rope_scaling_type(gguf.RopeScalingType.YARN)),
        (["llama.expert_count"], {}, nothing, lambda out: out.add_expert_count(8)),
        (["4 of 8"], {}, nothing, lambda out: out.add_rope_dimension_count(4)),
        (["head_count_kv", "array"], {"kv_heads": [2, 2]}, nothing, None),
        (["4 key-value heads"], {"kv_heads": 4}, nothing, None),
        (["llama.vocab_size", "98", "97"], {}, nothing, lambda out: out.add_vocab_size(98)),
        (["tokenizer.ggml.tokens", "98", "97"], {}, nothing, lambda out: out.add_token_list([f"t{k}" for k in range(98)])),
        (["llama.attn_logit_softcapping"], {}, nothing, lambda out: out.add_attn_logit_softcapping(30.0)),
        (["output_norm.weight", "NaN", "column 0"], {}, lambda w: w.update({"model.norm.weight": w["model.norm.weight"] * np.float32("nan")}), None),
        (["block_count", "0"], {"layers": 0}, nothing, None),
    ]
    cfg, good = random_llama(np.random.default_rng(3), "llama")
    with tempfile.TemporaryDirectory() as temporary:
        for number, (words, changes, damage, extra) in enumerate(cases):
            path, w = Path(temporary) / f"{number}.gguf", dict(good)
            damage(w)
            write_gguf(path, cfg | changes, w, extra)
            done = subprocess.run([dump, path, "config"], capture_output=True, text=True)
            print(done.stderr.strip().replace(temporary, ""))
            assert done.returncode == 1 and all(word in done.stderr for word in words), (words, done)


def golden(model, out):
    """64 tokens; logits of 8 positions at 64 entries of the vocabulary each, the largest ones among them; NLL of all."""
    cfg, w = read_gguf(model)
    rng = np.random.default_rng(64)
    vocab = len(w["model.embed_tokens.weight"])
    ids = np.array(GOLDEN_TOKENS)
    rows = logits(cfg, w, ids)
    losses = nll(rows[:-1], ids[1:])
    positions = [0, 1, 7, 15, 31, 40, 47, 63]
    with open(out, "w") as f:
        f.write("# SmolLM2-135M-Instruct.Q4_1.gguf, float64, written by model_oracle.py golden\n")
        f.write("tokens " + " ".join(map(str, ids)) + "\n")
        f.write("nll " + " ".join(f"{x:.12g}" for x in losses) + "\n")
        for position in positions:
            entries = np.unique(np.concatenate([np.argsort(rows[position])[-16:], rng.integers(0, vocab, 48)]))
            f.write(f"logits {position} {np.abs(rows[position]).max():.12g} " + " ".join(f"{e}:{rows[position, e]:.12g}" for e in entries) + "\n")
    print("mean NLL", losses.mean())


def window(model, file, context, rule="windows"):
    ids = np.array(open(file).read().split()[: int(context)], dtype=int)
    cfg, w = read_gguf(model)
    first = len(ids) // 2 + 1 if rule == "llama_cpp" else 1
    losses = nll(logits(cfg, w, ids)[first - 1 : -1], ids[first:])
    print(f"{losses.mean():.12g}")


if __name__ == "__main__":
    commands = {"families": families, "refusals": refusals, "gguf_refusals": gguf_refusals, "golden": golden, "nll": window}
    if len(sys.argv) < 3 or sys.argv[1] not in commands:
        sys.exit(__doc__)
    commands[sys.argv[1]](*sys.argv[2:])
