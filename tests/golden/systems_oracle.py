"""systems_oracle.py SYSTEMS_DUMP: six related systems on a 64 x 96 layer, once more in NumPy and float64, written from the papers and
what docs/guides/related_systems.md promises, not from our C++: every book by dynamic programming over all cuts, every sweep column by
column, every decomposition whole.

A sweep of ours in float may round a tie the other way and then goes its own way to the end of the row, so sweeps are compared
weight by weight for the most part, and by their loss as a whole. Exit status 77 if NumPy is missing.
"""
import os, subprocess, sys, tempfile

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
try:
    import numpy as np
except ImportError as missing:
    print("skipped:", missing)
    sys.exit(77)

failed = []


def require(holds, what):
    print("ok  " if holds else "FAIL", what)
    if not holds:
        failed.append(what)


def fp16(x):
    return np.asarray(x, np.float32).astype(np.float16).astype(np.float64)


# -------------------------------------------------------------------------------------------------------- SqueezeLLM
def best_levels(x, mass, count):
    """Levels of least weighted squared error: all cuts of the sorted numbers, by dynamic programming."""
    order = np.argsort(x)
    x, mass = x[order], mass[order]
    n = len(x)
    cost, mean = np.full((n + 1, n + 1), np.inf), np.zeros((n + 1, n + 1))
    for a in range(n):
        for b in range(a + 1, n + 1):
            mean[a, b] = np.average(x[a:b], weights=mass[a:b])
            cost[a, b] = (mass[a:b] * (x[a:b] - mean[a, b]) ** 2).sum()
    least, cuts = cost[0].copy(), []
    for _ in range(count - 1):
        every = least[:, None] + cost
        cuts.append(every.argmin(0))
        least = every.min(0)
    end, levels = n, []
    for cut in cuts[::-1]:
        levels.append(mean[cut[end], end])
        end = cut[end]
    return np.array(levels + [mean[0, end]])


def rounded_to_levels(w, mass, count):
    out = np.zeros_like(w)
    for i in range(len(w)):
        kept = mass[i] > 0
        levels = np.sort(fp16(best_levels(w[i][kept], mass[i][kept], count)))
        out[i] = levels[np.abs(w[i][:, None] - levels).argmin(1)]
    return out


# ------------------------------------------------------------------------------------------------------ error feedback
def hessian(x, damping):
    h = x.T @ x / len(x)
    return h / np.mean(np.diag(h)) + damping * np.eye(len(h))


def factor(h):
    return np.linalg.cholesky(np.linalg.inv(h)).T  # upper, H^-1 = U^T U


def second_level(v, bits):
    """Numbers of sixteen rows as codes between their least and largest, both ends in 16 bits."""
    out = np.zeros_like(v)
    for i in range(0, len(v), 16):
        base = fp16(v[i:i + 16].min())
        step = fp16((v[i:i + 16].max() - base) / (2 ** bits - 1))
        out[i:i + 16] = base + step * (np.clip(np.rint((v[i:i + 16] - base) / step), 0, 2 ** bits - 1) if step > 0 else 0)
    return out


def fit_group(v, bits, stored):
    """Scale and lower end of every row: least squares over ranges that hold 0 and shrink; one bit is a mean and a distance."""
    top = 2 ** bits - 1
    if bits == 1:
        mean = v.mean(1)
        spread = np.abs(v - mean[:, None]).mean(1)
        scale, low = 2 * spread, mean - spread
    else:
        bottom, high = np.minimum(v.min(1), 0), np.maximum(v.max(1), 0)
        least, scale, low = np.full(len(v), np.inf), (high - bottom) / top, bottom.copy()
        for f in np.linspace(0.5, 1, 26):
            step, base = (high - bottom) * f / top, bottom * f
            q = np.clip(np.rint((v - base[:, None]) / step[:, None]), 0, top)
            error = ((v - base[:, None] - q * step[:, None]) ** 2).sum(1)
            scale, low = np.where(error < least, step, scale), np.where(error < least, base, low)
            least = np.minimum(least, error)
    return second_level(scale, stored), second_level(low, stored)


