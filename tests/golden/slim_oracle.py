"""slim_oracle.py SLIM_LLM: a second reader of .slim files, written from docs/formats/slim.md alone, against slim-llm.

It makes a small model as a Hugging Face folder, compresses it to a .slim file and, with the same recipe, to a folder of F16 weights
(codes and adapters merged), decodes every linear with NumPy in float64 and compares. Status 77: a package is missing.
"""
import json
import pathlib
import struct
import subprocess
import sys
import tempfile

try:
    import gguf
    import numpy as np
    from safetensors import safe_open
    from safetensors.numpy import load_file, save_file
except ImportError as missing:
    print(missing)
    sys.exit(77)

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import packing_oracle

HIDDEN, INTERMEDIATE, HEADS, KV_HEADS, BLOCKS = 64, 512, 4, 2, 2  # wide enough for codes to get smaller


def byte_characters():
    """GPT-2's printable form of bytes."""
    itself = list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256))
    others = [b for b in range(256) if b not in itself]
    return {b: chr(b) for b in itself} | {b: chr(256 + k) for k, b in enumerate(others)}


def write_model(folder):
    random = np.random.default_rng(5)
    tensors = {"model.norm.weight": np.ones(HIDDEN, np.float32),
               "model.embed_tokens.weight": random.normal(size=(256, HIDDEN)).astype(np.float32)}
    head = HIDDEN // HEADS
    shapes = {"self_attn.q_proj": (HIDDEN, HIDDEN), "self_attn.k_proj": (KV_HEADS * head, HIDDEN),
              "self_attn.v_proj": (KV_HEADS * head, HIDDEN), "self_attn.o_proj": (HIDDEN, HIDDEN),
              "mlp.gate_proj": (INTERMEDIATE, HIDDEN), "mlp.up_proj": (INTERMEDIATE, HIDDEN), "mlp.down_proj": (HIDDEN, INTERMEDIATE)}
    for n in range(BLOCKS):
        for name in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"model.layers.{n}.{name}.weight"] = random.normal(1, 0.1, HIDDEN).astype(np.float32)
        for name, shape in shapes.items():
            tensors[f"model.layers.{n}.{name}.weight"] = (random.normal(size=shape) / np.sqrt(shape[1])).astype(np.float32)
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    config = {"model_type": "llama", "num_hidden_layers": BLOCKS, "hidden_size": HIDDEN, "intermediate_size": INTERMEDIATE,
              "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "vocab_size": 256, "max_position_embeddings": 256,
              "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": True, "hidden_act": "silu"}
    (folder / "config.json").write_text(json.dumps(config))
    vocab = {c: b for b, c in byte_characters().items()}
    words = {"version": "1.0", "added_tokens": [], "normalizer": None,
             "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
             "model": {"type": "BPE", "vocab": vocab, "merges": []}}
    (folder / "tokenizer.json").write_text(json.dumps(words))
    return tensors, [f"model.layers.{n}.{name}.weight" for n in range(BLOCKS) for name in shapes]


