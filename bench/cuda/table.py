#!/usr/bin/env python3
"""The table of docs/benchmarks-gpu.md: table.py LIBRARY OUT_DIR READ_TB_PER_S [SECONDS]. Needs torch with CUDA.

Every contestant runs in a CUDA graph over copies of its weights that take at least 256 MB together, so that none stays in the L2; they
take turns, medians and spread of the turns are kept. A peer that does not run is named with its error.
"""
import csv
import ctypes
import statistics
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
import layer_bytes

SHAPES = {  # name: (d_in, outputs of the layers that run together)
    "4096 x 4096": (4096, [4096]),
    "q+k+v of 4096": (4096, [4096, 4096, 4096]),
    "4096 x 14336": (4096, [14336]),
    "14336 x 4096": (14336, [4096]),
    "8192 x 8192": (8192, [8192]),
    "8192 x 28672": (8192, [28672]),
}
TOKENS = [1, 4, 16, 32, 64, 256, 1024]  # the last two also by dense matrices: from where on is that faster?
DENSE_FROM = 256
GEMLITE_SECONDS = 120  # for all its tuning
TURNS = 9
LEAST_BYTES = 256 << 20


class Library:
    """library.cu, through ctypes."""

    def __init__(self, path):
        self.c = ctypes.CDLL(path)
        for name in ["layer", "workspace", "set", "forward", "dequantize"]:
            getattr(self.c, f"slim_bench_{name}").restype = ctypes.c_char_p

    def call(self, name, *arguments):
        error = getattr(self.c, f"slim_bench_{name}")(*arguments)
        if error:
            raise RuntimeError(error.decode())

    def layer(self, data):
        out = ctypes.c_void_p()
        self.call("layer", data, ctypes.c_size_t(len(data)), ctypes.byref(out))
        return out

    def free(self, layer):
        self.c.slim_bench_free_layer(layer)

    def workspace(self, stream):
        out = ctypes.c_void_p()
        self.call("workspace", ctypes.c_void_p(stream.cuda_stream), ctypes.byref(out))
        return out

    def forward(self, room, layers, ys, x):
        count = len(layers)
        handles = (ctypes.c_void_p * count)(*[layer.value for layer in layers])
        outputs = (ctypes.c_void_p * count)(*[y.data_ptr() for y in ys])
        self.call("forward", room, handles, outputs, count, ctypes.c_void_p(x.data_ptr()), x.shape[0], x.shape[1],
                  int(x.dtype == torch.bfloat16))


