#!/usr/bin/env python3
"""All families of slim-llm once more, in NumPy and float64, from a config.json to logits: what a configuration means is read here
as transformers 5.24 reads it (configuration_*.py with their defaults, modeling_rope_utils.py, masking_utils.py), and what it
computes is written from its modeling_*.py, not from our C++. GGUF files are written as llama.cpp's converter writes them, with the
tensor names of the gguf package.

    family_oracle.py families DUMP    random small models of every family and form; compares logits with model_dump's
    family_oracle.py transformers DUMP   the same models once more by the real transformers; outside CI, needs torch
    family_oracle.py twice DUMP       folders that say a thing twice or too much: right logits and a note, or a refusal

Exit status 77: a Python package is missing (skip)."""

import json
import math
import subprocess
import sys
import tempfile
from pathlib import Path

try:
    import gguf
    import numpy as np
    from safetensors.numpy import save_file
except ImportError as missing:
    print(f"skipped: {missing}")
    sys.exit(77)

# ------------------------------------------------------------------------------------- what a configuration means

# Class defaults of transformers 5.24 that tests leave out or that differ between classes.
DEFAULTS = {
    "llama": {"rms_norm_eps": 1e-6, "max_position_embeddings": 2048},
    "mistral": {"rms_norm_eps": 1e-6, "max_position_embeddings": 131072, "num_key_value_heads": 8, "sliding_window": 4096},
    "qwen2": {"rms_norm_eps": 1e-6, "max_position_embeddings": 32768, "num_key_value_heads": 32, "sliding_window": 4096,
              "use_sliding_window": False, "max_window_layers": 28},
    "qwen3": {"rms_norm_eps": 1e-6, "max_position_embeddings": 32768, "num_key_value_heads": 32, "head_dim": 128,
              "sliding_window": 4096, "use_sliding_window": False, "max_window_layers": 28},
    "smollm3": {"rms_norm_eps": 1e-6, "max_position_embeddings": 32768, "num_key_value_heads": 4, "tie_word_embeddings": True,
                "use_sliding_window": False, "no_rope_layer_interval": 4, "theta": 2000000.0},
    "olmo2": {"rms_norm_eps": 1e-5, "max_position_embeddings": 2048},
    "gemma2": {"rms_norm_eps": 1e-6, "max_position_embeddings": 8192, "num_key_value_heads": 4, "head_dim": 256,
               "tie_word_embeddings": True, "query_pre_attn_scalar": 256, "sliding_window": 4096,
               "final_logit_softcapping": 30.0, "attn_logit_softcapping": 50.0},
    "gemma3_text": {"rms_norm_eps": 1e-6, "max_position_embeddings": 131072, "num_key_value_heads": 4, "head_dim": 256,
                    "tie_word_embeddings": True, "query_pre_attn_scalar": 256, "sliding_window": 4096,
                    "sliding_window_pattern": 6, "theta": 1000000.0},
    "phi3": {"rms_norm_eps": 1e-5, "max_position_embeddings": 4096, "original_max_position_embeddings": 4096},
    "qwen3_moe": {"rms_norm_eps": 1e-6, "max_position_embeddings": 32768, "num_key_value_heads": 4, "sliding_window": 4096,
                  "use_sliding_window": False, "moe_intermediate_size": 768, "num_experts": 128, "num_experts_per_tok": 8,
                  "norm_topk_prob": False},
    "olmoe": {"rms_norm_eps": 1e-5, "max_position_embeddings": 4096, "num_experts": 64, "num_experts_per_tok": 8,
              "norm_topk_prob": False},
}


class Settings:
    def __init__(self, config):
        kind = self.kind = config["model_type"]
        c = {"tie_word_embeddings": False, "theta": 10000.0} | DEFAULTS[kind] | config
        self.c, self.layers, self.heads = c, c["num_hidden_layers"], c["num_attention_heads"]
        self.kv_heads = c.get("num_key_value_heads") or self.heads
        self.dim = c.get("head_dim") or c["hidden_size"] // self.heads
        self.eps, self.tied = c["rms_norm_eps"], c["tie_word_embeddings"]
        self.scale = (c["query_pre_attn_scalar"] if kind.startswith("gemma") else self.dim) ** -0.5
        self.windows = self.read_windows()
        self.rotates = [True] * self.layers
        if kind == "smollm3":
            step = c["no_rope_layer_interval"]
            self.rotates = [bool(x) for x in c.get("no_rope_layers") or [(n + 1) % step != 0 for n in range(self.layers)]]
            if c["use_sliding_window"] and "layer_types" not in c:
                self.windows = [None if rotates else c["sliding_window"] for rotates in self.rotates]
        self.ropes = self.read_ropes()

    def read_windows(self):
        c, kind, layers = self.c, self.kind, range(self.layers)
        window = c.get("sliding_window")
        if kind in ("mistral", "phi3"):
            return [window] * self.layers
        if kind == "qwen3_moe":
            return [window if c["use_sliding_window"] else None] * self.layers
        if kind in ("llama", "olmo2", "olmoe"):
            return [None] * self.layers
        types = c.get("layer_types")
        if types is None:
            slides = {"qwen2": lambda n: c["use_sliding_window"] and n >= c["max_window_layers"],
                      "qwen3": lambda n: c["use_sliding_window"] and n >= c["max_window_layers"],
                      "smollm3": lambda n: False,
                      "gemma2": lambda n: (n + 1) % 2,
                      "gemma3_text": lambda n: (n + 1) % c["sliding_window_pattern"]}[kind]
            types = ["sliding_attention" if slides(n) else "full_attention" for n in layers]
        return [window if t == "sliding_attention" else None for t in types]

    def read_ropes(self):
        """(parameters of full attention, of blocks with a window)"""
        c = self.c
        given = dict(c.get("rope_scaling") or c.get("rope_parameters") or {})
        theta = c.get("rope_theta", c["theta"])
        if self.kind == "gemma3_text":
            if "full_attention" in given:
                return given["full_attention"], given["sliding_attention"]
            return {"rope_theta": theta} | given, {"rope_theta": c.get("rope_local_base_freq", 10000.0)}
        rope = {"rope_theta": theta, "partial_rotary_factor": c.get("partial_rotary_factor", 1.0)} | given
        if "original_max_position_embeddings" in c:
            rope["original_max_position_embeddings"] = c["original_max_position_embeddings"]
        return rope, rope

    def rope(self, block, length):
        """(inverse frequencies, attention factor) of a block, or none."""
        if not self.rotates[block]:
            return None
        return inverse_frequencies(self.ropes[self.windows[block] is not None], self, length)