def fnv(data):
    """FNV-1a on words of 8 bytes, the length first, the rest last."""
    value, mask = 0xcbf29ce484222325, (1 << 64) - 1
    words = [len(data)] + [int.from_bytes(data[k:k + 8], "little") for k in range(0, len(data) // 8 * 8, 8)]
    words.append(int.from_bytes(data[len(data) // 8 * 8:], "little"))
    for word in words:
        value = (value ^ word) * 0x100000001b3 & mask
        value ^= value >> 32
    return f"{value:016x}"


def decoded(data):
    """Packed bytes as a matrix in float64."""
    rows, cols, tall, wide = np.frombuffer(data[24:56].tobytes(), "<i8")
    _, codes, mask, scales, zeros, factors, _ = packing_oracle.decode(data.tobytes())
    tall, wide = min(tall or rows, rows), min(wide or cols, cols)
    across = -(-cols // wide)
    scales = np.array(scales, np.uint32).view(np.float32).astype(np.float64)
    block = np.arange(rows)[:, None] // tall * across + np.arange(cols)[None, :] // wide
    values = np.array(codes, np.float64).reshape(rows, cols)
    if zeros:
        values -= np.array(zeros, np.float64)[block]
    values *= scales[block]
    if factors:
        values /= np.array(factors, np.uint32).view(np.float32).astype(np.float64)[None, :]
    return np.where(np.array(mask).reshape(rows, cols) != 0, values, 0.0)


def rans_decoded(data, share, count):
    """One plane of a chunk, from docs/formats/entropy_coded.md."""
    first, value_at = [0] * 256, []
    for s in range(256):
        first[s] = len(value_at)
        value_at += [s] * share[s]
    assert len(value_at) == 4096
    states = [int(x) for x in np.frombuffer(data[:128], "<u4")]
    words, taken, out = np.frombuffer(data[128:], "<u2"), 0, bytearray()
    for k in range(count):
        x = states[k % 32]
        s = value_at[x % 4096]
        x = share[s] * (x // 4096) + x % 4096 - first[s]
        if x < 1 << 16:
            x, taken = x << 16 | int(words[taken]), taken + 1
        states[k % 32] = x
        out.append(s)
    assert taken == len(words) and set(states) == {1 << 16}
    return out


def entropy_decoded(data):
    magic, version, planes, size, record, chunk = struct.unpack("<4sHHQII", data[:24])
    assert (magic, version) == (b"SLRA", 1)
    plane_of, at = list(data[24:24 + record]), 24 + record
    shares = []
    for _ in range(planes):
        present = [s for s in range(256) if data[at + s // 8] >> s % 8 & 1]
        at += 32
        share = [0] * 256
        for s in present:
            share[s] = int.from_bytes(data[at:at + 2], "little")
            at += 2
        shares.append(share)
    records, places = size // record, [[j for j in range(record) if plane_of[j] == p] for p in range(planes)]
    chunks = -(-records // chunk)
    sizes = np.frombuffer(data[at:at + 4 * chunks * planes], "<u4").reshape(chunks, planes)
    at += 4 * chunks * planes
    out = np.zeros((records, record), np.uint8)
    for c in range(chunks):
        rows = slice(c * chunk, min(records, (c + 1) * chunk))
        for p in range(planes):
            part, count = data[at:at + sizes[c, p]], (rows.stop - rows.start) * len(places[p])
            at += int(sizes[c, p])
            plane = part if len(part) == count else rans_decoded(part, shares[p], count)
            out[rows, places[p]] = np.frombuffer(bytes(plane), np.uint8).reshape(-1, len(places[p]))
    rest = data[at:]
    assert len(rest) == size % record
    return out.tobytes() + rest


def packed_of(tensor):
    """Bytes of a tensor of codes, entropy coded or not, as packed bytes: the section on packed matrices of entropy_coded.md."""
    data = tensor.tobytes()
    if data[:4] != b"SLRM":
        return tensor
    assert int.from_bytes(data[4:8], "little") == 1
    total, header, at = int.from_bytes(data[8:16], "little"), data[16:80], 80
    kind, bits, scale_format, flags = header[6:10]
    factors = int.from_bytes(header[20:24], "little")
    rows, cols, tall, wide = np.frombuffer(header[24:56], "<i8").tolist()
    scales = -(-rows // (tall or rows)) * -(-cols // (wide or cols))
    field_bytes = lambda count: -(-count * bits // 8)
    parts = [(scales * (2 if scale_format else 4), None)]
    if flags & 1:
        parts.append((field_bytes(scales), (1, scales)))
    parts.append((factors * ((2 if cols <= 65536 else 4) + 4) + (64 if flags & 4 else 0), None))
    count = {1: cols, 2: -(-cols // 4) * 2}.get(kind)
    if count is not None:
        parts.append((rows * field_bytes(count), (rows, count)))
    parts.append((total - 64 - sum(size for size, _ in parts), None))
    out = header
    for size, fields in parts:
        if size == 0:
            continue
        coded = int.from_bytes(data[at:at + 8], "little")
        plain, at = entropy_decoded(data[at + 8:at + 8 + coded]), at + 8 + coded
        if fields and 8 % bits:
            per_byte = 8 // bits
            spread = np.frombuffer(plain, np.uint8).reshape(fields[0], -1)
            values = np.stack([spread >> k * bits & (1 << bits) - 1 for k in range(per_byte)], -1).reshape(fields[0], -1)[:, :fields[1]]
            plain = np.packbits(np.unpackbits(values[..., None].astype(np.uint8), axis=-1, bitorder="little")[..., :bits].reshape(fields[0], -1),
                                axis=1, bitorder="little").tobytes()
        assert len(plain) == size
        out += plain
    assert at == len(data) and len(out) == total
    return np.frombuffer(out, np.uint8)


def check_entropy_coded(folder, program, common):
    """Written entropy coded at once, or made of the plain file and back: the same linears, byte for byte."""
    plain, coded, made, back = (folder / f"{name}.slim" for name in ("small", "coded", "made", "back"))
    run(program, *common, "--out", coded, "--entropy-coded", "--json", folder / "coded.json")
    run(program, "export", plain, "--to", "slim", "--entropy-coded", "--out", made)
    run(program, "export", coded, "--to", "slim", "--out", back)
    run(program, "validate", coded)
    assert coded.read_bytes() == made.read_bytes() and back.read_bytes() == plain.read_bytes()
    metadata, tensors = read_container(coded)
    assert metadata["version"] == "2"
    before = read_container(plain)[1]
    smaller, resident, in_file = 0, 0, 0
    codes = {entry["name"] for entry in json.loads(metadata["tensors"]) if entry["type"] == "codes"}
    for name, tensor in tensors.items():
        linear = name.removesuffix(".left").removesuffix(".right") in codes
        same = packed_of(tensor) if linear and tensor.dtype == np.uint8 else tensor
        assert same.tobytes() == before[name].tobytes(), name
        smaller += tensor.nbytes < before[name].nbytes
        resident, in_file = resident + linear * before[name].nbytes, in_file + linear * tensor.nbytes
    said = json.loads((folder / "coded.json").read_text())
    assert (said["linear_bytes_resident"], said["linear_bytes_in_file"]) == (resident, in_file)
    assert smaller > 0 and coded.stat().st_size < plain.stat().st_size, (smaller, coded.stat().st_size, plain.stat().st_size)
    print(f"entropy coded: {smaller} tensors smaller, {in_file} bytes of linears for {resident}")


def matrix_of(tensor):
    if tensor.dtype == np.uint16:  # BF16, which NumPy does not have
        return (tensor.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return decoded(tensor) if tensor.dtype == np.uint8 else tensor.astype(np.float64)


def read_container(path):
    """Metadata and tensors; safetensors itself reads what NumPy has types for."""
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8:8 + size])
    metadata = header.pop("__metadata__")
    types = {"U8": np.uint8, "BF16": np.uint16, "F16": np.float16, "F32": np.float32}
    tensors = {}
    for name, entry in header.items():
        begin, end = (8 + size + offset for offset in entry["data_offsets"])
        tensors[name] = np.frombuffer(data[begin:end], types[entry["dtype"]]).reshape(entry["shape"])
    with safe_open(path, "numpy") as file:
        assert file.metadata() == metadata and set(file.keys()) == set(tensors)
        for name, entry in header.items():
            assert entry["dtype"] == "BF16" or (file.get_tensor(name) == tensors[name]).all()
    return metadata, tensors


def run(*command):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    return done.stdout


def check(folder, program, recipe, source, linears):
    common = ["compress", folder / "source", "--calib", folder / "text", "--text", folder / "text", "--context", "32",
              "--calib-tokens", "256", "--max-tokens", "128", "--no-eval", "--recipe", recipe]
    plan = folder / "plan.json"
    run(program, "plan", *common[1:-3], "--recipe", recipe, "--json", plan)
    path = folder / "small.slim"
    run(program, *common, "--out", path)
    run(program, *common, "--out", folder / "f16")
    run(program, "validate", path)
    planned = json.loads(plan.read_text())["slim_bytes"]
    assert planned == path.stat().st_size, (recipe, planned, path.stat().st_size)
    merged = {name: t.astype(np.float64) for name, t in load_file(folder / "f16" / "model.safetensors").items()}
    metadata, tensors = read_container(path)
    listed = {entry["name"]: entry for entry in json.loads(metadata["tensors"])}
    assert set(listed) == set(source) and (metadata["format"], metadata["version"]) == ("slim", "1")
    hashes = json.loads(metadata["hashes"])
    assert all(fnv(t.tobytes()) == hashes[name] for name, t in tensors.items()) and len(hashes) == len(tensors) + 1
    for name in ("config.json", "tokenizer.json"):
        assert tensors["file:" + name].tobytes() == (folder / "source" / name).read_bytes()
    worst = 0
    for name in linears:
        assert listed[name]["type"] == "codes" and listed[name]["shape"] == list(source[name].shape)
        weight = decoded(tensors[name])
        if name + ".left" in tensors:
            weight = weight + (matrix_of(tensors[name + ".left"]) @ matrix_of(tensors[name + ".right"])).T
        off = np.abs(weight - merged[name])
        worst = max(worst, (off / np.maximum(np.abs(weight), 2.0 ** -14)).max())
        assert (off <= 2.0 ** -11 * np.abs(weight) + 2.0 ** -20).all(), (recipe, name, off.max())
    embedding = tensors["model.embed_tokens.weight"]
    assert listed["model.embed_tokens.weight"] == {"name": "model.embed_tokens.weight", "type": "Q8_0", "shape": [256, HIDDEN]}
    read = gguf.quants.dequantize(embedding.reshape(256, -1), gguf.GGMLQuantizationType.Q8_0)
    blocks = source["model.embed_tokens.weight"].reshape(256, -1, 32)
    step = (np.abs(blocks).max(axis=2, keepdims=True) / 127).astype(np.float16).astype(np.float64)
    assert (np.abs(read.reshape(blocks.shape) - blocks) <= 0.5001 * step).all()
    for name in source.keys() - set(linears) - {"model.embed_tokens.weight"}:
        assert (tensors[name] == source[name]).all()
    if recipe in ("int3-lr@g32@r6", "joint-q@g32", "slim-quant-wanda@50"):
        check_entropy_coded(folder, program, common)
    print(f"{recipe}: {len(linears)} linears are what docs/formats/slim.md says, within {worst:.1e} of the F16 file; "
          f"{path.stat().st_size} bytes as planned")


def main():
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        source, linears = write_model(folder / "source")
        letters = np.random.default_rng(7).integers(97, 123, 900)
        (folder / "text").write_bytes(bytes(letters.astype(np.uint8)))
        for recipe in ("int3-lr@g32@r6", "slim-q@g32", "slim", "joint-q@g32", "gptq-int4@g32", "slim-quant-wanda@50", "slim-o@channel"):
            check(folder, sys.argv[1], recipe, source, linears)


if __name__ == "__main__":
    main()