def sweep(w, u, widths, stored=3, threshold=np.inf, fixed=None):
    """Error feedback into groups of 16 fitted on the way; what costs more than the threshold, or is fixed, is apart."""
    now, q, apart, errors = w.copy(), np.zeros_like(w), np.zeros(w.shape, bool), np.zeros_like(w)
    for j in range(w.shape[1]):
        if j % 16 == 0:
            bits = widths[j // 16]
            part = now[:, j:j + 16].copy()
            out = np.zeros(part.shape, bool) if fixed is None else fixed[:, j:j + 16]
            if np.isfinite(threshold):
                out = likely_outliers(part, np.diag(u)[j:j + 16], bits, threshold)
            for i in range(len(part)):
                if out[i].any() and not out[i].all():
                    part[i, out[i]] = part[i, ~out[i]].mean()
            scale, low = fit_group(part, bits, stored)
        code = np.clip(np.rint((now[:, j] - low) / np.where(scale > 0, scale, 1)), 0, 2 ** bits - 1)
        value = low + scale * code
        apart[:, j] = ((now[:, j] - value) / u[j, j]) ** 2 > threshold
        if fixed is not None:
            apart[:, j] = fixed[:, j]
        q[:, j] = np.where(apart[:, j], now[:, j], value)
        errors[:, j] = (now[:, j] - q[:, j]) / u[j, j]
        now[:, j + 1:] -= np.outer(errors[:, j], u[j, j + 1:])
    return q, apart, errors


def likely_outliers(part, pivots, bits, threshold):
    """Leave one out, with ranges that hold 0: the code of SpQR."""
    top = 2 ** bits - 1

    def losses(row, without):
        others = np.delete(row, without) if without is not None else row
        low, high = min(others.min(), 0.0), max(others.max(), 0.0)
        step = (high - low) / top
        value = low + step * np.rint((row - low) / step) if step > 0 else 0 * row
        return ((row - value) / pivots) ** 2

    out = np.zeros(part.shape, bool)
    for i, row in enumerate(part):
        base = losses(row, None).sum()
        for k in range(len(row)):
            out[i, k] = base - np.delete(losses(row, k), k).sum() > threshold
    return out


def relative_loss(e, h, w):
    return np.sqrt(np.trace(e @ h @ e.T) / np.trace(w @ h @ w.T))


# ------------------------------------------------------------------------------------------------------------ allocation
def rounding_error(w, bits, stored):
    out = np.zeros_like(w)
    for j in range(0, w.shape[1], 16):
        part = w[:, j:j + 16]
        scale, low = fit_group(part, bits, stored)
        code = np.clip(np.rint((part - low[:, None]) / np.where(scale > 0, scale, 1)[:, None]), 0, 2 ** bits - 1)
        out[:, j:j + 16] = part - low[:, None] - scale[:, None] * code
    return out


def balanced_widths(w, h, u_of_score, stored):
    """All numbers of pairs, best by the squared output error of rounding."""
    scores = (w ** 2 / np.diag(u_of_score) ** 2).reshape(len(w), -1, 16).mean((0, 2))
    order, errors = np.argsort(scores, kind="stable"), {b: rounding_error(w, b, stored) for b in (1, 2, 3)}
    best, least = None, np.inf
    for p in range(len(order) // 2 + 1):
        widths = np.full(len(order), 2)
        widths[order[:p]] -= 1
        widths[order[len(order) - p:]] += 1
        e = np.concatenate([errors[b][:, 16 * g:16 * g + 16] for g, b in enumerate(widths)], 1)
        loss = np.trace(e @ h @ e.T)
        if loss < least:
            best, least = widths, loss
    return best


# ------------------------------------------------------------------------------------------------------------------ main
def main(program):
    with tempfile.TemporaryDirectory() as folder:
        lines = subprocess.run([program, folder], check=True, capture_output=True, text=True).stdout.split("\n")
        ours = {}
        for line in filter(None, lines):
            name, rows, cols = line.split()
            ours[name] = np.fromfile(os.path.join(folder, name), np.float32).reshape(int(rows), int(cols)).astype(np.float64)
    w, x = ours["w"], ours["x"]
    h = hessian(x, 0.0)

    def same_sweep(name, q, apart):
        values, where = ours[name + ".values"], ours[name + ".apart"] > 0
        # what is apart has a residual in 16 bits
        equal = np.abs(values - q) <= 1e-5 + np.where(apart, 2e-3 * np.abs(q), 0)
        require(equal.mean() > 0.9, f"{name}: {100 * equal.mean():.1f}% of the weights are the oracle's")
        a, b = relative_loss(w - values, h, w), relative_loss(w - q, h, w)
        require(abs(a / b - 1) < 0.02, f"{name}: output error {a:.5f}, the oracle's {b:.5f}")
        shared = (where & apart).sum() / max((where | apart).sum(), 1) if apart.any() else float(not where.any())
        require(shared > 0.85, f"{name}: {where.sum()} weights apart, the oracle's {apart.sum()}, {100 * shared:.0f}% shared")

    energy = np.broadcast_to((x ** 2).mean(0), w.shape)
    books = rounded_to_levels(w, energy, 8)
    require((np.abs(ours["kmeans.values"] - books) < 1e-4).mean() > 0.99, "k-means: every book is the best one")
    largest = np.zeros(w.shape, bool)
    largest.flat[np.argsort(-np.abs(w), axis=None, kind="stable")[:62]] = True  # 6144 less floor(0.99 * 6144)
    require((ours["squeeze.apart"] > 0).sum() == 62 and ((ours["squeeze.apart"] > 0) == largest).all(), "squeeze: the largest are apart")
    rest = rounded_to_levels(np.where(largest, 0, w), np.where(largest, 0.0, 1.0), 4)
    require((np.abs(ours["squeeze.values"] - np.where(largest, w, rest)) < 2e-4).mean() > 0.99, "squeeze: books of the rest, weights apart")
    require(ours["squeeze.bits"][0, 0] == w.size * 2 + 64 * 4 * 16 + 65 * 32 + 62 * 32, "squeeze: bits are counted")

    damped = hessian(x, 0.1)
    u = factor(damped)
    threshold = 0.2 * np.mean(w.var(0, ddof=1) / np.diag(u) ** 2)
    q, apart, _ = sweep(w, u, [3] * 6, threshold=threshold)
    same_sweep("spqr", q, apart)
    require(ours["spqr.bits"][0, 0] == w.size * 3.625 + 65 * 32 + 32 * ours["spqr.apart"].sum(), "spqr: bits are counted")

    widths = balanced_widths(w, damped, factor(hessian(x, 0.01)), 3)
    require((ours["balanced.widths"][0] == widths).all(), f"balanced: widths {ours['balanced.widths'][0]}, the oracle's {widths}")
    q, apart, _ = sweep(w, u, widths)
    same_sweep("balanced", q, apart)

    ranges = (w.reshape(64, 6, 16).max(2) - w.reshape(64, 6, 16).min(2)) ** 2
    scores = (ranges[:, :, None] * (x ** 2).mean(0).reshape(6, 16)[None]).mean((0, 2))
    widths = np.where(np.argsort(np.argsort(-scores, kind="stable")) < 2, 4, 2)
    require((ours["wide.widths"][0] == widths).all(), f"2/4/16: widths {ours['wide.widths'][0]}, the oracle's {widths}")
    _, _, errors = sweep(w, u, widths)
    errors[:, np.repeat(widths, 16) == 4] = 0
    fixed = np.zeros(w.shape, bool)
    fixed.flat[np.argsort(-np.abs(errors), axis=None, kind="stable")[:61]] = True
    q, _, _ = sweep(w, u, widths, fixed=fixed)
    same_sweep("wide", q, fixed)

    left, s, right = np.linalg.svd(w)
    branch = left[:, :8] * s[:8] @ right[:8]
    groups = (w - branch).reshape(64, 3, 32)
    scale = fp16(np.abs(groups).max(2) / 7)[..., None]
    q = (np.rint(groups / scale) * scale).reshape(w.shape) + branch
    a, b = relative_loss(w - ours["svd.values"], h, w), relative_loss(w - q, h, w)
    require(abs(a / b - 1) < 0.005, f"svd: output error {a:.5f}, with the whole decomposition {b:.5f}")

    losses, least = [], []
    for i in range(64):
        low, high = w[i].min(), w[i].max()
        every = []
        for k in range(100):
            for l, r in ((low + k * (high - low) / 200, high - k * (high - low) / 200),
                         (low, high - k * (high - low) / 100) if abs(low) <= abs(high) else (low + k * (high - low) / 100, high)):
                e = w[i] - (l + np.rint((np.clip(w[i], l, r) - l) / (r - l) * 7) * (r - l) / 7)
                every.append(e @ h @ e)
        e = w[i] - ours["range.values"][i]
        losses.append(e @ h @ e)
        least.append(min(every))
    require(np.allclose(losses, least, rtol=2e-3), "range: every row has the range of least output error")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