def inverse_frequencies(rope, s, length):
    kind = rope.get("rope_type", rope.get("type", "default"))
    if s.kind == "phi3" and kind in ("su", "yarn"):
        kind = "longrope"
    dim, base = int(s.dim * rope.get("partial_rotary_factor", 1.0)), rope["rope_theta"]
    inv = 1.0 / base ** (np.arange(0, dim, 2) / dim)
    positions = s.c["max_position_embeddings"]
    old = rope.get("original_max_position_embeddings", positions)
    if kind == "linear":
        return inv / rope["factor"], 1.0
    if kind == "llama3":
        low, high, factor = rope["low_freq_factor"], rope["high_freq_factor"], rope["factor"]
        wave = 2 * np.pi / inv
        out = np.where(wave > old / low, inv / factor, inv)
        smooth = (old / wave - low) / (high - low)
        medium = ~(wave < old / high) & ~(wave > old / low)
        return np.where(medium, (1 - smooth) * out / factor + smooth * out, out), 1.0
    if kind == "yarn":
        factor = rope.get("factor") or positions / old
        get_mscale = lambda scale, m=1: 1.0 if scale <= 1 else 0.1 * m * math.log(scale) + 1.0
        attention = rope.get("attention_factor")
        if attention is None:
            a, b = rope.get("mscale"), rope.get("mscale_all_dim")
            attention = get_mscale(factor, a) / get_mscale(factor, b) if a and b else get_mscale(factor)
        at = lambda turns: dim * math.log(old / (turns * 2 * math.pi)) / (2 * math.log(base))
        low, high = at(rope.get("beta_fast") or 32), at(rope.get("beta_slow") or 1)
        if rope.get("truncate", True):
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, dim - 1)
        if low == high:
            high += 0.001
        extrapolated = 1 - np.clip((np.arange(dim // 2) - low) / (high - low), 0, 1)
        return inv / factor * (1 - extrapolated) + inv * extrapolated, attention
    if kind == "longrope":
        factor = rope.get("factor") or positions / old
        attention = rope.get("attention_factor")
        if attention is None:
            attention = 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(old))
        factors = rope["long_factor" if length > old else "short_factor"]
        return inv / np.array(factors), attention
    assert kind in ("default", "dynamic") and length <= positions
    return inv, 1.0


# --------------------------------------------------------------------------------------------------------- forward


def rotate(x, rope):
    inv, factor = rope
    angle = np.arange(len(x))[:, None] * np.concatenate([inv, inv])[None]
    n, half = 2 * len(inv), len(inv)
    turned, rest = x[:, :n], x[:, n:]
    swapped = np.concatenate([-turned[:, half:], turned[:, :half]], 1)
    return np.concatenate([turned * np.cos(angle) * factor + swapped * np.sin(angle) * factor, rest], 1)


def silu(x):
    return x / (1 + np.exp(-x))


erf = np.vectorize(math.erf, otypes=[float])


def gelu(x):
    return 0.5 * x * (1 + erf(x / np.sqrt(2.0)))


def gelu_tanh(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


# Names of transformers' ACT2CLS.
ACTIVATIONS = {"silu": silu, "swish": silu, "relu": lambda x: np.maximum(x, 0), "gelu": gelu, "gelu_python": gelu,
               "gelu_new": gelu_tanh, "gelu_fast": gelu_tanh, "gelu_pytorch_tanh": gelu_tanh, "gelu_accurate": gelu_tanh}


def forward(config, w, ids):
    s, w = Settings(config), {name: value.astype(np.float64) for name, value in w.items()}
    gemma, length = s.kind.startswith("gemma"), len(ids)
    act = ACTIVATIONS[s.c.get("hidden_activation", "gelu_pytorch_tanh") if gemma else s.c.get("hidden_act", "silu")]

    def norm(x, name):
        weight = w[name + ".weight"] + gemma
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + s.eps) * weight

    def linear(x, name):
        y = x @ w[name + ".weight"].T
        return y + w[name + ".bias"] if name + ".bias" in w else y

    def attention(x, p, block):
        d = s.dim
        if s.kind == "phi3":
            q, k, v = np.split(linear(x, p + "qkv_proj"), [s.heads * d, (s.heads + s.kv_heads) * d], axis=1)
        else:
            q, k, v = (linear(x, f"{p}{c}_proj") for c in "qkv")
        if s.kind in ("olmo2", "olmoe"):
            q, k = norm(q, p + "q_norm"), norm(k, p + "k_norm")
        rope, window, out = s.rope(block, length), s.windows[block], []
        distance = np.arange(length)[:, None] - np.arange(length)[None]
        hidden = (distance < 0) | (distance >= (window or length))
        for h in range(s.heads):
            g = h // (s.heads // s.kv_heads)
            qh, kh, vh = q[:, h * d : (h + 1) * d], k[:, g * d : (g + 1) * d], v[:, g * d : (g + 1) * d]
            if s.kind in ("qwen3", "qwen3_moe", "gemma3_text"):
                qh, kh = norm(qh, p + "q_norm"), norm(kh, p + "k_norm")
            if rope:
                qh, kh = rotate(qh, rope), rotate(kh, rope)
            scores = qh @ kh.T * s.scale
            if s.kind == "gemma2" and s.c["attn_logit_softcapping"]:
                scores = np.tanh(scores / s.c["attn_logit_softcapping"]) * s.c["attn_logit_softcapping"]
            scores = np.where(hidden, -np.inf, scores)
            e = np.exp(scores - scores.max(-1, keepdims=True))
            out.append(e / e.sum(-1, keepdims=True) @ vh)
        return linear(np.concatenate(out, 1), p + "o_proj")

    def gated(x, p):
        return linear(act(linear(x, p + "gate_proj")) * linear(x, p + "up_proj"), p + "down_proj")

    def mlp(x, p):
        if s.kind == "phi3":
            gate, up = np.split(linear(x, p + "gate_up_proj"), 2, axis=1)
            return linear(act(gate) * up, p + "down_proj")
        if "num_experts" not in s.c:
            return gated(x, p)
        router = linear(x, p + "gate")
        prob = np.exp(router - router.max(-1, keepdims=True))
        prob = prob / prob.sum(-1, keepdims=True)
        y = []
        for t in range(length):
            chosen = np.argsort(-prob[t], kind="stable")[: s.c["num_experts_per_tok"]]
            total = prob[t, chosen].sum() if s.c["norm_topk_prob"] else 1.0
            y.append(sum(prob[t, e] / total * gated(x[t : t + 1], f"{p}experts.{e}.") for e in chosen))
        return np.concatenate(y, 0)

    x = w["model.embed_tokens.weight"][ids] * (math.sqrt(s.c["hidden_size"]) if gemma else 1.0)
    for n in range(s.layers):
        p = f"model.layers.{n}."
        if s.kind == "olmo2":
            x = x + norm(attention(x, p + "self_attn.", n), p + "post_attention_layernorm")
            x = x + norm(mlp(x, p + "mlp."), p + "post_feedforward_layernorm")
        elif gemma:
            x = x + norm(attention(norm(x, p + "input_layernorm"), p + "self_attn.", n), p + "post_attention_layernorm")
            x = x + norm(mlp(norm(x, p + "pre_feedforward_layernorm"), p + "mlp."), p + "post_feedforward_layernorm")
        else:
            x = x + attention(norm(x, p + "input_layernorm"), p + "self_attn.", n)
            x = x + mlp(norm(x, p + "post_attention_layernorm"), p + "mlp.")
    logits = norm(x, "model.norm") @ w["model.embed_tokens.weight" if s.tied else "lm_head.weight"].T
    cap = s.c.get("final_logit_softcapping") if gemma else None
    return np.tanh(logits / cap) * cap if cap else logits


# --------------------------------------------------------------------------------------------------- random models


def random_weights(config, rng):
    """Weights large enough that a wrong rotation, mask, head or cap moves the logits by far more than rounding."""
    s, w, kind = Settings(config), {}, config["model_type"]
    d, q, kv, inter = config["hidden_size"], s.heads * s.dim, s.kv_heads * s.dim, config["intermediate_size"]
    mean = 0.0 if kind.startswith("gemma") else 1.0

    def linear(name, rows, cols, biased=False):
        w[name + ".weight"] = (rng.standard_normal((rows, cols)) * (1.5 / np.sqrt(cols))).astype(np.float32)
        if biased:
            w[name + ".bias"] = rng.standard_normal(rows).astype(np.float32)

    def norm(name, size):
        w[name + ".weight"] = rng.uniform(mean - 0.5, mean + 0.5, size).astype(np.float32)

    w["model.embed_tokens.weight"] = rng.standard_normal((config["vocab_size"], d)).astype(np.float32)
    if kind.startswith("gemma"):
        w["model.embed_tokens.weight"] /= np.float32(np.sqrt(d))
    norm("model.norm", d)
    if not s.tied:
        linear("lm_head", config["vocab_size"], d)
    for n in range(s.layers):
        p = f"model.layers.{n}."
        biased = kind == "qwen2" or config.get("attention_bias", False)
        if kind == "phi3":
            linear(p + "self_attn.qkv_proj", q + 2 * kv, d)
        else:
            for name, rows in (("q", q), ("k", kv), ("v", kv)):
                linear(f"{p}self_attn.{name}_proj", rows, d, biased)
        linear(p + "self_attn.o_proj", d, q, biased and kind != "qwen2")
        if kind in ("qwen3", "qwen3_moe", "gemma3_text"):
            norm(p + "self_attn.q_norm", s.dim), norm(p + "self_attn.k_norm", s.dim)
        if kind in ("olmo2", "olmoe"):
            norm(p + "self_attn.q_norm", q), norm(p + "self_attn.k_norm", kv)
        norms = {"olmo2": ["post_attention", "post_feedforward"],
                 "gemma2": ["input", "post_attention", "pre_feedforward", "post_feedforward"]}
        for name in norms.get({"gemma3_text": "gemma2"}.get(kind, kind), ["input", "post_attention"]):
            norm(p + name + "_layernorm", d)
        if kind == "phi3":
            linear(p + "mlp.gate_up_proj", 2 * inter, d), linear(p + "mlp.down_proj", d, inter)
        elif "num_experts" in s.c:
            inner = s.c["moe_intermediate_size"] if kind == "qwen3_moe" else inter
            linear(p + "mlp.gate", s.c["num_experts"], d)
            for e in range(s.c["num_experts"]):
                for name, rows, cols in (("gate", inner, d), ("up", inner, d), ("down", d, inner)):
                    linear(f"{p}mlp.experts.{e}.{name}_proj", rows, cols)
        else:
            for name, rows, cols in (("gate", inter, d), ("up", inter, d), ("down", d, inter)):
                linear(f"{p}mlp.{name}_proj", rows, cols, config.get("mlp_bias", False))
    return w


def stacked(w):
    """Experts as Qwen3MoeExperts and OlmoeExperts of transformers 5 hold them, see its conversion_mapping.py; none if w has none."""
    out, matrices = {}, {}
    for name, value in w.items():
        if ".experts." in name:
            head, tail = name.split(".experts.")
            number, part = tail.split(".", 1)
            matrices.setdefault(head + ".experts.", {}).setdefault(part.removesuffix("_proj.weight"), []).append((int(number), value))
        else:
            out[name] = value
    for prefix, parts in matrices.items():
        gate, up, down = (np.stack([value for _, value in sorted(parts[p], key=lambda x: x[0])]) for p in ("gate", "up", "down"))
        out[prefix + "gate_up_proj"], out[prefix + "down_proj"] = np.concatenate([gate, up], 1), down
    return out if matrices else None


def write_folder(folder, config, w, extra=None):
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config | (extra or {})))
    save_file(w, folder / "model.safetensors", metadata={"format": "pt"})


