"""Layers of random codes in the device format (docs/formats/device.md), groups of 128, with int4 adapters or none."""
import struct

import numpy as np

KINDS = {"2:4 int4": 1, "dense int2": 2, "dense int3": 3, "dense int4": 4}
WORD_BYTES = {1: 768, 2: 512, 3: 768, 4: 1024}
LEGAL = np.array([4, 8, 9, 12, 13, 14], dtype=np.uint8)  # positions of two entries, low + 4 high


def matrix(kind, rows, cols, rng):
    """(part of the header, bytes) of rows x cols random codes; rows of at most 128 columns have a scale per row."""
    atoms, depth = -(-rows // 16), -(-cols // 128)
    group = 128 if cols > 128 else 0
    words = WORD_BYTES[kind]
    atom = np.frombuffer(rng.bytes(atoms * depth * (words + (32 if group else 0))), dtype=np.uint8).reshape(atoms * depth, -1).copy()
    if kind == 1:
        pairs = LEGAL[rng.integers(0, 6, (atoms * depth, 512), dtype=np.uint8)]
        atom[:, 512:768] = pairs[:, ::2] | pairs[:, 1::2] << 4
    scales = rng.uniform(0.001, 0.01, (atoms * depth, 16)).astype(np.float16)
    behind = b""
    if group:
        atom[:, words:] = scales.view(np.uint8)
    else:
        behind = rng.uniform(0.001, 0.01, 16 * atoms).astype(np.float32).tobytes()
    return struct.pack("<BBHI", kind, 0, 0, group), atom.tobytes() + behind


def layer(weight, d_out, d_in, rank, seed=1):
    """Bytes of a layer: `weight` is a name of KINDS."""
    rng = np.random.default_rng(seed)
    part, body = matrix(KINDS[weight], d_out, d_in, rng)
    none = struct.pack("<BBHI", 4, 0, 0, 0)
    parts, bodies = [none, part, none], [body]
    if rank:
        left, right = matrix(4, rank, d_in, rng), matrix(4, d_out, rank, rng)
        parts, bodies = [left[0], part, right[0]], [left[1], body, right[1]]
    total = 64 + sum(map(len, bodies))
    head = b"SLDV" + struct.pack("<HHIIII", 1, 0, d_out, d_in, rank, 0) + b"".join(parts) + struct.pack("<QQ", total, 0)
    return head + b"".join(bodies)
