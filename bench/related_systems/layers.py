"""What the scripts of other networks share: layers through `compress_layers`, and inputs rounded as it says."""
import subprocess
import tempfile
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file


class compressed_layers:
    """Layers and operands by name, as compress_layers RECIPE returned them."""

    def __init__(self, program, recipe, weights, inputs):
        """weights: NAME -> d_out x d_in; inputs: NAME -> tokens x d_in. Checks its own arithmetic against the library's."""
        with tempfile.TemporaryDirectory() as folder:
            before, after = Path(folder) / "in.safetensors", Path(folder) / "out.safetensors"
            tensors = {f"{name}.weight": np.ascontiguousarray(w, np.float32) for name, w in weights.items()}
            tensors.update({f"{name}.inputs": np.ascontiguousarray(x, np.float32) for name, x in inputs.items()})
            save_file(tensors, before)
            subprocess.run([program, recipe, before, after], check=True, stderr=subprocess.DEVNULL)
            self.tensors = load_file(after)
        for name in weights:
            expected = self.tensors[f"{name}.output"]
            off = np.linalg.norm(self.linear(name, inputs[name][:len(expected)].astype(np.float32)) - expected)
            # A number on the edge between two levels may fall to either side.
            assert off <= 0.02 * np.linalg.norm(expected), (recipe, name, off / np.linalg.norm(expected))
        sizes = {name: w.size for name, w in weights.items()}
        self.bits = sum(float(self.tensors[f"{name}.bits"].item()) * n for name, n in sizes.items()) / sum(sizes.values())

    def get(self, name, part):
        return self.tensors.get(f"{name}.{part}")

    def rounded(self, name, x):
        """Inputs as the layer sees them: between bounds, or 4 bits per token and 64 channels, divided by factors meanwhile."""
        bounds = self.get(name, "bounds")
        if bounds is not None:
            low, step = bounds[0, 0], (bounds[0, 1] - bounds[0, 0]) / np.float32(15)
            return x if step == 0 else low + step * np.rint(np.clip((x - low) / step, 0, 15))
        factors = self.get(name, "factors")
        x = x if factors is None else x / factors[0]
        tokens, channels = x.shape
        groups = np.pad(x, ((0, 0), (0, -channels % 64))).reshape(tokens, -1, 64)
        scale = np.abs(groups).max(2, keepdims=True) / np.float32(7)
        levels = np.rint(np.divide(groups, scale, out=np.zeros_like(groups), where=scale > 0))
        x = (levels * scale).reshape(tokens, -1)[:, :channels]
        return x if factors is None else x * factors[0]

    def linear(self, name, x):
        y = self.rounded(name, x) @ self.get(name, "weight").T
        branch = self.get(name, "branch")
        return y if branch is None else y + x @ branch.T
