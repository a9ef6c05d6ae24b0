#!/usr/bin/env python3
"""The C interface (slim/c.h) from Python, with nothing but ctypes: c_interface.py LIBRARY. Compresses a layer, packs it, multiplies."""
import ctypes
import random
import sys
from array import array


class Recipe(ctypes.Structure):
    _fields_ = [("bits", ctypes.c_int), ("group", ctypes.c_ssize_t), ("prune_2_of_4", ctypes.c_int), ("rank_ratio", ctypes.c_double)]


class Report(ctypes.Structure):
    _fields_ = [(name, ctypes.c_double) for name in ("relative_error", "output_error", "bits_per_weight", "sparsity")] + [
        ("rank", ctypes.c_ssize_t)]


slim = ctypes.CDLL(sys.argv[1])
slim.slim_last_error.restype = slim.slim_version_text.restype = ctypes.c_char_p
slim.slim_default_recipe.restype = Recipe
slim.slim_packed_bytes.restype = ctypes.c_size_t


def check(code):
    if code != 0:
        raise ValueError(f"slim, code {code}: {slim.slim_last_error().decode()}")


def floats(numbers):
    return array("f", numbers)


def pointer(numbers):
    return (ctypes.c_float * len(numbers)).from_buffer(numbers)


d_out, d_in, tokens = 64, 256, 512
random.seed(1)
w = floats(random.gauss(0, 1) for _ in range(d_out * d_in))
x = floats(random.gauss(0, 1) for _ in range(tokens * d_in))
size = ctypes.c_ssize_t
layer, packed, recipe, report = ctypes.c_void_p(), ctypes.c_void_p(), slim.slim_default_recipe(), Report()
check(slim.slim_compress(pointer(w), size(d_out), size(d_in), pointer(x), size(tokens), ctypes.byref(recipe), ctypes.byref(layer)))
check(slim.slim_report_of(layer, ctypes.byref(report)))
check(slim.slim_pack(layer, ctypes.byref(packed)))
print(f"slim {slim.slim_version_text().decode()}: output error {report.output_error:.3f}, rank {report.rank}, "
      f"{slim.slim_packed_bytes(packed)} bytes instead of {2 * len(w)}")

# The product of the packed layer is that of the dense weight it stands for, to the rounding of X.
dense, y = floats([0]) * (d_out * d_in), floats([0]) * d_out
check(slim.slim_decompress(layer, pointer(dense)))
check(slim.slim_forward(packed, pointer(x), size(1), pointer(y)))
right = [sum(dense[i * d_in + j] * x[j] for j in range(d_in)) for i in range(d_out)]
error = (sum((a - b) ** 2 for a, b in zip(y, right)) / sum(b * b for b in right)) ** 0.5
assert error < 0.02 and 0 < report.output_error < 1 and report.sparsity == 0.5, (error, report.output_error)

recipe.bits = 9  # a mistake comes back as a code and a sentence
wrong = ctypes.c_void_p()
assert slim.slim_compress(pointer(w), size(d_out), size(d_in), pointer(x), size(tokens), ctypes.byref(recipe), ctypes.byref(wrong)) == 2
assert b"9 bits" in slim.slim_last_error() and not wrong.value
slim.slim_layer_free(layer), slim.slim_packed_free(packed)
print(f"right, product off by {error:.4f}")
