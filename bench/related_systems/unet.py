#!/usr/bin/env python3
"""SVDQuant's ground, a diffusion network: unet.py COMPRESS_LAYERS FOLDER [RECIPE...].

FOLDER is fetched into with pip (no dependencies, nothing installed): adaptive-terrain-diffusion 0.4.2 (MIT), a U-Net that makes a
height map of a noise in one step. Every convolution but the first and the last is a linear layer on patches (im2col, the channels of a
pixel together). compress_layers sees patches of 4 noises; what it makes goes back into the graph as nodes: patches, divided by
factors, rounded per patch and 64 columns, times the codes' values, beside a convolution with the branch. PSNR to the dense graph's map
for 16 other noises, both clipped to 0 .. 1. Needs numpy, safetensors, onnx, onnxruntime.
"""
import math
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper

from layers import compressed_layers

RECIPES = ["rtn-w4a4", "smoothquant-w4a4", "svdquant"]
GRAPH = "terrain_diffusion/weights/terrain_consistency_unet_difficulty100.onnx"
SIGMA, CALIBRATION, MEASURED, PATCHES = 80.0, 4, 16, 256


def fetch(folder):
    if not (folder / GRAPH).exists():
        subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:", "-d", folder,
                        "adaptive-terrain-diffusion==0.4.2"], check=True)
        with zipfile.ZipFile(next(folder.glob("adaptive*.whl"))) as wheel:
            wheel.extract(GRAPH, folder)


def noise(seed, difficulty):
    """One input of the network, as its generator makes it: full noise, a difficulty from 1 to 100."""
    rng = np.random.default_rng(seed)
    return {"noisy": SIGMA * rng.standard_normal((1, 1, 128, 128), dtype=np.float32), "sigma": np.array([SIGMA], np.float32),
            "difficulty": np.array([(difficulty - 1) / 99], np.float32)}


def session(model):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


class convolution:
    def __init__(self, node, weight, bias):
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        self.node, self.name, self.bias = node, node.name, bias
        self.outputs, self.channels, self.kernel, _ = weight.shape
        self.pad = attributes["pads"][0]
        assert weight.shape[3] == self.kernel and set(attributes["pads"]) == {self.pad} and attributes["group"] == 1
        assert set(attributes["strides"]) == set(attributes["dilations"]) == {1} and attributes["auto_pad"] == b"NOTSET"
        self.weight = weight.transpose(0, 2, 3, 1).reshape(self.outputs, -1)  # columns: y, x, channel

    def patches(self, x, rng):
        """Some rows of im2col of 1 x channels x height x width."""
        k, (height, width) = self.kernel, x.shape[2:]
        x = np.pad(x[0], ((0, 0), (self.pad, self.pad), (self.pad, self.pad))).transpose(1, 2, 0)
        ys, xs = np.divmod(rng.choice(height * width, min(PATCHES, height * width), replace=False), width)
        return np.array([x[a:a + k, b:b + k].reshape(-1) for a, b in zip(ys, xs)])


def convolutions(graph):
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    nodes = [node for node in graph.node if node.op_type == "Conv"]
    return [convolution(node, constants[node.input[1]], constants[node.input[2]] if len(node.input) > 2 else None) for node in nodes[1:-1]]


def recorded(model, layers):
    """Patches that the layers see of the calibration's noises, and the sides of their maps."""
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    known = {output.name for output in watched.graph.output}
    names = sorted({layer.node.input[0] for layer in layers} - known)
    watched.graph.output.extend(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names)
    run, rng, seen = session(watched), np.random.default_rng(0), {}
    for seed in range(CALIBRATION):
        maps = dict(zip(names, run.run(names, noise(1000 + seed, 20 + 20 * seed))))
        for layer in layers:
            x = maps[layer.node.input[0]]
            layer.sides = x.shape[2:]
            seen.setdefault(layer.name, []).append(layer.patches(x, rng))
    return {name: np.concatenate(parts) for name, parts in seen.items()}