def copies_of(weight_bytes):
    return max(2, min(64, -(-LEAST_BYTES // weight_bytes)))


class Ours:
    def __init__(self, library, stream, weight, d_in, outs, share):
        self.library, self.stream, self.outs = library, stream, outs
        self.room = library.workspace(stream)
        self.rank = int(share * min(d_in, outs[0]))
        data = [layer_bytes.layer(weight, d_out, d_in, self.rank, seed) for seed, d_out in enumerate(outs)]
        self.bytes = sum(map(len, data))
        self.layers = [[library.layer(d) for d in data] for _ in range(copies_of(self.bytes))]

    def prepare(self, x):
        ys = [torch.empty(x.shape[0], d_out, dtype=x.dtype, device="cuda") for d_out in self.outs]
        return [lambda layers=layers: self.library.forward(self.room, layers, ys, x) for layers in self.layers]

    def close(self):
        for layers in self.layers:
            for layer in layers:
                self.library.free(layer)


class OursDense:
    """Layers written out as dense matrices, adapters added to weights, and cuBLAS: what forward_into does with a gemm."""

    def __init__(self, ours, d_in):
        self.ours, self.bytes = ours, ours.bytes
        self.out = torch.empty(sum(self.sizes(d_in, d_out) for d_out in ours.outs), dtype=torch.float16, device="cuda")

    def sizes(self, d_in, d_out):
        columns = -(-d_in // 128) * 128
        rank_rows, rank_columns = -(-self.ours.rank // 16) * 16, -(-self.ours.rank // 128) * 128
        return -(-d_out // 16) * 16 * (columns + rank_columns) + rank_rows * columns

    def prepare(self, x):
        if x.shape[0] < DENSE_FROM:
            return []
        d_in, rank = x.shape[1], self.ours.rank
        columns, rank_columns = -(-d_in // 128) * 128, -(-rank // 128) * 128
        parts, at = [], 0
        for d_out in self.ours.outs:
            rows, rank_rows = -(-d_out // 16) * 16, -(-rank // 16) * 16
            begin = at
            matrices = []
            for height, width in [(rows, columns), (rank_rows, columns), (rows, rank_columns if rank else 0)]:
                matrices.append(self.out[at:at + height * width].view(height, width))
                at += height * width
            w, left, right = matrices
            parts.append((self.out[begin:], w[:d_out, :d_in], left[:rank, :d_in], right[:d_out, :rank],
                          torch.empty(x.shape[0], d_out, dtype=torch.float16, device="cuda")))

        def call(layers):
            for layer, (out, w, left, right, y) in zip(layers, parts):
                self.ours.library.call("dequantize", self.ours.room, layer, ctypes.c_void_p(out.data_ptr()))
                if rank:
                    torch.addmm(w, right, left, out=w)
                torch.mm(x, w.t(), out=y)

        return [lambda layers=layers: call(layers) for layers in self.ours.layers]

    def close(self):
        self.out = None


class Dense:
    """cuBLAS, through torch."""

    def __init__(self, dtype, d_in, outs):
        self.dtype, self.bytes = dtype, 2 * d_in * sum(outs)
        self.weights = [torch.randn(sum(outs), d_in, device="cuda", dtype=dtype) for _ in range(copies_of(self.bytes))]

    def prepare(self, x):
        x = x.to(self.dtype)
        y = torch.empty(x.shape[0], self.weights[0].shape[0], dtype=self.dtype, device="cuda")
        return [lambda w=w: torch.mm(x, w.t(), out=y) for w in self.weights]

    def close(self):
        self.weights = None


class TorchInt4:
    """torch._weight_int4pack_mm (tinygemm), bf16, groups of 128."""

    def __init__(self, d_in, outs):
        n = sum(outs)
        self.bytes = n * d_in // 2 + 4 * n * d_in // 128
        self.parts = []
        for _ in range(copies_of(self.bytes)):
            codes = torch.randint(0, 256, (n, d_in // 2), dtype=torch.uint8, device="cuda")
            self.parts.append((torch.ops.aten._convert_weight_to_int4pack(codes, 8),
                               torch.rand(d_in // 128, n, 2, dtype=torch.bfloat16, device="cuda")))

    def prepare(self, x):
        x = x.to(torch.bfloat16)
        return [lambda p=p: torch.ops.aten._weight_int4pack_mm(x, p[0], 128, p[1]) for p in self.parts]

    def close(self):
        self.parts = None


class CuSparseLt:
    """2:4 fp16 weights."""

    def __init__(self, d_in, outs):
        self.bytes = sum(outs) * d_in * 9 // 8
        self.parts = []
        for _ in range(copies_of(self.bytes)):
            w = torch.randn(sum(outs), d_in, device="cuda", dtype=torch.float16)
            w.view(-1, 4)[:, 2:] = 0
            self.parts.append(torch._cslt_compress(w))

    def prepare(self, x):
        tokens = -(-x.shape[0] // 16) * 16  # the library wants whole tiles
        b = torch.zeros(tokens, x.shape[1], dtype=torch.float16, device="cuda")
        b[:x.shape[0]] = x
        return [lambda p=p: torch._cslt_sparse_mm(p, b.t()) for p in self.parts]

    def close(self):
        self.parts = None


class Humming:
    """humming-kernels, compiled on demand."""

    def __init__(self, bits, d_in, outs):
        from humming.layer import HummingLayer
        n = sum(outs)
        self.bytes = n * d_in * bits // 8 + 2 * n * d_in // 128
        weight = torch.randn(n, d_in, device="cuda", dtype=torch.float16)
        self.layers = []
        for _ in range(copies_of(self.bytes)):
            layer = HummingLayer(shape_n=n, shape_k=d_in, torch_dtype=torch.float16,
                                 weight_config={"dtype": f"int{bits}", "weight_scale_group_size": 128}).cuda()
            layer.load_from_unquantized(weight)
            layer.transform()
            self.layers.append(layer)

    def prepare(self, x):
        return [lambda layer=layer: layer(x) for layer in self.layers]

    def close(self):
        self.layers = None


class GemLite:
    """GemLite (Triton), with its configurations of the H100 where they fit, else tuned when it first runs a number of tokens."""
    seconds = 0.0

    def __init__(self, d_in, outs):
        import gemlite
        if not GemLite.seconds:
            gemlite.load_config(str(Path(gemlite.__file__).parent / "configs" / "h100.json"))
        n = sum(outs)
        self.bytes = n * d_in // 2 + 2 * n * d_in // 128
        codes = torch.randint(0, 16, (n, d_in), dtype=torch.uint8, device="cuda")
        scales = torch.rand(n, d_in // 128, dtype=torch.float16, device="cuda")
        self.layers = []
        for _ in range(copies_of(self.bytes)):
            layer = gemlite.GemLiteLinear(4, group_size=128, in_features=d_in, out_features=n, input_dtype=gemlite.DType.FP16,
                                          output_dtype=gemlite.DType.FP16)
            layer.pack(codes, scales, 8, None)
            self.layers.append(layer)

    def prepare(self, x):
        if GemLite.seconds > GEMLITE_SECONDS:
            raise RuntimeError(f"its tuning took more than {GEMLITE_SECONDS} s")
        started = time.monotonic()
        self.layers[0](x)
        torch.cuda.synchronize()
        GemLite.seconds += time.monotonic() - started
        return [lambda layer=layer: layer(x) for layer in self.layers]

    def close(self):
        self.layers = None


def graph_of(calls, stream):
    """A graph of all calls, at least eight."""
    calls = calls * max(1, -(-8 // len(calls)))
    with torch.cuda.stream(stream):
        for call in calls:
            call()
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        for call in calls:
            call()
    return graph, len(calls)


def makers_of(library, stream, d_in, outs, contestants):
    """name: what makes a contestant, which may take those made before it."""
    makers = {"cuBLAS fp16": lambda: Dense(torch.float16, d_in, outs), "cuBLAS bf16": lambda: Dense(torch.bfloat16, d_in, outs)}
    for weight in ["dense int3", "2:4 int4", "dense int4"]:
        for share in [0, 0.02, 0.1]:
            makers[f"slim {weight}, rank {share:g}"] = lambda weight=weight, share=share: Ours(library, stream, weight, d_in, outs, share)
    for weight in ["dense int3", "2:4 int4"]:
        ours = f"slim {weight}, rank 0.1"
        makers[f"{ours}, written out"] = lambda ours=ours: OursDense(contestants[ours], d_in)
    makers["torch int4 g128"] = lambda: TorchInt4(d_in, outs)
    makers["cuSPARSELt 2:4 fp16"] = lambda: CuSparseLt(d_in, outs)
    makers["humming int4 g128"] = lambda: Humming(4, d_in, outs)
    makers["humming int3 g128"] = lambda: Humming(3, d_in, outs)
    makers["gemlite int4 g128"] = lambda: GemLite(d_in, outs)
    return makers


def measure(graphs, stream):
    """name: microseconds of a call, one number per turn."""
    times = {name: [] for name in graphs}
    for turn in range(TURNS + 1):
        for name, (graph, calls) in graphs.items():
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            with torch.cuda.stream(stream):
                begin.record()
                graph.replay()
                end.record()
            end.synchronize()
            if turn > 0:
                times[name].append(1000 * begin.elapsed_time(end) / calls)
    return times


def rows_of(shape, tokens, times, floors):
    medians = {name: statistics.median(t) for name, t in times.items()}
    peers = [us for name, us in medians.items() if not name.startswith("slim") and "cuBLAS" not in name]
    for name, us in medians.items():
        yield {"shape": shape, "tokens": tokens, "contestant": name, "us": round(us, 2), "least": round(min(times[name]), 2),
               "most": round(max(times[name]), 2), "share of floor": round(floors[name] / us, 3),
               "over cuBLAS fp16": round(medians["cuBLAS fp16"] / us, 3) if "cuBLAS fp16" in medians else "",
               "over fastest peer": round(min(peers) / us, 3) if peers else ""}


def run_shape(library, stream, shape, read, failed):
    """Rows of the table, one number of tokens after the other."""
    d_in, outs = SHAPES[shape]
    contestants = {}
    for name, make in makers_of(library, stream, d_in, outs, contestants).items():
        try:
            contestants[name] = make()
        except Exception as error:  # a peer may miss anything
            failed[shape, name] = repr(error)[:300]
    for tokens in TOKENS:
        x = torch.randn(tokens, d_in, device="cuda", dtype=torch.float16)
        graphs = {}
        for name, contestant in contestants.items():
            try:
                if calls := contestant.prepare(x):
                    graphs[name] = graph_of(calls, stream)
            except Exception as error:
                failed[shape, f"{name}, {tokens} tokens"] = repr(error)[:300]
        floors = {name: 1e6 * (contestants[name].bytes + 2 * tokens * (d_in + sum(outs))) / read for name in graphs}
        yield from rows_of(shape, tokens, measure(graphs, stream), floors)
    for contestant in contestants.values():
        contestant.close()
    contestants.clear()
    torch.cuda.empty_cache()


def main():
    library, out, read = Library(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]) * 1e12
    deadline = time.monotonic() + float(sys.argv[4] if len(sys.argv) > 4 else 170)
    stream = torch.cuda.Stream()
    rows, failed = [], {}
    for shape in sorted(SHAPES, key=lambda s: SHAPES[s][0] * sum(SHAPES[s][1])):
        if time.monotonic() > deadline:
            failed[shape, "every contestant"] = "not run, the time was up"
            continue
        try:
            for row in run_shape(library, stream, shape, read, failed):
                rows.append(row)
        except Exception as error:  # a device that one contestant broke stays broken: what was measured is kept
            failed[shape, "the rest"] = repr(error)[:300]
        with open(out / "table.csv", "w", newline="") as file:
            writer = csv.DictWriter(file, rows[0].keys() if rows else ["shape"])
            writer.writeheader()
            writer.writerows(rows)
    (out / "failed.txt").write_text("".join(f"{shape}: {name}: {why}\n" for (shape, name), why in failed.items()))
    for (shape, name), why in failed.items():
        print(f"did not run: {shape}: {name}: {why[:120]}")
    print("| shape | tokens | contestant | us | share of floor | over cuBLAS fp16 | over fastest peer |\n|---|--:|---|--:|--:|--:|--:|")
    for r in rows:
        print(f"| {r['shape']} | {r['tokens']} | {r['contestant']} | {r['us']} | {r['share of floor']} | {r['over cuBLAS fp16']} | {r['over fastest peer']} |")


if __name__ == "__main__":
    main()
