#!/usr/bin/env python3
"""Gradients of slim-llm's models once more: the NumPy forward passes of family_oracle.py and model_oracle.py in float64,
differentiated by HIPS autograd. Every linear gets an adapter, which the oracle folds into the weight: gradients of weights, biases,
factors, norms and embedded tokens, by cross entropy and by the divergence from another model, with and without recomputing.

    gradient_oracle.py DUMP

Exit status 77: a Python package is missing (skip)."""

import subprocess
import sys
import tempfile
from pathlib import Path

try:
    import autograd.numpy as anp
    import gguf
    import numpy as np
    from autograd import grad
    from autograd.extend import defvjp, primitive

    import family_oracle
    import model_oracle
except ImportError as missing:
    print(f"skipped: {missing}")
    sys.exit(77)

family_oracle.np = model_oracle.np = anp  # their forward passes become differentiable
family_oracle.erf = primitive(family_oracle.erf)
defvjp(family_oracle.erf, lambda y, x: lambda g: g * 2 / np.sqrt(np.pi) * np.exp(-x * x))
small = family_oracle.small

FAMILIES = [
    ("llama, llama3 positions, gguf", 20, small("llama", rope_theta=500.0, tie_word_embeddings=False, rope_scaling={**family_oracle.LLAMA3, "original_max_position_embeddings": 32})),
    ("llama, biases, tied head", 17, small("llama", attention_bias=True, mlp_bias=True, tie_word_embeddings=True)),
    ("llama, gelu", 17, small("llama", hidden_act="gelu")),
    ("llama, relu", 17, small("llama", hidden_act="relu")),
    ("mistral, window, two tiles", 150, small("mistral", sliding_window=70, vocab_size=53)),
    ("qwen2", 20, small("qwen2")),
    ("qwen3", 20, small("qwen3")),
    ("smollm3", 20, small("smollm3", num_hidden_layers=4)),
    ("olmo2", 20, small("olmo2")),
    ("gemma2", 20, small("gemma2", sliding_window=7, query_pre_attn_scalar=16, attn_logit_softcapping=5.0, final_logit_softcapping=3.0)),
    ("gemma3", 20, small("gemma3_text", sliding_window=7, sliding_window_pattern=2, query_pre_attn_scalar=16)),
    ("phi3, a part of heads rotated", 20, small("phi3", partial_rotary_factor=0.75, sliding_window=9)),
    ("qwen3_moe, normalized", 20, small("qwen3_moe", norm_topk_prob=True)),
    ("qwen3_moe", 20, small("qwen3_moe")),
    ("olmoe", 20, small("olmoe")),
]


def models(rng):
    """title, tokens of a window, how to write it, its numbers, logits(w, ids), factor of embeddings"""
    for title, length, config in FAMILIES:
        def run(w, ids, config=config):
            return family_oracle.forward(config | {"tie_word_embeddings": False}, w, ids)
        scale = np.sqrt(config["hidden_size"]) if config["model_type"].startswith("gemma") else 1.0
        write = family_oracle.write_gguf if title.endswith("gguf") else family_oracle.write_folder
        yield title, length, lambda path, w, config=config, write=write: write(path, config, w), \
            lambda config=config: family_oracle.random_weights(config, rng), run, scale
    for title, before, embed, act in (("opt", True, None, "relu"), ("opt, norms behind, projections", False, 16, "relu"), ("opt, gelu", True, None, "gelu")):
        cfg, _ = model_oracle.random_opt(rng, before, embed, act=act)
        yield title, 20, lambda path, w, cfg=cfg: model_oracle.write_folder(path, cfg, w, 5), \
            lambda before=before, embed=embed: model_oracle.random_opt(rng, before, embed)[1], \
            lambda w, ids, cfg=cfg: model_oracle.opt(cfg, w, ids), 1.0


def log_softmax(z):
    top = z.max(-1, keepdims=True)
    return z - top - anp.log(anp.exp(z - top).sum(-1, keepdims=True))


def dumped(dump, path, teacher, length, way, ids):
    done = subprocess.run([dump, path, "gradients", teacher, str(length), way, *map(str, ids)], capture_output=True, text=True)
    assert done.returncode == 0, (path, done.stderr)
    found = {}
    for line in done.stdout.splitlines():
        what, name, rows, cols, numbers = line.split(" ", 4)
        found[what, name] = np.fromstring(numbers, sep=" ").reshape(int(rows), int(cols))
    return done.stdout, found


EMBEDDINGS = ("model.embed_tokens.weight", "model.decoder.embed_tokens.weight")


