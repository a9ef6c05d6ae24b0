"""io_oracle.py TENSOR_DUMP BLOCKS_DUMP: our readers and writers against the Python packages gguf and safetensors, bit for bit.

Random bytes of every quantized type (infinite and NaN scales included), files written by either side and read by the other, codes
as blocks of every type that they fit.
Exit status 77 if a package is missing.
"""
import os, subprocess, sys, tempfile

try:
    import numpy as np
    from gguf import GGMLQuantizationType as Type, GGUFReader, GGUFWriter
    from gguf.constants import GGML_QUANT_SIZES
    from gguf.quants import dequantize
    from safetensors import safe_open
    from safetensors.numpy import save_file
except ImportError as missing:
    print("skipped:", missing)
    sys.exit(77)

TYPES = [Type.F32, Type.F16, Type.BF16, Type.F64, Type.Q4_0, Type.Q4_1, Type.Q5_0, Type.Q5_1, Type.Q8_0, Type.Q2_K,
         Type.Q3_K, Type.Q4_K, Type.Q5_K, Type.Q6_K, Type.IQ4_NL, Type.IQ4_XS]


def same_floats(a, b):
    """Equal as numbers with NaN equal to NaN; zeros by sign too."""
    a, b = np.asarray(a, np.float32).ravel(), np.asarray(b, np.float32).ravel()
    return a.shape == b.shape and bool(np.all((a.view(np.uint32) == b.view(np.uint32)) | (np.isnan(a) & np.isnan(b))))


def expected(kind, raw):
    if kind == Type.F64:
        return raw.view(np.float64).astype(np.float32)
    if kind in (Type.F32, Type.F16):
        return raw.view(np.float32 if kind == Type.F32 else np.float16).astype(np.float32)
    return dequantize(raw, kind)


def dump(program, path, folder):
    run = subprocess.run([program, path, folder], capture_output=True, text=True)
    if run.returncode != 0:
        sys.exit(f"{path}: {run.stderr}")


def check_gguf(program, folder):
    rng = np.random.default_rng(1)
    path = os.path.join(folder, "random.gguf")
    writer = GGUFWriter(path, "llama")
    writer.add_array("numbers", [1, 2, 3])
    writer.add_string("text", "\u00e9")
    tensors = {}
    for kind in TYPES:
        elements, size = GGML_QUANT_SIZES[kind]
        rows, blocks = 5, 512 // elements * 4
        raw = rng.integers(0, 256, (rows, blocks * size), dtype=np.uint8)
        if elements > 1:  # most scales ordinary numbers, so that rounding is really compared
            view = raw.reshape(rows, blocks, size)
            at = {Type.Q6_K: 208, Type.Q3_K: 108, Type.Q2_K: 80}.get(kind, 0)
            view[: rows - 1, :, at + 1] = rng.integers(0x20, 0x40, (rows - 1, blocks))
            if kind in (Type.Q4_1, Type.Q5_1, Type.Q2_K, Type.Q4_K, Type.Q5_K):
                view[: rows - 1, :, at + 3] = rng.integers(0x20, 0x40, (rows - 1, blocks))
        tensors[kind.name] = (kind, raw)
        if kind in (Type.F32, Type.F16, Type.F64):
            writer.add_tensor(kind.name, raw.view({Type.F32: np.float32, Type.F16: np.float16, Type.F64: np.float64}[kind]))
        else:
            writer.add_tensor(kind.name, raw, raw_dtype=kind)
    for part in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file, writer.close):
        part()
    with np.errstate(all="ignore"):
        dump(program, path, folder)
        for name, (kind, raw) in tensors.items():
            ours = np.fromfile(os.path.join(folder, name + ".f32"), np.float32)
            assert same_floats(ours, expected(kind, raw)), f"{name} differs from gguf.quants"
            print(f"{name}: {ours.size} weights agree bit for bit")
        copy = GGUFReader(os.path.join(folder, "copy.gguf"))
        source = GGUFReader(path)
        assert copy.fields["general.file_type"].contents() == 1 and copy.fields["slim.words"].contents() == ["a", "b"]
        for key in ("numbers", "text", "general.architecture"):
            assert copy.fields[key].contents() == source.fields[key].contents(), key
        for ours, theirs in zip(copy.tensors, source.tensors, strict=True):
            assert ours.name == theirs.name and list(ours.shape) == list(theirs.shape)
            if ours.name == "F32":
                assert same_floats(ours.data.astype(np.float32), theirs.data.astype(np.float16).astype(np.float32))
            else:
                assert ours.tensor_type == theirs.tensor_type and ours.data.tobytes() == theirs.data.tobytes(), ours.name


def check_blocks(program, folder):
    """Codes that encode_blocks wrote, decoded here, are the values of the codes."""
    run = subprocess.run([program, folder], capture_output=True, text=True)
    if run.returncode != 0:
        sys.exit(run.stderr)
    cases = sorted(name[:-4] for name in os.listdir(folder) if name.endswith(".raw"))
    assert {case.split(".")[0] for case in cases} >= {kind.name for kind in TYPES if GGML_QUANT_SIZES[kind][0] > 1}
    for case in cases:
        kind = Type[case.split(".")[0]]
        raw = np.fromfile(os.path.join(folder, case + ".raw"), np.uint8)
        values = np.fromfile(os.path.join(folder, case + ".f32"), np.float32)
        theirs = dequantize(raw.reshape(-1, GGML_QUANT_SIZES[kind][1]), kind).ravel()
        assert np.array_equal(values, theirs), f"{case}: {np.sum(values != theirs)} of {values.size} weights differ"
        assert np.unique(values).size > 3, case
        print(f"{case}: {values.size} weights written exactly")


def check_safetensors(program, folder):
    rng = np.random.default_rng(2)
    tensors = {"f32": rng.standard_normal((7, 5)).astype(np.float32), "f16": rng.standard_normal((3, 8)).astype(np.float16),
               "f64": rng.standard_normal(9), "empty": np.zeros((0, 4), np.float32), "scalar": np.array(2.5, np.float32), "\u00e9.weight": np.ones((1, 1), np.float32)}
    path = os.path.join(folder, "model.safetensors")
    save_file(tensors, path, {"format": "pt"})
    dump(program, path, folder)
    with safe_open(os.path.join(folder, "copy.safetensors"), "np") as copy:
        assert copy.metadata() == {"format": "pt"} and sorted(copy.keys()) == sorted(tensors)
        for name, values in tensors.items():
            assert same_floats(np.fromfile(os.path.join(folder, name + ".f32"), np.float32), values.astype(np.float32)), name
            assert copy.get_tensor(name).shape == values.shape and same_floats(copy.get_tensor(name), values.astype(np.float32)), name
    print(f"safetensors: {len(tensors)} tensors agree both ways")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    with tempfile.TemporaryDirectory() as folder:
        check_gguf(sys.argv[1], folder)
    with tempfile.TemporaryDirectory() as folder:
        check_safetensors(sys.argv[1], folder)
    with tempfile.TemporaryDirectory() as folder:
        check_blocks(sys.argv[2], folder)