class graph_writer:
    """Nodes and constants that stand for compressed layers."""

    def __init__(self, levels):
        self.nodes, self.constants, self.levels = [], [], np.float32(levels)

    def constant(self, name, value):
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def node(self, kind, inputs, output, **attributes):
        self.nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def layer(self, layer, small):
        name, pixels, columns = layer.name, math.prod(layer.sides), layer.weight.shape[1]
        shape = lambda tag, *extents: self.constant(f"{name}/{tag}", np.array(extents, np.int64))
        x = layer.node.input[0]
        patches = x
        if layer.kernel > 1:  # im2col: shifted maps beside each other
            around = self.node("Pad", [x, shape("around", 0, 0, layer.pad, layer.pad, 0, 0, layer.pad, layer.pad)], f"{name}/padded")
            axes, shifted = shape("axes", 2, 3), []
            for a, b in np.ndindex(layer.kernel, layer.kernel):
                ends = [shape(f"begin{a}{b}", a, b), shape(f"end{a}{b}", a + layer.sides[0], b + layer.sides[1])]
                shifted.append(self.node("Slice", [around, *ends, axes], f"{name}/shifted{a}{b}"))
            patches = self.node("Concat", shifted, f"{name}/beside", axis=1)
        patches = self.node("Reshape", [patches, shape("s1", columns, pixels)], f"{name}/patches")
        factors, weight, filling = small.get(name, "factors"), small.get(name, "weight"), -columns % 64
        if factors is not None:
            patches = self.node("Div", [patches, self.constant(f"{name}/factors", factors.reshape(-1, 1))], f"{name}/divided")
            weight = weight * factors
        if filling:
            patches = self.node("Pad", [patches, shape("filling", 0, 0, filling, 0)], f"{name}/filled")
        groups = self.node("Reshape", [patches, shape("s2", (columns + filling) // 64, 64, pixels)], f"{name}/groups")
        largest = self.node("ReduceMax", [self.node("Abs", [groups], f"{name}/abs"), shape("axis", 1)], f"{name}/largest", keepdims=1)
        scale = self.node("Div", [largest, self.constant(f"{name}/top", self.levels)], f"{name}/scale0")
        scale = self.node("Max", [scale, self.constant(f"{name}/tiny", np.float32(1e-30))], f"{name}/scale")
        levels = self.node("Round", [self.node("Div", [groups, scale], f"{name}/levels0")], f"{name}/levels")
        rounded = self.node("Mul", [levels, scale], f"{name}/rounded0")
        rounded = self.node("Reshape", [rounded, shape("s3", columns + filling, pixels)], f"{name}/rounded")
        product = self.node("MatMul", [self.constant(f"{name}/weight", np.pad(weight, ((0, 0), (0, filling)))), rounded], f"{name}/product")
        if layer.bias is not None:
            product = self.node("Add", [product, self.constant(f"{name}/bias", layer.bias.reshape(-1, 1))], f"{name}/sum")
        branch, output = small.get(name, "branch"), layer.node.output[0]
        if branch is None:
            return self.node("Reshape", [product, shape("s4", 1, layer.outputs, *layer.sides)], output)
        product = self.node("Reshape", [product, shape("s4", 1, layer.outputs, *layer.sides)], f"{name}/coded")
        kernels = branch.reshape(layer.outputs, layer.kernel, layer.kernel, layer.channels).transpose(0, 3, 1, 2)
        direct = self.node("Conv", [x, self.constant(f"{name}/kernels", kernels)], f"{name}/branch", kernel_shape=[layer.kernel] * 2,
                           pads=[layer.pad] * 4)
        return self.node("Add", [product, direct], output)


def with_layers(model, layers, small, levels=7):
    out, writer, nodes = onnx.ModelProto(), graph_writer(levels), []
    out.CopyFrom(model)
    replaced = {layer.name: layer for layer in layers}
    for node in model.graph.node:
        if node.name not in replaced:
            nodes.append(node)
            continue
        writer.nodes = []
        writer.layer(replaced[node.name], small)
        nodes.extend(writer.nodes)
    del out.graph.node[:], out.graph.value_info[:]
    out.graph.node.extend(nodes)
    out.graph.initializer.extend(writer.constants)
    return out


class as_they_are:
    """Layers with their own weights in the place of compressed ones."""

    def __init__(self, layers):
        self.weights = {layer.name: layer.weight for layer in layers}

    def get(self, name, part):
        return self.weights[name] if part == "weight" else None


def main(program, folder, *recipes):
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    fetch(folder)
    model = onnx.load(folder / GRAPH)
    layers = convolutions(model.graph)
    inputs, noises = recorded(model, layers), [noise(seed, 1 + 6 * seed) for seed in range(MEASURED)]
    def maps(graph):
        run = session(graph)
        made = np.array([run.run(["denoised"], one)[0] for one in noises], np.float64)
        return np.clip((made + 1) / 2, 0, 1)  # as the generator takes it

    dense = maps(model)
    print(f"{len(layers)} convolutions, {sum(layer.weight.size for layer in layers)} weights; standard deviation of the dense maps {dense.std():.3f}\n")
    exact = session(with_layers(model, layers, as_they_are(layers), 2**20)).run(["denoised"], noises[0])[0]
    assert np.abs(np.clip((exact + 1) / 2, 0, 1) - dense[0]).max() < 1e-3, "the nodes are not the convolutions"
    print("| recipe | bits per weight | PSNR, mean of 16 | least | most |\n|---|---|---|---|---|")
    for recipe in recipes or RECIPES:
        small = compressed_layers(program, recipe, {layer.name: layer.weight for layer in layers}, inputs)
        off = maps(with_layers(model, layers, small)) - dense
        quality = -10 * np.log10((off ** 2).mean((1, 2, 3, 4)))
        print(f"| `{recipe}` | {small.bits:.3f} | {quality.mean():.2f} | {quality.min():.2f} | {quality.max():.2f} |", flush=True)
    return 0


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))
