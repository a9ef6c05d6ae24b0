"""grid_oracle.py GRID_DUMP: GPTQ, SparseGPT and the joint solver on second-level grids and code books, once more in NumPy.

Written from the papers (GPTQ 2210.17323, SparseGPT 2301.00774, SpQR 2306.03078, CALDERA 2405.18886, QLoRA 2305.14314) and from
what our documentation promises, in float64, column by column with an explicit inverse. For each case of
tests/joint/grid_dump.cpp:

 1. values, masks, second levels and stored bits are what the definitions say of the codes;
 2. every decision of ours (fitted scale, kept weight, rounded weight) is the best one in float64, given the decisions before it;
 3. left to itself, the oracle loses as much: the same codes in nearly all rows, the same loss.

Exit status 77 if NumPy is missing.
"""
import os, subprocess, sys, tempfile
from statistics import NormalDist

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # small matrices, and other tests run beside this one
try:
    import numpy as np
except ImportError as missing:
    print("skipped:", missing)
    sys.exit(77)


# ------------------------------------------------------------------------------------------------------------ grids
def fp16(x):
    return np.asarray(x, np.float32).astype(np.float16).astype(np.float64)


def bf16(x):
    bits = np.asarray(x, np.float32).view(np.uint32).astype(np.uint64)
    return ((bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000).astype(np.uint32).view(np.float32).astype(np.float64)


def largest_error(a, b):
    return float(np.max(np.abs(a - b)) / np.max(np.abs(b)))


class SecondLevel:
    """Numbers as small codes: step * code (+ offset), a step per `tall` rows x `wide` groups."""

    def __init__(self, bits, tall, wide, shifted):
        self.top, self.tall, self.wide, self.shifted, self.bits = 2 ** bits - 1, tall, wide, shifted, bits

    def blocks(self, v):
        for i in range(0, v.shape[0], self.tall):
            for g in range(0, v.shape[1], self.wide):
                yield np.s_[i:i + self.tall, g:g + self.wide], (i // self.tall, g // self.wide)

    def store(self, v, positive):
        """codes, steps, offsets of numbers v; with `positive`, what is above 0 stays so"""
        shape = (-(-v.shape[0] // self.tall), -(-v.shape[1] // self.wide))
        codes, steps, offsets = np.zeros(v.shape, int), np.zeros(shape), np.zeros(shape)
        for part, at in self.blocks(v):
            block = v[part]
            offsets[at] = fp16(block.min()) if self.shifted else 0.0
            far = block.max() - offsets[at] if self.shifted else block.flat[np.argmax(np.abs(block))]
            steps[at] = fp16(far / self.top)
            every = offsets[at] + steps[at] * np.arange(self.top + 1)
            codes[part] = np.argmin(np.abs(block[..., None] - every), -1)
            if positive:
                codes[part] = np.where((block > 0) & (every[codes[part]] == 0), 1, codes[part])
        return codes, steps, offsets

    def load(self, codes, steps, offsets):
        v = np.zeros(codes.shape)
        for part, at in self.blocks(codes):
            v[part] = steps[at] * codes[part] + offsets[at]
        return v

    def stored_bits(self, rows, groups):
        blocks = -(-rows // self.tall) * -(-groups // self.wide)
        return rows * groups * self.bits + 16 * blocks * (2 if self.shifted else 1)


class SuperBlocks:
    """Levels 0 .. 2^bits - 1 times a scale plus an offset per group; both in a second level."""

    def __init__(self, bits, group, second):
        self.bits, self.group, self.second, self.top = bits, group, second, 2 ** bits - 1
        self.fit_cols = group * second.wide

    def fit(self, v):
        """Least squares over ranges that shrink towards 0 and hold it, then the second level."""
        groups = v.reshape(v.shape[0], -1, self.group)
        low, high = np.minimum(groups.min(2), 0), np.maximum(groups.max(2), 0)
        least, scales, offsets = np.full(low.shape, np.inf), np.zeros(low.shape), np.zeros(low.shape)
        for f in np.linspace(0.5, 1, 26):
            step, base = (high - low) * f / self.top, low * f
            with np.errstate(invalid="ignore", divide="ignore"):
                q = np.clip(np.rint((groups - base[..., None]) / step[..., None]), 0, self.top)
            error = ((groups - np.nan_to_num(q) * step[..., None] - base[..., None]) ** 2).sum(2)
            better = error < least
            least = np.where(better, error, least)
            scales, offsets = np.where(better, step, scales), np.where(better, base, offsets)
        return Fitted(self, self.second.store(scales, True), self.second.store(offsets, False))

    def read(self, case):
        parts = lambda t: (case[t + ".codes"].astype(int), case[t + ".steps"], case.get(t + ".offsets", 0 * case[t + ".steps"]))
        return Fitted(self, parts("scales"), parts("offsets"))

    def levels_of(self, case):
        return case["codes"].astype(int) + 2 ** (self.bits - 1)

    def stored_bits(self, rows, cols, kept):
        return kept * self.bits + 2 * self.second.stored_bits(rows, cols // self.group)


class Fitted:
    """A SuperBlocks grid with its scales: what a column may hold."""

    def __init__(self, grid, scales, offsets):
        self.grid, self.parts = grid, {"scales": scales, "offsets": offsets}
        self.scale, self.offset = grid.second.load(*scales), grid.second.load(*offsets)

    def every(self, j):
        """all values of column j, rows x levels"""
        g = j // self.grid.group
        return self.scale[:, [g]] * np.arange(self.grid.top + 1) + self.offset[:, [g]]

    def put(self, other, first):
        """scales of columns first .. become those of `other`, whose first column is that one"""
        g, b = first // self.grid.group, first // self.grid.fit_cols
        for name in self.parts:
            for mine, new, at in zip(self.parts[name], other.parts[name], (g, b, b)):
                mine[:, at:at + new.shape[1]] = new
        self.scale[:, g:g + other.scale.shape[1]] = other.scale
        self.offset[:, g:g + other.offset.shape[1]] = other.offset

    def same_as(self, other):
        """share of the second-level codes that agree"""
        return np.mean([np.mean(self.parts[n][0] == other.parts[n][0]) for n in self.parts])

    def parameters(self, levels):
        """What refit moves, in order: steps, and what a weight grows by when one does."""
        second = self.grid.second
        for name, factor in (("scales", levels), ("offsets", np.ones(levels.shape))):
            codes, steps, _ = self.parts[name]
            yield steps, np.repeat(codes, self.grid.group, 1) * factor, second.tall, self.grid.fit_cols

    def reload(self):
        self.scale = self.grid.second.load(*self.parts["scales"])
        self.offset = self.grid.second.load(*self.parts["offsets"])


class Table:
    """Levels of one book times an fp16 scale per group, which reaches the largest weight."""

    def __init__(self, levels, group):
        self.levels, self.group, self.fit_cols = np.asarray(levels, np.float32).astype(float), group, group
        self.bits = int(np.log2(len(levels)))

    def fit(self, v):
        groups = v.reshape(v.shape[0], -1, self.group)
        reach = np.maximum(groups.max(2) / self.levels[-1], groups.min(2) / self.levels[0])
        return FittedTable(self, fp16(np.maximum(reach, 0)))

    def read(self, case):
        require(np.abs(case["book"] - self.levels).max() < 2e-7, "the book is NF4")  # quantiles of float probabilities
        self.levels = case["book"][0]
        return FittedTable(self, case["scales"])

    def levels_of(self, case):
        return case["codes"].astype(int)

    def stored_bits(self, rows, cols, kept):
        return kept * self.bits + rows * cols // self.group * 16 + len(self.levels) * 32  # NF4 levels are no fp16 numbers


class FittedTable:
    def __init__(self, grid, scale):
        self.grid, self.scale = grid, scale

    def every(self, j):
        return self.scale[:, [j // self.grid.group]] * self.grid.levels

    def put(self, other, first):
        g = first // self.grid.group
        self.scale[:, g:g + other.scale.shape[1]] = other.scale

    def same_as(self, other):
        return np.mean(np.abs(self.scale - other.scale) <= 1e-6 * other.scale)

    def parameters(self, levels):
        yield self.scale, self.grid.levels[levels], 1, self.grid.group

    def reload(self):
        pass


def nf4():
    """By its definition (QLoRA, section 3, and bitsandbytes' create_normal_map): quantiles of the normal distribution, 7 below
    0 and 8 above it."""
    quantile, far = NormalDist().inv_cdf, 0.9677083
    up = [quantile(p) for p in np.linspace(far, 0.5, 9)[:-1]]
    down = [-quantile(p) for p in np.linspace(far, 0.5, 8)[:-1]]
    levels = np.sort(np.array(up + [0.0] + down))
    return levels / levels.max()


# ------------------------------------------------------------------------------------------------------- algorithms
class Elimination:
    """For every column j the row of the inverse of H restricted to j and what comes after it; its first entry is the pivot."""

    def __init__(self, h):
        inverse = np.linalg.inv(h)
        self.rows = []
        for _ in range(len(h)):
            row = inverse[0].copy()
            self.rows.append(row)
            inverse = inverse[1:, 1:] - np.outer(row[1:], row[1:]) / row[0]

    def pivot(self, j):
        return self.rows[j][0]


def nearest(every, x):
    """position of the nearest value, and how far it is"""
    away = np.abs(x[:, None] - every)
    return np.argmin(away, 1), away.min(1)


def at(every, levels):
    return np.take_along_axis(every, levels[:, None], 1)[:, 0]


class Swept:
    def __init__(self, shape):
        self.values, self.levels, self.kept = np.zeros(shape), np.zeros(shape, int), np.ones(shape, bool)
        self.rounding = self.choice = 0.0  # the worst decision of those that were followed, see feed_back
        self.same_fits = []


def feed_back(v, elimination, fitted, pairs=False, refit=False, follow=None):
    """Optimal brain surgeon: column by column, each error spread over what comes after it. `pairs`: 2:4 is chosen on the way.
    With `follow`, an earlier result's decisions are taken in place of the best ones; how much worse they are, in steps of the
    grid and in shares of the largest gain of a group, is noted."""
    w, out = v.copy(), Swept(v.shape)
    for j in range(w.shape[1]):
        if refit and j % fitted.grid.fit_cols == 0:
            found = fitted.grid.fit(w[:, j:j + fitted.grid.fit_cols])
            if follow is None:
                fitted.put(found, j)
            else:
                out.same_fits.append(follow.part(j).same_as(found))
                fitted.put(follow.part(j), j)
        if pairs and j % 4 == 0:
            gain = np.stack([(w[:, k] ** 2 - nearest(fitted.every(k), w[:, k])[1] ** 2) / elimination.pivot(k)
                             for k in range(j, j + 4)], 1)
            order = np.argsort(-gain, axis=1, kind="stable")
            kept = np.zeros(gain.shape, bool)
            np.put_along_axis(kept, order[:, :2], True, 1)
            if follow is not None:
                kept = follow.kept[:, j:j + 4]
                gap = np.where(kept, -np.inf, gain).max(1) - np.where(kept, gain, np.inf).min(1)
                out.choice = max(out.choice, (gap / np.maximum(gain.max(1), 1e-30)).max())
            out.kept[:, j:j + 4] = kept
        every = fitted.every(j)
        level, least = nearest(every, w[:, j])
        if follow is not None:
            here = out.kept[:, j]
            worse = np.abs(w[:, j] - at(every, follow.levels[:, j])) - least
            step = np.diff(every, axis=1).max(1)
            out.rounding = max(out.rounding, (worse / np.maximum(step, 1e-30))[here].max(initial=0.0))
            level = np.where(here, follow.levels[:, j], level)
        out.levels[:, j] = level
        out.values[:, j] = np.where(out.kept[:, j], at(every, level), 0.0)
        error = (w[:, j] - out.values[:, j]) / elimination.pivot(j)
        w[:, j:] -= np.outer(error, elimination.rows[j])
    return out


def descend(v, s, h, fitted, pairs):
    """Each weight, or each 2:4 group, to the best of its candidates with all others fixed."""
    gradient = (v - s.values) @ h
    rows = np.arange(len(v))
    for j in range(0, v.shape[1], 4 if pairs else 1):
        here = slice(j, j + (4 if pairs else 1))
        now, q = s.values[:, here], h[here, here]
        slope = gradient[:, here] + now @ q
        energy = lambda x: 0.5 * np.einsum("ia,ab,ib->i", x, q, x) - (x * slope).sum(1)
        best, best_energy = now.copy(), energy(now)
        levels, kept = s.levels[:, here].copy(), s.kept[:, here].copy()
        every = [fitted.every(k) for k in range(here.start, here.stop)]
        if not pairs:
            level, _ = nearest(every[0], slope[:, 0] / q[0, 0])
            best, levels = at(every[0], level)[:, None], level[:, None]
        for a in range(4 if pairs else 0):
            for b in range(a + 1, 4):
                ideal = np.linalg.solve(q[np.ix_([a, b], [a, b])], slope[:, [a, b]].T)[0]
                below = np.maximum((every[a] < ideal[:, None]).sum(1) - 1, 0)
                for la in (below, np.minimum(below + 1, every[a].shape[1] - 1)):
                    x = np.zeros(now.shape)
                    x[:, a] = at(every[a], la)
                    lb, _ = nearest(every[b], (slope[:, b] - q[a, b] * x[:, a]) / q[b, b])
                    x[:, b] = at(every[b], lb)
                    e = energy(x)
                    better = e < best_energy
                    best_energy, best = np.where(better, e, best_energy), np.where(better[:, None], x, best)
                    kept[better] = np.isin(np.arange(4), [a, b])
                    levels[better, a], levels[better, b] = la[better], lb[better]
        gradient -= (best - now) @ h[here]
        s.values[:, here], s.levels[:, here], s.kept[:, here] = best, levels, kept


def refit(v, s, h, fitted):
    """Steps, one after the other, to where the loss is least, as fp16 has them."""
    for steps, growth, tall, wide in fitted.parameters(s.levels):
        growth = growth * s.kept
        for g in range(steps.shape[1]):
            here = np.s_[:, g * wide:(g + 1) * wide]
            direction = np.zeros(v.shape)
            direction[here] = growth[here]
            to_blocks = lambda x: x.sum(1).reshape(-1, tall).sum(1)
            slope, bend = to_blocks(direction * ((v - s.values) @ h)), to_blocks(direction * (direction @ h))
            moved = fp16(steps[:, g] + slope / np.maximum(bend, 1e-300))
            by = moved - steps[:, g]
            taken = (bend > 0) & (moved * steps[:, g] > 0) & (by * (by * bend - 2 * slope) < 0)
            steps[:, g] += np.where(taken, by, 0)
            s.values += direction * np.repeat(np.where(taken, by, 0), tall)[:, None]
    fitted.reload()


def hessian(x, damping):
    h = x.T @ x
    return h / np.mean(np.diag(h)) + damping * np.eye(len(h))


def loss(e, h):
    return float(np.sum((e @ h) * e))


def output_optimal(e, h, rank):
    """Best L R of rank r for tr(E' H E'^T), E' = E - (L R)^T: with H = C C^T the best part of E C."""
    u = np.linalg.svd(e @ np.linalg.cholesky(h), full_matrices=False)[0][:, :rank]
    return e.T @ u, u.T


def wanda24(v, x):
    score = (np.abs(v) * np.sqrt(np.mean(x ** 2, 0))).reshape(len(v), -1, 4)
    kept = np.zeros(score.shape, bool)
    np.put_along_axis(kept, np.argsort(-score, 2, kind="stable")[:, :, :2], True, 2)
    return kept.reshape(v.shape)


def joint(w, x, grid, rank, iterations, descents, rounded, damping=0.1, down_date=0.02):
    h = hessian(x, damping)
    unit = loss(w, h)
    left, right = output_optimal(w, h, rank)
    kept = wanda24(w - (left @ right).T, x)
    objective, best = [], (np.inf,)
    for _ in range(iterations):
        v = w - (left @ right).T
        hl = h @ left
        left_over = h - hl @ np.linalg.solve(left.T @ hl, hl.T) + down_date * np.mean(np.diag(h)) * np.eye(len(h))
        fitted = grid.fit(v * kept)
        s = feed_back(v, Elimination(left_over), fitted, pairs=True)
        kept = s.kept
        left, right = output_optimal(w - s.values, h, rank)
        objective.append(np.sqrt(loss(w - s.values - (left @ right).T, h) / unit))
        if objective[-1] < best[0]:
            best = (objective[-1], s, fitted, left, right)
    _, s, fitted, left, right = best
    s.kept, s.values, s.levels = s.kept.copy(), s.values.copy(), s.levels.copy()
    for k in range(descents + 1):  # the last one after the factors are rounded
        if k == descents:
            left, right = rounded(left), rounded(right)
        v = w - (left @ right).T
        descend(v, s, h, fitted, True)
        refit(v, s, h, fitted)
        if k < descents:
            left, right = output_optimal(w - s.values, h, rank)
    objective.append(np.sqrt(loss(w - s.values - (left @ right).T, h) / unit))
    return s, left, right, objective


# ------------------------------------------------------------------------------------------------------------ cases
def relative_error(e, w, x):
    return np.linalg.norm(x @ e.T) / np.linalg.norm(x @ w.T)


class Ours(dict):
    """The parts of one case, and its decisions."""

    def __init__(self, folder, name, grid):
        for file in os.listdir(folder):
            if file.startswith(name + "."):
                part = np.load(os.path.join(folder, file))
                self[file[len(name) + 1:-4]] = part.astype(float) if part.dtype == np.float32 else part
        self.name, self.grid = name, grid
        self.fitted, self.levels = grid.read(self), grid.levels_of(self)
        self.sparse = "mask" in self
        self.kept = self["mask"] == 1 if self.sparse else np.ones(self.levels.shape, bool)

    def part(self, j):
        """the grid's scales of the columns that are fitted together, from column j on"""
        groups, b = slice(j // self.grid.group, (j + self.grid.fit_cols) // self.grid.group), j // self.grid.fit_cols
        if isinstance(self.fitted, FittedTable):
            return FittedTable(self.grid, self.fitted.scale[:, groups])
        return Fitted(self.grid, *((c[:, groups], s[:, [b]], o[:, [b]]) for c, s, o in self.fitted.parts.values()))

    def swept(self):
        s = Swept(self.levels.shape)
        s.values, s.levels, s.kept = self["values"].copy(), self.levels.copy(), self.kept.copy()
        return s


def require(holds, what):
    if not holds:
        sys.exit("grid_oracle: " + what)


def check_structure(ours, x, w):
    rows, cols = ours.levels.shape
    n = ours.name
    if not isinstance(ours.grid, Table):
        for t in ("scales", "offsets"):
            codes, steps, offsets = ours.fitted.parts[t]
            require(codes.max() <= ours.grid.second.top, f"{n}: {t} fit in their bits")
            require(np.array_equal(fp16(steps), steps) and np.array_equal(fp16(offsets), offsets), f"{n}: {t} have fp16 steps")
            loaded = ours.grid.second.load(codes, steps, offsets)
            require(largest_error(ours[t], loaded) < 1e-6, f"{n}: {t} are step * code + offset")
        require(np.all(ours["scales"] > 0), f"{n}: scales are positive")
    else:
        require(np.array_equal(fp16(ours["scales"]), ours["scales"]), f"{n}: scales are fp16")
    values = np.stack([at(ours.fitted.every(j), ours.levels[:, j]) for j in range(cols)], 1) * ours.kept
    require(largest_error(ours["values"], values) < 1e-6, f"{n}: values are what the codes say")
    kept = ours.kept.sum()
    bits = ours.grid.stored_bits(rows, cols, kept)
    if ours.sparse:
        require(np.all(ours.kept.reshape(rows, -1, 4).sum(2) == 2), f"{n}: 2:4 holds")
        bits += 2 * kept  # a position among four for each
    approximation = values
    if "left" in ours:
        approximation = values + (ours["left"] @ ours["right"]).T
        bits += (ours["left"].size + ours["right"].size) * ours.factor_bits
    error, stored, notes = ours["summary"][0]
    require(stored == bits, f"{n}: stored bits {stored}, by definition {bits}")
    exact = relative_error(w - approximation, w, x)
    require(abs(error / exact - 1) < 1e-4, f"{n}: relative output error {error}, of the tokens themselves {exact}")
    require(notes == 0, f"{n}: {notes} notes")
    return exact, bits / (rows * cols)


def compare(ours, theirs, w, h):
    """share of rows that hold the same values (a weight of value 0 may be pruned or not), and loss over the oracle's - 1"""
    same = np.abs(ours["values"] - theirs.values).max(1) <= 1e-5 * np.abs(theirs.values).max(1)
    return np.mean(same), loss(w - ours["values"], h) / loss(w - theirs.values, h) - 1


def main(program):
    k4, spqr3, book = (SuperBlocks(4, 32, SecondLevel(6, 1, 8, False)), SuperBlocks(3, 16, SecondLevel(3, 16, 16, True)),
                       Table(nf4(), 64))
    grids = {"k4": k4, "spqr3": spqr3, "nf4": book}
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([program, folder], check=True)
        w, x = (np.load(os.path.join(folder, f + ".npy")).astype(float) for f in "WX")
        known = np.load(os.path.join(folder, "H.npy"))
        def case(name):
            kind, grid = name.split(".")
            one = Ours(folder, name, grids[grid])
            one.factor_bits = 32 if grid == "k4" else 16
            return one
        names = sorted({".".join(f.split(".")[:2]) for f in os.listdir(folder) if f.count(".") > 1})
        cases = {name: case(name) for name in names}
    require(len(cases) == 15, f"{len(cases)} cases")
    h = hessian(x, 0.01)
    require(largest_error(known, h) < 1e-6, "H is X^T X over its mean diagonal, damped")
    elimination = Elimination(h)
    error, bits = {}, {}
    for name, ours in cases.items():
        error[name], bits[name] = check_structure(ours, x, w)

    print(f"{'case':20s} {'bits':>6s} {'error':>8s}  {'same rows':>9s} {'loss':>9s} {'rounding':>9s} {'choice':>9s} {'fits':>7s}")
    for name, ours in cases.items():
        kind, grid = name.split(".")
        said = f"{name:20s} {bits[name]:6.3f} {error[name]:8.5f} "
        if kind in ("gptq", "gptq_refit", "sparse"):
            refits = kind == "gptq_refit"
            start = lambda: ours.grid.fit(w * (wanda24(w, x) if ours.sparse else 1))
            followed = feed_back(w, elimination, ours.grid.read(ours), ours.sparse, refits, ours)
            same_fits = np.mean(followed.same_fits) if refits else ours.fitted.same_as(start())
            same, more = compare(ours, feed_back(w, elimination, start(), ours.sparse, refits), w, h)
            print(said, f"{same:9.4f} {more:9.1e} {followed.rounding:9.1e} {followed.choice:9.1e} {same_fits:7.5f}", flush=True)
            require(followed.rounding < 1e-3, f"{name}: every weight goes to the nearest value of its column")
            require(followed.choice < 1e-4, f"{name}: of every four the two stay that cost most")
            require(same_fits > 0.998, f"{name}: scales are fitted by the rule")
            require(same > 0.95 and abs(more) < 1e-3, f"{name}: the oracle's own run ends elsewhere")
        elif kind.endswith("descent"):  # from where our sweep ended
            before = cases[name.replace("_descent", "")]
            fitted, s = before.grid.read(before), before.swept()
            descend(w, s, h, fitted, ours.sparse)
            refit(w, s, h, fitted)
            same, more = compare(ours, s, w, h)
            print(said, f"{same:9.4f} {more:9.1e}", flush=True)
            require(same > 0.95 and abs(more) < 1e-4, f"{name}: the oracle's own descent ends elsewhere")
            require(error[name] < error[before.name], f"{name}: descent lowers the error")
        else:
            s, left, right, objective = joint(w, x, ours.grid, 16, 3, 1, bf16 if ours.factor_bits == 16 else np.float64)
            theirs = relative_error(w - s.values - (left @ right).T, w, x)
            print(said, f"oracle {theirs:8.5f}, objectives",
                  *(f"{a:.5f}/{b:.5f}" for a, b in zip(ours["objective"][0], objective, strict=True)), flush=True)
            require(abs(error[name] / theirs - 1) < 5e-3, f"{name}: the oracle's own loop ends elsewhere")
            require(largest_error(ours["objective"][0], np.array(objective)) < 5e-3, f"{name}: objectives differ on the way")

    for name, ours in cases.items():  # each idea pays
        kind, grid = name.split(".")
        if kind == "gptq":
            fitted = ours.grid.fit(w)
            nearest_values = np.stack([at(fitted.every(j), nearest(fitted.every(j), w[:, j])[0]) for j in range(w.shape[1])], 1)
            require(error[name] < 0.9 * relative_error(w - nearest_values, w, x), f"{name}: error feedback beats rounding")
        elif kind == "joint":
            sparse = cases["sparse." + grid]
            left, right = output_optimal(w - sparse["values"], hessian(x, 0.1), 16)
            repaired = relative_error(w - sparse["values"] - (left @ right).T, w, x)
            require(error[name] < 0.95 * repaired, f"{name}: the loop beats an exact adapter behind SparseGPT, {repaired:.5f}")
            require(repaired < error[sparse.name], f"{name}: an adapter repairs")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
