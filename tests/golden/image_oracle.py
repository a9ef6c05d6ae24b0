"""image_oracle.py SLIM_IMAGE: the super-resolution network of examples/image once more in NumPy and float64, from ncnn's definitions
and not from our C++: convolutions and transposed convolutions by their sums, min-max grids per channel, corrected biases, rounded
inputs, PSNR; and what must be refused. The network, 3 - 4 - 5 - 7 - 3 channels, and the pictures are generated. Exit status 77 if NumPy is missing.
"""
import math, os, subprocess, sys, tempfile
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "2"
try:
    import numpy as np
except ImportError as missing:
    print("skipped:", missing)
    sys.exit(77)

program, failed = sys.argv[1], []


def require(holds, what):
    print("ok  " if holds else "FAIL", what)
    if not holds:
        failed.append(what)


# ------------------------------------------------------------------------------------------------------------ the network
rng = np.random.default_rng(19)
# name, inputs, outputs, kernel, stride, pad, slope (None: no activation), stored as fp16
LAYERS = [("first", 3, 4, 3, 1, 0, 0.1, True), ("second", 4, 5, 3, 1, 1, 0.1, False), ("third", 5, 7, 3, 1, 0, 0.0, True),
          ("up", 7, 3, 4, 2, 3, None, True)]


def random_layers():
    out = []
    for name, inputs, outputs, kernel, *_, half in LAYERS:
        weight = (rng.normal(size=(outputs, inputs, kernel, kernel)) / math.sqrt(inputs * kernel * kernel)).astype(np.float32)
        bias = (0.1 * rng.normal(size=outputs)).astype(np.float32)
        out.append((weight.astype(np.float16).astype(np.float32) if half else weight, bias))
    return out


def write_model(folder, layers, name="model"):
    lines, data, before = ["7767517", f"{len(LAYERS) + 1} {len(LAYERS) + 1}", "Input in 0 1 map0 0=16 1=16 2=3"], b"", "map0"
    for k, ((title, _, outputs, kernel, stride, pad, slope, half), (weight, bias)) in enumerate(zip(LAYERS, layers)):
        kind = "Deconvolution" if title == "up" else "Convolution"
        active = "" if slope is None else " 9=1" if slope == 0 else f" 9=2 -23310=1,{slope:e}"
        lines.append(f"{kind} {title} 1 1 {before} map{k + 1} 0={outputs} 1={kernel} 3={stride} 4={pad} 5=1 6={weight.size}{active}")
        before = f"map{k + 1}"
        stored = weight.astype("<f2").tobytes() if half else weight.astype("<f4").tobytes()
        data += (0x01306B47 if half else 0).to_bytes(4, "little") + stored + b"\0" * (-len(stored) % 4) + bias.astype("<f4").tobytes()
    (folder / f"{name}.param").write_text("\n".join(lines) + "\n")
    (folder / f"{name}.bin").write_bytes(data)
    return folder / f"{name}.param"


def convolved(x, weight, bias, stride, pad, slope, change=lambda patches: patches):
    """x: channels x height x width. Sums over shifted pictures, one for each weight of a kernel."""
    x = np.pad(x, ((0, 0), (pad, pad), (pad, pad)))
    k = weight.shape[-1]
    height, width = (x.shape[1] - k) // stride + 1, (x.shape[2] - k) // stride + 1
    shifted = np.array([[x[:, a:a + height * stride:stride, b:b + width * stride:stride] for b in range(k)] for a in range(k)])
    y = np.einsum("oiab,abihw->ohw", weight, change(shifted)) + bias[:, None, None]
    return np.where(y < 0, y * (1 if slope is None else slope), y), shifted


def transposed(x, weight, bias, stride, pad):
    _, height, width = x.shape
    k = weight.shape[-1]
    y = np.zeros((weight.shape[0], (height - 1) * stride + k, (width - 1) * stride + k))
    for a in range(k):
        for b in range(k):
            y[:, a:a + height * stride:stride, b:b + width * stride:stride] += np.einsum("oi,ihw->ohw", weight[:, :, a, b], x)
    return y[:, pad:y.shape[1] - pad, pad:y.shape[2] - pad] + bias[:, None, None]


# The network loses 2 pixels a side of convolutions and gains none by 4 x 4 at stride 2 less 3 + 3: 2 (n + 2 b - 4 - 1) + 4 - 6 >= 2 n.
BORDER = 3


def enlarged(picture, layers, changes={}):
    """The network's output and the patches that each convolution saw."""
    x, seen = np.pad(picture, ((0, 0), (BORDER, BORDER), (BORDER, BORDER)), mode="edge"), []
    for (title, _, _, _, stride, pad, slope, _), (weight, bias) in zip(LAYERS, layers):
        if title == "up":
            x = transposed(x, weight.astype(float), bias.astype(float), stride, pad)
        else:
            x, patches = convolved(x, weight.astype(float), bias.astype(float), stride, pad, slope, changes.get(title, lambda p: p))
            seen.append(patches)
    height, width = 2 * picture.shape[1], 2 * picture.shape[2]
    top, left = (x.shape[1] - height) // 2, (x.shape[2] - width) // 2
    return x[:, top:top + height, left:left + width], seen