VISION = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28, "patch_size": 14}


def multimodal(config, w, root, head):
    """Configuration and tensors of the model whose text part this is: Gemma3Config; none for other types."""
    if config["model_type"] != "gemma3_text" or config.get("final_logit_softcapping"):  # the whole model does not cap its logits
        return None
    outer = {"model_type": "gemma3", "text_config": config, "vision_config": VISION, "mm_tokens_per_image": 4, "image_token_index": 90}
    if "tie_word_embeddings" in config:
        outer["tie_word_embeddings"] = config["tie_word_embeddings"]
    names = {name: root + name.removeprefix("model.") if name.startswith("model.") else head for name in w}
    beside = root.split("language_model.")[0]
    tower = np.full((3, 16), np.float32(np.nan))  # of no use to the text
    return outer, {names[name]: value for name, value in w.items()} | {beside + "vision_tower.vision_model.post_layernorm.weight": tower,
                                                                      beside + "multi_modal_projector.mm_input_projection_weight": tower}


# ------------------------------------------------------------------------------------- GGUF as llama.cpp's converter has it

ARCHITECTURES = {"mistral": "llama", "gemma3_text": "gemma3", "qwen3_moe": "qwen3moe"}


def permute(w, heads):  # conversion/llama.py
    return w.reshape(heads, 2, w.shape[0] // heads // 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)


def write_gguf(path, config, w):
    s, c = Settings(config), Settings(config).c
    arch = ARCHITECTURES.get(s.kind, s.kind)
    out = gguf.GGUFWriter(path, arch)
    out.add_block_count(s.layers), out.add_context_length(c["max_position_embeddings"])
    out.add_embedding_length(c["hidden_size"]), out.add_feed_forward_length(c["intermediate_size"])
    out.add_head_count(s.heads), out.add_head_count_kv(s.kv_heads), out.add_layer_norm_rms_eps(s.eps)
    rope, local = s.ropes
    out.add_rope_freq_base(rope["rope_theta"])
    kind = rope.get("rope_type", rope.get("type", "default"))
    if c.get("head_dim"):
        out.add_key_length(s.dim), out.add_value_length(s.dim)
    if arch in ("llama", "smollm3"):
        out.add_vocab_size(c["vocab_size"]), out.add_rope_dimension_count(s.dim)
    if kind == "linear":
        out.add_rope_scaling_type(gguf.RopeScalingType.LINEAR), out.add_rope_scaling_factor(rope["factor"])
    if kind == "yarn":
        out.add_rope_scaling_type(gguf.RopeScalingType.YARN), out.add_rope_scaling_factor(rope["factor"])
        out.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
    if kind == "llama3":
        plain = inverse_frequencies({"rope_theta": rope["rope_theta"]}, s, 1)[0]
        out.add_tensor("rope_freqs.weight", (plain / inverse_frequencies(rope, s, 1)[0]).astype(np.float32))
    if s.kind == "gemma2":
        out.add_attn_logit_softcapping(c["attn_logit_softcapping"])
    if s.kind.startswith("gemma"):
        out.add_sliding_window(c["sliding_window"])
        if c.get("final_logit_softcapping"):
            out.add_final_logit_softcapping(c["final_logit_softcapping"])
    if s.kind == "phi3":
        old = rope["original_max_position_embeddings"]
        out.add_rope_dimension_count(int(rope["partial_rotary_factor"] * s.dim))
        out.add_sliding_window(c.get("sliding_window") or 0), out.add_rope_scaling_orig_ctx_len(old)
        if "long_factor" in rope:
            scale = c["max_position_embeddings"] / old
            out.add_rope_scaling_attn_factors(math.sqrt(1 + math.log(scale) / math.log(old)) if scale > 1 else 1.0)
            for name in ("long", "short"):
                out.add_tensor(f"rope_factors_{name}.weight", np.array(rope[name + "_factor"], np.float32))
    if "num_experts" in c:
        out.add_expert_count(c["num_experts"]), out.add_expert_used_count(c["num_experts_per_tok"])
    if s.kind == "qwen3_moe":
        out.add_expert_feed_forward_length(c["moe_intermediate_size"])
    number_of = {name: number for number, name in gguf.MODEL_ARCH_NAMES.items()}
    names = gguf.get_tensor_name_map(number_of[arch], s.layers)
    stacked = {}
    for name, value in w.items():
        if s.kind.startswith("gemma") and name.endswith("norm.weight"):
            value = value + np.float32(1)
        if arch in ("llama", "smollm3") and ".self_attn.q_proj." in name:
            value = permute(value, s.heads)
        if arch in ("llama", "smollm3") and ".self_attn.k_proj." in name:
            value = permute(value, s.kv_heads)
        if ".experts." in name:
            head, tail = name.split(".experts.")
            stacked.setdefault(f"{head}.experts.{tail.split('.', 1)[1]}", []).append(value)
            continue
        out.add_tensor(names.get_name(name, (".weight", ".bias")), np.ascontiguousarray(value))
    for name, values in stacked.items():
        out.add_tensor(names.get_name(name, (".weight",)), np.stack(values))
    out.write_header_to_file(), out.write_kv_data_to_file(), out.write_tensors_to_file(), out.close()


# --------------------------------------------------------------------------------------------------------- commands


def small(kind, **changes):
    config = {"model_type": kind, "vocab_size": 97, "hidden_size": 48, "intermediate_size": 40, "num_hidden_layers": 2,
              "num_attention_heads": 6, "num_key_value_heads": 2, "max_position_embeddings": 256, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    if kind in ("qwen3", "gemma2", "gemma3_text"):
        config["head_dim"] = 16
    if kind == "qwen3_moe":
        config |= {"head_dim": 8, "moe_intermediate_size": 24, "num_experts": 5, "num_experts_per_tok": 2}
    if kind == "olmoe":
        config |= {"num_experts": 5, "num_experts_per_tok": 3}
    return config | changes


LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "beta_fast": 4, "beta_slow": 0.1}
FACTORS = {"short_factor": [1.0, 1.1, 1.3], "long_factor": [1.0, 2.0, 5.0]}

# title, tokens of a window, configuration, whether llama.cpp computes the same of its own file
CASES = [
    ("llama, llama3 positions", 60, small("llama", rope_theta=500.0, rope_scaling={**LLAMA3, "original_max_position_embeddings": 32}), True),
    ("llama, original context beside", 60, small("llama", rope_theta=500.0, rope_scaling=LLAMA3, original_max_position_embeddings=32), True),
    ("llama, original beside wins", 60, small("llama", rope_theta=500.0, rope_scaling={**LLAMA3, "original_max_position_embeddings": 99}, original_max_position_embeddings=32), True),
    ("llama, no original context", 60, small("llama", rope_theta=500.0, rope_scaling=LLAMA3), True),
    ("llama, yarn", 60, small("llama", rope_parameters={"rope_theta": 500.0, **YARN}), False),
    ("llama, yarn, by default betas", 60, small("llama", rope_theta=30.0, rope_scaling={"type": "yarn", "factor": 2.0, "original_max_position_embeddings": 128}), True),
    ("llama, yarn, all its keys", 60, small("llama", rope_theta=500, rope_scaling={**YARN, "truncate": False, "mscale": 1.0, "mscale_all_dim": 0.5}), False),
    ("llama, yarn, attention factor", 60, small("llama", rope_theta=500, rope_scaling={**YARN, "attention_factor": 1.5}), False),
    ("llama, both type keys", 60, small("llama", rope_scaling={"type": "default", "rope_type": "linear", "factor": 2}), True),
    ("llama, both objects", 60, small("llama", rope_parameters={"rope_type": "default", "rope_theta": 50.0}, rope_scaling={"type": "linear", "factor": 2.0, "rope_theta": 70.0}), True),
    ("llama, dynamic, within", 60, small("llama", rope_scaling={"type": "dynamic", "factor": 2.0}), False),
    ("llama, biases", 23, small("llama", attention_bias=True, mlp_bias=True), False),
    ("llama, gelu", 23, small("llama", hidden_act="gelu"), False),
    ("qwen3, gelu_new", 23, small("qwen3", hidden_act="gelu_new"), False),
    ("olmo2, relu", 23, small("olmo2", hidden_act="relu"), False),
    ("phi3, gelu_fast", 23, small("phi3", hidden_act="gelu_fast"), False),
    ("olmoe, gelu_pytorch_tanh", 23, small("olmoe", hidden_act="gelu_pytorch_tanh"), False),
    ("gemma2, gelu", 23, small("gemma2", hidden_act="silu", hidden_activation="gelu"), False),
    ("mistral, window", 150, small("mistral", sliding_window=70), False),
    ("mistral, window of 1", 9, small("mistral", sliding_window=1), False),
    ("mistral, window of 4096 by default", 4200, small("mistral", vocab_size=11, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, num_key_value_heads=1, max_position_embeddings=8192), False),
    ("mistral, null window", 23, small("mistral", sliding_window=None), True),
    ("qwen2, upper layers slide", 60, small("qwen2", use_sliding_window=True, sliding_window=7, max_window_layers=1), False),
    ("qwen2, no layer slides", 60, small("qwen2", use_sliding_window=True, sliding_window=7, max_window_layers=2), True),
    ("qwen2, windows off", 60, small("qwen2", use_sliding_window=False, sliding_window=7, max_window_layers=0), True),
    ("qwen3, layer types, bias", 60, small("qwen3", use_sliding_window=True, sliding_window=7, attention_bias=True, layer_types=["sliding_attention", "full_attention"]), False),
    ("smollm3", 40, small("smollm3", num_hidden_layers=5), True),
    ("smollm3, own list, windows", 40, small("smollm3", no_rope_layers=[0, 1], use_sliding_window=True, sliding_window=7, rope_theta=300.0, tie_word_embeddings=False), False),
    ("olmo2", 40, small("olmo2", rope_parameters={"rope_type": "default", "rope_theta": 500.0}), True),
    ("olmo2, yarn, biases, tied", 40, small("olmo2", rope_theta=30.0, rope_scaling={"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 128}, attention_bias=True, tie_word_embeddings=True), False),
    ("gemma2", 60, small("gemma2", sliding_window=7, query_pre_attn_scalar=16, attn_logit_softcapping=5.0, final_logit_softcapping=3.0), True),
    ("gemma2, no caps, own head", 150, small("gemma2", query_pre_attn_scalar=24, attn_logit_softcapping=None, final_logit_softcapping=None, tie_word_embeddings=False, rope_theta=500.0), False),
    ("gemma3, two tables", 60, small("gemma3_text", num_hidden_layers=7, sliding_window=7, query_pre_attn_scalar=16, rope_parameters={"full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 5000.0}, "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0}}), True),
    ("gemma3, older spelling", 60, small("gemma3_text", num_hidden_layers=3, sliding_window=7, sliding_window_pattern=2, query_pre_attn_scalar=20, rope_theta=5000.0, rope_local_base_freq=70.0, rope_scaling={"factor": 8.0, "rope_type": "linear"}, final_logit_softcapping=4.0, attention_bias=True), False),
    ("gemma3, own head", 30, small("gemma3_text", sliding_window=7, query_pre_attn_scalar=16, tie_word_embeddings=False), False),
    ("phi3, fused, window", 60, small("phi3", sliding_window=9), False),
    ("phi3, a part of heads rotated", 40, small("phi3", partial_rotary_factor=0.75, sliding_window=None, tie_word_embeddings=True), True),
    ("phi3, longrope, short text", 60, small("phi3", partial_rotary_factor=0.75, original_max_position_embeddings=64, rope_scaling={"type": "longrope", **FACTORS}), True),
    ("phi3, longrope, long text", 80, small("phi3", partial_rotary_factor=0.75, original_max_position_embeddings=64, rope_scaling={"type": "su", "original_max_position_embeddings": 64, **FACTORS}), True),
    ("qwen3_moe", 40, small("qwen3_moe", norm_topk_prob=True), True),
    ("qwen3_moe, weights as they are", 40, small("qwen3_moe", use_sliding_window=True, sliding_window=7, max_window_layers=1), False),
    ("olmoe", 40, small("olmoe"), True),
]


def dumped(dump, path, length, ids):
    done = subprocess.run([dump, path, "logits", str(length), *map(str, ids)], capture_output=True, text=True)
    assert done.returncode == 0, (path.name, done.stderr)
    return np.array([line.split() for line in done.stdout.splitlines()], dtype=np.float64), done.stderr


def families(dump):
    rng, worst = np.random.default_rng(11), 0.0
    with tempfile.TemporaryDirectory() as temporary:
        for number, (title, length, config, in_llama_cpp) in enumerate(CASES):
            w = random_weights(config, rng)
            ids = rng.integers(0, config["vocab_size"], 2 * length)
            want = np.concatenate([forward(config, w, ids[:length]), forward(config, w, ids[length:])])
            folder, file = Path(temporary) / str(number), Path(temporary) / f"{number}.gguf"
            write_folder(folder, config, w)
            if in_llama_cpp:
                write_gguf(file, config, w)
            other = stacked(w)
            if other:
                write_folder(Path(temporary) / f"{number}.stacked", config, other)
            paths = [folder] + [file] * in_llama_cpp + [Path(temporary) / f"{number}.stacked"] * bool(other)
            for form, root, head in (("hub", "language_model.model.", "language_model.lm_head.weight"), ("whole", "model.language_model.", "lm_head.weight")):
                if multimodal(config, w, root, head):
                    paths.append(Path(temporary) / f"{number}.{form}")
                    write_folder(paths[-1], *multimodal(config, w, root, head))
            for path in paths:
                have, said = dumped(dump, path, length, ids)
                error = np.abs(have - want).max() / np.abs(want).max()
                worst = max(worst, error)
                print(f"{title:36} {path.suffix[1:] or 'folder':7} relative error {error:.2e}")
                assert have.shape == want.shape and error < 1e-5, (title, error)
                assert "not known" not in said, (title, said)
                assert ("vision_tower" in said and "text model" in said) == (path.suffix in (".hub", ".whole")), (title, said)
    print(f"worst {worst:.2e}")


def by_transformers(dump):
    """Logits of transformers in float32 against those of slim-llm (or of this file, if DUMP is -)."""
    import torch
    import transformers

    print("transformers", transformers.__version__, "torch", torch.__version__)
    rng, worst = np.random.default_rng(11), 0.0
    with tempfile.TemporaryDirectory() as temporary:
        for number, (title, length, config, _) in enumerate(CASES):
            w, folder = random_weights(config, rng), Path(temporary) / str(number)
            ids = rng.integers(0, config["vocab_size"], length)
            write_folder(folder, config, w)
            forms = [(title, config, w), (title + ", stacked", config, stacked(w))]
            hub = multimodal(config, w, "language_model.model.", "language_model.lm_head.weight")
            if hub:
                forms.append((title + ", multimodal", hub[0], {name: value for name, value in hub[1].items() if name.startswith("language")}))
            for title, written, form in forms:
                if form is None:
                    continue
                if form is not w:
                    folder = Path(temporary) / f"{number}.{title[-5:]}"
                    write_folder(folder, written, form)
                made = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
                with torch.no_grad():
                    want = made(torch.tensor(ids[None])).logits[0].double().numpy()
                have = forward(config, w, ids) if dump == "-" else dumped(dump, folder, length, ids)[0]
                error = np.abs(have - want).max() / np.abs(want).max()
                worst = max(worst, error)
                print(f"{title:36} relative error {error:.2e}")
    print(f"worst {worst:.2e}")
    assert worst < 1e-4


def twice(dump):
    """Folders that say one thing twice, or more than a model needs: the logits of what transformers makes of them, with a
    sentence that names what was passed over; or a refusal that names it."""
    rng, plain = np.random.default_rng(5), small("llama")
    w = random_weights(plain, rng)
    experts = random_weights(small("qwen3_moe"), np.random.default_rng(6))
    gemma = small("gemma3_text")
    gemma_w = random_weights(gemma, np.random.default_rng(7))
    outer, whole = multimodal(gemma, gemma_w, "language_model.model.", "language_model.lm_head.weight")
    tied = {name: value for name, value in w.items() if name != "lm_head.weight"}
    biased_config = small("llama", attention_bias=True)
    biased = random_weights(biased_config, rng)
    inv = np.ones(4, np.float32)
    bare = {name.removeprefix("model."): value for name, value in w.items()}
    text = lambda config: json.dumps(config)

    def index(folder):  # its shards are not there
        weight_map = {name: f"model-{1 + k % 2:05}-of-00002.safetensors" for k, name in enumerate(w)}
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))

    def header(change):
        def edit(folder):
            file = folder / "model.safetensors"
            raw = file.read_bytes()
            size = int.from_bytes(raw[:8], "little")
            spelled = json.dumps(change(json.loads(raw[8 : 8 + size]))).encode()
            spelled += b" " * (-len(spelled) % 8)
            file.write_bytes(len(spelled).to_bytes(8, "little") + spelled + raw[8 + size :])
        return edit

    nothing = lambda folder: None
    non_number = lambda name, at, value: {**w, name: np.where(np.arange(w[name].size).reshape(w[name].shape) == at, np.float32(value), w[name])}
    up = "model.layers.1.mlp.up_proj.weight"
    # title, config.json, tensors, edit of the folder, configuration and tensors of the right logits (none: refused), words
    cases = [
        ("tied head differs", {**plain, "tie_word_embeddings": True}, w, nothing, (plain, w), ["tie_word_embeddings", "lm_head.weight"]),
        ("tied head is the embedding", {**plain, "tie_word_embeddings": True}, {**tied, "lm_head.weight": w["model.embed_tokens.weight"].copy()}, nothing, ({**plain, "tie_word_embeddings": True}, tied), []),
        ("no head", plain, tied, nothing, None, ["lm_head.weight", "tie_word_embeddings"]),
        ("biases denied", {**plain, "attention_bias": False}, biased, nothing, None, ["self_attn.q_proj.bias", "attention_bias"]),
        ("biases missing", biased_config, w, nothing, None, ["self_attn.q_proj.bias"]),
        ("index without its shards", plain, w, index, (plain, w), ["model.safetensors.index.json"]),
        ("metadata null", plain, w, header(lambda h: {**h, "__metadata__": None}), (plain, w), []),
        ("buffer of positions", plain, {**w, "model.rotary_emb.inv_freq": inv, "model.layers.0.self_attn.rotary_emb.inv_freq": inv}, nothing, (plain, w), ["passed over", "inv_freq"]),
        ("empty tensor and step", plain, {**w, "empty": np.zeros((0, 4), np.float32), "model.step": np.array([7])}, nothing, (plain, w), ["passed over", "empty"]),
        ("tensor of nobody", plain, {**w, "model.gate.weight": inv}, nothing, None, ["model.gate.weight", "no place"]),
        ("a block too many", {**plain, "num_hidden_layers": 1}, w, nothing, None, ["model.layers.1.", "1 blocks"]),
        ("infinity, NaN", plain, w, lambda f: (f / "config.json").write_text(text(plain)[:-1] + ', "x": Infinity, "y": NaN, "z": -Infinity}'), (plain, w), ["'x', 'y', 'z'", "not known"]),
        ("infinity where it counts", plain, w, lambda f: (f / "config.json").write_text(text(plain)[:-1] + ', "rms_norm_eps": Infinity}'), None, ["rms_norm_eps", "Infinity"]),
        ("no JSON", plain, w, lambda f: (f / "config.json").write_text('{"model_type": "llama",\n "hidden_size": 3,,}'), None, ["config.json", "line 2"]),
        ("unknown key", {**plain, "fancy_new_norm": True}, w, nothing, (plain, w), ["'fancy_new_norm'", "not known"]),
        ("harmless keys", {**plain, "torch_dtype": "float32", "pretraining_tp": 2, "top_p": 0.9, "attention_dropout": 0.1, "final_logit_softcapping": None, "use_qk_norm": False, "layer_types": []}, w, nothing, (plain, w), []),
        ("cap of another type", {**plain, "final_logit_softcapping": 30.0}, w, nothing, None, ["final_logit_softcapping", "30.0"]),
        ("multimodal, flag twice", {**outer, "tie_word_embeddings": False, "text_config": {**gemma, "tie_word_embeddings": True}}, whole, nothing, None, ["tie_word_embeddings", "text_config", "twice"]),
        ("multimodal, a key of the text", {**outer, "text_config": {**gemma, "fancy_new_norm": 1, "query_pre_attn_scalar": "x"}}, whole, nothing, None, ["text_config", "query_pre_attn_scalar"]),
        ("multimodal, capped logits", {**outer, "text_config": {**gemma, "final_logit_softcapping": 4.0}}, whole, nothing, None, ["text_config", "final_logit_softcapping"]),
        ("multimodal, unknown part", outer, {**whole, "audio_tower.weight": inv}, nothing, None, ["audio_tower.weight", "no place"]),
        ("vision without a vision model", gemma, {**gemma_w, "vision_tower.weight": inv}, nothing, None, ["vision_tower.weight", "no place"]),
        ("rotary base twice", {**plain, "rope_theta": 30.0, "rope_parameters": {"rope_type": "default", "rope_theta": 500.0}}, w, nothing, ({**plain, "rope_theta": 500.0}, w), ["rope_theta", "rope_parameters", "differs", "in it"]),
        ("rotary base twice, the same", {**plain, "rope_theta": 500, "rope_parameters": {"rope_type": "default", "rope_theta": 500.0}}, w, nothing, ({**plain, "rope_theta": 500.0}, w), []),
        ("original context twice", {**plain, "rope_scaling": {**LLAMA3, "original_max_position_embeddings": 99}, "original_max_position_embeddings": 32}, w, nothing, ({**plain, "rope_scaling": {**LLAMA3, "original_max_position_embeddings": 32}}, w), ["original_max_position_embeddings", "rope_scaling", "beside it"]),
        ("experts stacked with another size", {**small("qwen3_moe"), "moe_intermediate_size": 12}, stacked(experts), nothing, None, ["experts.gate_up_proj", "5 x 48 x 48", "5 x 24 x 48"]),
        ("experts stacked in one block", small("qwen3_moe"), {**experts, "model.layers.1.mlp.experts.down_proj": stacked(experts)["model.layers.1.mlp.experts.down_proj"]}, nothing, None, ["model.layers.1.mlp.experts.down_proj", "no place"]),
        ("experts of another type", {**plain, "num_local_experts": 8}, w, nothing, None, ["num_local_experts"]),
        ("layers of another kind", {**small("qwen2"), "layer_types": ["full_attention", "chunked_attention"]}, w, nothing, None, ["chunked_attention"]),
        ("window without a size", {**small("qwen2"), "layer_types": ["full_attention", "sliding_attention"]}, w, nothing, None, ["sliding_attention", "use_sliding_window"]),
        ("partial rotation", {**plain, "partial_rotary_factor": 0.5}, w, nothing, None, ["partial_rotary_factor"]),
        ("llama3 without a factor", {**plain, "rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, w, nothing, None, ["rope_scaling", "low_freq_factor"]),
        ("longrope, too few factors", {**plain, "rope_scaling": {"type": "longrope", "short_factor": [1], "long_factor": [1, 1, 1, 1]}}, w, nothing, None, ["longrope", "4", "1"]),
        ("unknown key of positions", {**plain, "rope_scaling": {"type": "linear", "factor": 1.0, "finetuned": True}}, w, nothing, (plain, w), ["rope_scaling", "'finetuned'"]),
        ("both objects differ", {**plain, "rope_scaling": {"type": "linear", "factor": 1.0}, "rope_parameters": {"rope_type": "default"}}, w, nothing, (plain, w), ["rope_scaling", "rope_parameters"]),
        ("NaN in a linear", plain, non_number(up, 5 * 48 + 7, np.nan), nothing, None, [up, "row 5", "column 7"]),
        ("infinity in the head", plain, non_number("lm_head.weight", 49, -np.inf), nothing, None, ["lm_head.weight", "row 1", "column 1"]),
        ("NaN in a norm", plain, non_number("model.norm.weight", 3, np.nan), nothing, None, ["model.norm.weight", "column 3"]),
        ("too large for a float", plain, {**w, up: w[up].astype(np.float64) * 1e300}, nothing, None, [up, "too large"]),
        ("the bare decoder", {**plain, "tie_word_embeddings": True}, {name: v for name, v in bare.items() if name != "lm_head.weight"}, nothing, ({**plain, "tie_word_embeddings": True}, tied), []),
    ]
    ids = rng.integers(0, plain["vocab_size"], 20)
    with tempfile.TemporaryDirectory() as temporary:
        for number, (title, config, tensors, edit, right, words) in enumerate(cases):
            folder = Path(temporary) / str(number)
            write_folder(folder, config, tensors)
            edit(folder)
            if right:
                have, said = dumped(dump, folder, len(ids), ids)
                error = np.abs(have - forward(*right, ids)).max() / np.abs(have).max()
                assert error < 1e-5, (title, error)
                assert words or not said, (title, said)
            else:
                done = subprocess.run([dump, folder, "config"], capture_output=True, text=True)
                said = done.stderr
                assert done.returncode == 1, (title, done)
            said = said.strip().replace(temporary, "")
            print(f"{title:28} {'read' if right else 'refused'}  {said}")
            assert all(word in said for word in words), (title, words, said)


if __name__ == "__main__":
    commands = {"families": families, "twice": twice, "transformers": by_transformers}
    if len(sys.argv) < 3 or sys.argv[1] not in commands:
        sys.exit(__doc__)
    commands[sys.argv[1]](*sys.argv[2:])