def check(dump, folder, case, rng):
    title, length, write, draw, run, scale = case
    w, teacher = draw(), draw()
    vocab = next(w[name] for name in EMBEDDINGS if name in w).shape[0]
    write(folder / "student", w), write(folder / "teacher", teacher)
    in_gguf = title.endswith("gguf")
    ids = rng.integers(0, vocab, 2 * length)
    double = lambda w: {name: value.astype(np.float64) for name, value in w.items()}
    opt = "model.decoder.embed_tokens.weight" in w

    def own_head(w):  # so that gradients of embedding and head are apart
        if opt or "lm_head.weight" in w:
            return w
        return w | {"lm_head.weight": w["model.embed_tokens.weight"]}

    worst = 0.0
    for teacher_path in ("-", folder / "teacher"):
        text, found = dumped(dump, folder / "student", teacher_path, length, "recompute", ids)
        kept, _ = dumped(dump, folder / "student", teacher_path, length, "keep", ids)
        assert text == kept, (title, "recomputing changes bits")
        names = {}
        if in_gguf:
            mapped = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 2)
            names = {mapped.get_name(name, (".weight", ".bias")): name for name in w}

        def theirs(name, matrix, rows_are_outputs=True):  # in the order of Hugging Face's rows
            heads = {"attn_q.weight": 6, "attn_k.weight": 2}.get(name.split(".", 2)[-1])
            if not in_gguf or heads is None:
                return matrix
            return model_oracle.unpermute(matrix, heads) if rows_are_outputs else model_oracle.unpermute(matrix.T, heads).T

        start = double(own_head(w))
        factors = {}
        for (what, name), left in found.items():
            if what == "left":
                right = theirs(name, found["right", name], False)
                factors[names.get(name, name)] = (left, right)
                start[names.get(name, name)] = start[names.get(name, name)] + (left @ right).T
        targets = [run(double(own_head(teacher)), ids[:length]), run(double(own_head(teacher)), ids[length:])]

        def loss(w):
            total = 0.0
            for part in range(2):
                tokens = ids[part * length : (part + 1) * length]
                q = log_softmax(run(w, tokens))
                if teacher_path == "-":
                    total = total - anp.sum(q[np.arange(length - 1), tokens[1:]])
                else:
                    p = log_softmax(targets[part])
                    total = total + anp.sum(np.exp(p) * (p - q))
            return total

        want_loss, gradient = loss(start), grad(loss)(start)
        error = abs(found["loss", "-"].sum() - want_loss) / max(abs(want_loss), 1e-9)
        assert error < 1e-5, (title, "loss", error)
        compared, largest = set(), max(np.linalg.norm(g) for g in gradient.values())
        for (what, name), have in found.items():
            full = names.get(name, name)
            if what == "d_weight":
                want = gradient[full]
                have = theirs(name, have)
            elif what == "d_left":  # the loss depends on W + (L R)^T
                want = gradient[full].T @ factors[full][1].T
            elif what == "d_right":
                want, have = factors[full][0].T @ gradient[full].T, theirs(name, have, False)
            elif what == "d_bias":
                want = gradient[full.removesuffix("weight") + "bias"][None]
            elif what == "d_norm":
                want = gradient[full][None]
            elif what == "d_norm_bias":
                want = gradient[full.removesuffix("weight") + "bias"][None]
            elif what == "d_embedded" and not opt:
                want = gradient["model.embed_tokens.weight"]
                have = np.stack([have[ids == token].sum(0) for token in range(vocab)]) * scale
            elif what == "d_embedded":  # positions are added to it
                want = gradient["model.decoder.embed_positions.weight"][2 : length + 2]
                have = have[:length] + have[length:]
            else:
                continue
            compared.add(full.removesuffix("weight") + "bias" if "bias" in what else full)
            size = np.linalg.norm(want)
            if size < 1e-9 * largest:  # 0 but for rounding: softmax does not see a bias of k without rotary positions
                size = largest
            error = np.linalg.norm(have - want) / size
            worst = max(worst, error)
            assert error < 1e-4, (title, what, name, error)
        left = set(w) - compared - {"lm_head.weight", *EMBEDDINGS}  # what is not trained: embeddings, head, router
        assert all("embed_positions" in name or "project_" in name or name.endswith("mlp.gate.weight") for name in left), (title, left)
    print(f"{title:36} {len(compared)} tensors, worst relative error {worst:.2e}")
    return worst


def main():
    rng, worst = np.random.default_rng(18), 0.0
    for case in models(rng):
        with tempfile.TemporaryDirectory() as temporary:
            worst = max(worst, check(sys.argv[1], Path(temporary), case, rng))
    print(f"worst {worst:.2e}")


if __name__ == "__main__":
    main()