# ------------------------------------------------------------------------------------------------------------ files
def write_ppm(path, picture, top=255, comment=b""):
    numbers = np.moveaxis(np.round(picture * top), 0, 2).astype(">u2" if top > 255 else np.uint8)
    path.write_bytes(b"P6\n" + comment + b"%d %d\n%d\n" % (picture.shape[2], picture.shape[1], top) + numbers.tobytes())
    return np.round(picture * top) / top


def read_pfm(path):
    magic, size, scale, data = path.read_bytes().split(b"\n", 3)
    width, height = map(int, size.split())
    assert magic == b"PF" and scale == b"-1.0"
    return np.moveaxis(np.frombuffer(data, "<f4").reshape(height, width, 3)[::-1], 2, 0).astype(float)


def read_ppm(path):
    magic, size, top, data = path.read_bytes().split(b"\n", 3)
    width, height = map(int, size.split())
    assert magic == b"P6" and top == b"255"
    return np.moveaxis(np.frombuffer(data, np.uint8).reshape(height, width, 3), 2, 0)


def smooth(height, width):
    y, x = np.mgrid[:height, :width]
    return np.array([0.5 + 0.45 * np.sin(rng.uniform(0.1, 0.6) * x + rng.uniform(0.1, 0.6) * y + c) for c in range(3)])


def psnr(a, b):
    return -10 * math.log10(np.mean((np.clip(a, 0, 1) - np.clip(b, 0, 1)) ** 2))


def run(*arguments):
    done = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


def cells(text, first):
    line = next(line for line in text.splitlines()[::-1] if line.startswith(f"| {first} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


# ------------------------------------------------------------------------------------------------------------ what it says
def forward_is_right(folder, model, layers):
    small, deep = folder / "small.ppm", folder / "deep.ppm"
    for path, top, comment in ((small, 255, b""), (deep, 60000, b"# a comment\n")):
        picture = write_ppm(path, smooth(9, 14), top, comment)
        right, _ = enlarged(picture, layers)
        code, _, why = run(model, path, "--out", folder / "out.pfm")
        require(code == 0 and np.abs(read_pfm(folder / "out.pfm") - right).max() < 2e-6, f"{path.name} enlarged as in float64 {why}")
        run(model, path, "--out", folder / "out.ppm")
        off = np.abs(read_ppm(folder / "out.ppm") - 255 * np.clip(right, 0, 1)).max()
        require(off < 0.5 + 1e-3, f"{path.name}: rounded to 8 bits, off by {off:.4f}")


def min_max(weight, bits):
    flat = weight.reshape(len(weight), -1).astype(float)
    low, high = flat.min(1, keepdims=True), flat.max(1, keepdims=True)
    step = (high - low) / (2 ** bits - 1)
    return (low + step * np.round((flat - low) / step)).reshape(weight.shape)


def compression_is_right(folder, model, layers):
    calib = [write_ppm(folder / f"calib{k}.ppm", smooth(12, 11)) for k in range(2)]
    test, whole = write_ppm(folder / "test.ppm", smooth(10, 13)), write_ppm(folder / "whole.ppm", smooth(20, 26))
    dense, _ = enlarged(test, layers)
    seen = [enlarged(picture, layers)[1] for picture in calib]
    small, changes, errors = list(layers), {}, {}
    for k in (1, 2):  # the ends stay
        weight, bias = layers[k]
        patches = np.concatenate([s[k].reshape(*s[k].shape[:3], -1) for s in seen], -1)  # a, b, channel, pixel
        coarse = min_max(weight, 3)
        off = np.einsum("oiab,abit->ot", weight - coarse, patches)
        errors[LAYERS[k][0]] = math.sqrt((off ** 2).sum() / (np.einsum("oiab,abit->ot", weight, patches) ** 2).sum())
        small[k] = (coarse, bias + off.mean(1))
        low, high = patches.min(), patches.max()
        step = (high - low) / 15
        changes[LAYERS[k][0]] = lambda p, low=low, step=step: low + step * np.clip(np.round((p - low) / step), 0, 15)
    for recipe, used in (("int3@range=minmax@bias", {}), ("int3@bias@inputs=4", changes)):
        right, _ = enlarged(test, small, used)
        code, text, why = run(model, folder / "test.ppm", "--originals", folder / "whole.ppm", "--calib", folder / "calib0.ppm",
                              folder / "calib1.ppm", "--recipe", recipe, "--out", folder / "out.pfm")
        require(code == 0, f"{recipe} runs {why}")
        # The bounds of inputs come from a sample: all tokens here, as there are fewer than it takes.
        off = np.abs(read_pfm(folder / "out.pfm") - right)
        require(np.median(off) < 1e-5 and (off > 1e-4).mean() < 0.05, f"{recipe}: weights, bias and inputs as in float64, off by {off.max():.2e}")
        _, bits, to_dense, to_whole = cells(text, recipe)
        require(abs(float(to_dense) - psnr(right, dense)) < 0.05 and abs(float(to_whole) - psnr(right, whole)) < 0.05,
                f"{recipe}: {to_dense} and {to_whole} dB, here {psnr(right, dense):.3f} and {psnr(right, whole):.3f}")
        stored = sum(3 * layers[k][0].size + 64 * len(layers[k][0]) for k in (1, 2)) / sum(layers[k][0].size for k in (1, 2))
        require(abs(float(bits) - stored) < 1e-3, f"{recipe}: {bits} bits per weight")
        for name, error in errors.items():
            require(abs(float(cells(text, name)[3]) - error) < 1e-4, f"{recipe}: output error of {name} is {error:.4f}")
    _, text, _ = run(model, folder / "test.ppm", "--calib", folder / "calib0.ppm", folder / "calib1.ppm", "--recipe",
                     "int2@range=minmax,int2@range=dobi,int2@range=output,int2@range=99@tensor")
    worst, middle, best = (float(part.split("| second |")[1].split("|")[2]) for part in text.split("## int2")[1:4])
    require(best <= middle and best <= worst and float(cells(text, "int2@range=99@tensor")[1]) < 3,
            f"output errors of int2: minmax {worst}, dobi {middle}, output {best}")


def refusals_are_sentences(folder, model):
    param, data, picture = model.read_text(), model.with_suffix(".bin").read_bytes(), folder / "small.ppm"
    broken = [
        (param.replace("7767517", "7767518"), data, "no ncnn model"), (param.replace("5 5", "6 5"), data, "promises 6 layers and has 5"),
        (param.replace("Convolution second", "Pooling second"), data, "'second' (Pooling): this type is not read"),
        (param.replace("map1 map2", "map0 map2"), data, "reads 'map0'"), (param.replace(" 9=2", " 9=3", 1), data, "parameter 9 is 3"),
        (param.replace("0=4", "0=5", 1), data, "parameter 6 is 108"), (param.replace("1=3", "1=3x", 1), data, "parameter 1 is '3x'"),
        (param.replace(" 5=1", " 5=1 8=1", 1), data, "parameter 8 is not known"), (param.replace(" 4=3", " 4=9"), data, "parameter 4 is 9"),
        (param, data[:-1], "ends in layer 'up'"), (param, data + b"\0", "1 bytes behind"), (param, b"\1" + data[1:], "have tag"),
        (param, data[:4] + b"\0\x7c" + data[6:], "'first': number 0 is not finite"),
        (param.replace("6=336", "6=336 7"), data, "'7' is no parameter"), (param.replace("0=3 1=4", "0=6 1=4").replace("6=336", "6=672"), data, "ends in"),
    ]
    for text, weights, sentence in broken:
        (folder / "broken.param").write_text(text)
        (folder / "broken.bin").write_bytes(weights)
        code, _, why = run(folder / "broken.param", picture)
        require(code == 1 and sentence in why and "broken." in why, f"refused: {sentence}: {why.strip()[-160:]}")
    good = picture.read_bytes()
    for content, sentence in ((good[:-1], "the file has"), (b"P5" + good[2:], "is no binary PPM"), (good.replace(b"14 9", b"-4 9"), "the width is '-4'"),
                              (good.replace(b"14 9", b"14 99999999"), "the height is"), (good.replace(b"\n255\n", b"\n100\n"), "above 100"), (b"", "P6")):
        (folder / "broken.ppm").write_bytes(content)
        code, _, why = run(model, folder / "broken.ppm")
        require(code == 1 and sentence in why and "broken.ppm" in why, f"refused: {sentence}: {why.strip()[-120:]}")
    for recipe, sentence in (("int9", "'9' is no width"), ("int3@range=most", "@range=most is not known"), ("int4@inputs=0", "'0' is no width"),
                             ("int4@small", "@small is not known"), ("four", "does not begin with int"), ("int3@range=50", "is not known")):
        code, _, why = run(model, picture, "--calib", picture, "--recipe", recipe)
        require(code == 1 and sentence in why, f"refused: {why.strip()}")
    code, _, why = run(model, picture, "--originals", picture)
    require(code == 1 and "not 2 times that" in why, f"refused: {why.strip()}")
    require(run(model, picture, "--recipe", "int4")[0] == 2 and run(model, folder / "none.ppm")[0] == 1, "no calibration: 2, no file: 1")


with tempfile.TemporaryDirectory() as name:
    folder, layers = Path(name), random_layers()
    model = write_model(folder, layers)
    forward_is_right(folder, model, layers)
    compression_is_right(folder, model, layers)
    refusals_are_sentences(folder, model)
print(f"{len(failed)} failed")
sys.exit(1 if failed else 0)
