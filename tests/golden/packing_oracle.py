"""packing_oracle.py PACKED_DUMP: a second reader of packed matrices and entropy-coded bytes, written from docs/formats alone, against our writers."""
import struct
import subprocess
import sys


def ceil_div(a, b):
    return -(-a // b)


class Reader:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, count):
        assert self.at + count <= len(self.data), "too short"
        self.at += count
        return self.data[self.at - count:self.at]

    def numbers(self, code, count):
        return list(struct.unpack(f"<{count}{code}", self.take(count * struct.calcsize("<" + code))))

    def fields(self, count, bits):
        """A row of fields is one number, the first field in its lowest bits."""
        number = int.from_bytes(self.take(ceil_div(count * bits, 8)), "little")
        assert number >> (count * bits) == 0, "bits behind the row"
        return [number >> (k * bits) & ((1 << bits) - 1) for k in range(count)]


def scale_bits(values, form):
    """fp32 bits of stored scales."""
    if form == 1:
        return [v << 16 for v in values]
    if form == 2:
        return [struct.unpack("<I", struct.pack("<f", struct.unpack("<e", struct.pack("<H", v))[0]))[0] for v in values]
    return values


def decode(data):
    """kind, codes (the zero point where nothing is stored), mask, scales, zero points, factors, book; floats as bits"""
    r = Reader(data)
    magic, version, kind, bits, form, flags, unused, n, m, moved, rows, cols, tall, wide, entries = struct.unpack(
        "<4sHBBBBHIIIqqqqq", r.take(64))
    assert (magic, version, unused) == (b"SLPK", 1, 0)
    tall, wide = max(min(tall or rows, rows), 1), max(min(wide or cols, cols), 1)
    down, across = ceil_div(rows, tall), ceil_div(cols, wide)
    scales = scale_bits(r.numbers("I" if form == 0 else "H", down * across), form)
    lowest = -(1 << (bits - 1))
    zeros = [f + lowest for f in r.fields(down * across, bits)] if flags & 1 else []
    column = "H" if cols <= 65536 else "I"
    one = struct.unpack("<I", struct.pack("<f", 1.0))[0]
    factors = [one] * cols if flags & 2 else []
    for _ in range(moved):
        j = r.numbers(column, 1)[0]
        factors[j] = r.numbers("I", 1)[0]
    book = r.numbers("I", 16) if flags & 4 else []

    stored = [[None] * cols for _ in range(rows)]
    if kind == 1:
        for row in stored:
            row[:] = [f + lowest for f in r.fields(cols, bits)]
    elif kind == 2:
        groups = ceil_div(cols, 4)
        codes = [r.fields(2 * groups, bits) for _ in range(rows)]
        for i in range(rows):
            for g, field in enumerate(r.fields(groups, 4)):
                for slot, position in enumerate((field & 3, field >> 2)):
                    if 4 * g + position < cols:
                        stored[i][4 * g + position] = codes[i][2 * g + slot] + lowest
        assert entries == rows * 2 * groups
    elif kind == 3:
        masks = [r.fields(cols, 1) for _ in range(rows)]
        for i in range(rows):
            kept = [j for j in range(cols) if masks[i][j]]
            for j, f in zip(kept, r.fields(len(kept), bits)):
                stored[i][j] = f + lowest
    else:
        offsets = r.numbers("I", rows + 1)
        columns = r.numbers(column, entries)
        codes = r.fields(entries, bits)
        for i in range(rows):
            for k in range(offsets[i], offsets[i + 1]):
                stored[i][columns[k]] = codes[k] + lowest
    assert r.at == len(data), "bytes left over"
    if kind != 2:
        assert entries == sum(c is not None for row in stored for c in row)
    if m:
        for row in stored:
            for first in range(0, cols, m):
                group = row[first:first + m]
                assert sum(c is not None for c in group) == ceil_div(len(group) * n, m), "promise"
    zero_of = lambda i, j: zeros[i // tall * across + j // wide] if zeros else 0
    codes = [zero_of(i, j) if c is None else c for i, row in enumerate(stored) for j, c in enumerate(row)]
    mask = [int(c is not None) for row in stored for c in row]
    return kind, codes, mask, scales, zeros, factors, book


def fp32(x):
    return struct.unpack("<f", struct.pack("<f", x))[0]


def floats(r, form, count):
    """Numbers of a storage format."""
    return [struct.unpack("<f", struct.pack("<I", b))[0] for b in scale_bits(r.numbers("I" if form == 0 else "H", count), form)]


def values_of(data):
    """rows, cols and values of a packed matrix of any kind that keeps everything."""
    r = Reader(data)
    _, version, kind, bits, form, flags, _, _, _, _, rows, cols, tall, wide, entries = struct.unpack("<4sHBBBBHIIIqqqqq", r.take(64))
    column = "H" if cols <= 65536 else "I"
    if kind == 1:
        _, codes, mask, scales, zeros, factors, book = decode(data)
        assert all(mask) and not factors and not book
        tall, wide = max(min(tall or rows, rows), 1), max(min(wide or cols, cols), 1)
        across = ceil_div(cols, wide)
        number = [struct.unpack("<f", struct.pack("<I", b))[0] for b in scales]
        group = lambda k: k // cols // tall * across + k % cols // wide
        return rows, cols, [fp32(number[group(k)] * (c - (zeros[group(k)] if zeros else 0))) for k, c in enumerate(codes)]
    assert (version, flags) == (2, 0)
    if kind == 5:
        offsets, columns, numbers = r.numbers("I", rows + 1), r.numbers(column, entries), None
        numbers = floats(r, form, entries)
        inner = values_of(data[r.at:])
        assert inner[:2] == (rows, cols)
        for i in range(rows):
            for k in range(offsets[i], offsets[i + 1]):
                inner[2][i * cols + columns[k]] = fp32(inner[2][i * cols + columns[k]] + numbers[k])
        return inner
    if kind == 6:
        levels = floats(r, form, rows << bits)
        found = [levels[(i << bits) + f] for i in range(rows) for f in r.fields(cols, bits)]
    elif kind == 7:
        scale_bits_, offset_bits, shifted = struct.unpack("<BBB5x", r.take(8))
        down, across = r.numbers("q", 2)
        tall, wide = max(min(tall or rows, rows), 1), max(min(wide or cols, cols), 1)
        tables = ceil_div(rows, tall), ceil_div(cols, wide)
        down, across = max(min(down or tables[0], tables[0]), 1), max(min(across or tables[1], tables[1]), 1)
        steps = ceil_div(tables[0], down) * ceil_div(tables[1], across)
        decoded = []
        for b, flag in ((scale_bits_, 1), (offset_bits, 2)):
            codes, step = r.fields(tables[0] * tables[1], b), floats(r, form, steps)
            base = floats(r, form, steps) if shifted & flag else [0.0] * steps
            at = [k // tables[1] // down * ceil_div(tables[1], across) + k % tables[1] // across for k in range(len(codes))]
            decoded.append([fp32(fp32(step[at[k]] * c) + base[at[k]]) for k, c in enumerate(codes)])
        found = []
        for i in range(rows):
            for j, f in enumerate(r.fields(cols, bits)):
                g = i // tall * tables[1] + j // wide
                found.append(fp32(fp32(decoded[0][g] * f) + decoded[1][g]))
    else:
        assert kind == 8
        order, found, first = r.numbers(column, cols), [None] * (rows * cols), 0
        for _ in range(entries):
            part_rows, part_cols, part = values_of(r.take(r.numbers("Q", 1)[0]))
            assert part_rows == rows
            for k, value in enumerate(part):
                found[k // part_cols * cols + order[first + k % part_cols]] = value
            first += part_cols
    assert r.at == len(data), "bytes left over"
    return rows, cols, found


def rans_decode(data, shares, count):
    """`count` bytes; 32 coders take turns."""
    r = Reader(data)
    states = r.numbers("I", 32)
    byte_at = [s for s, share in enumerate(shares) for _ in range(share)]
    first = [sum(shares[:s]) for s in range(256)]
    out = bytearray()
    for k in range(count):
        x = states[k % 32]
        s = byte_at[x % 4096]
        x = shares[s] * (x // 4096) + x % 4096 - first[s]
        if x < 1 << 16:
            x = x << 16 | r.numbers("H", 1)[0]
        states[k % 32] = x
        out.append(s)
    assert states == [1 << 16] * 32 and r.at == len(data), "the end is not the beginning"
    return bytes(out)


def entropy_decode(data):
    r = Reader(data)
    magic, version, planes, size, record, chunk = struct.unpack("<4sHHQII", r.take(24))
    assert (magic, version) == (b"SLRA", 1)
    plane_of = list(r.take(record))
    assert sorted(set(plane_of)) == list(range(planes))
    models = []
    for _ in range(planes):
        present = [f for f in r.fields(256, 1)]
        models.append([r.numbers("H", 1)[0] if there else 0 for there in present])
        assert sum(models[-1]) in (0, 4096)
    records = size // record
    chunks = ceil_div(records, chunk)
    sizes = r.numbers("I", chunks * planes)
    out = bytearray(records * record)
    for c in range(chunks):
        count = min(chunk, records - c * chunk)
        for p in range(planes):
            places = [i * record + j for i in range(c * chunk, c * chunk + count) for j in range(record) if plane_of[j] == p]
            part = r.take(sizes[c * planes + p])
            plane = part if len(part) == len(places) else rans_decode(part, models[p], len(places))
            for place, byte in zip(places, plane):
                out[place] = byte
    out += r.take(size % record)
    assert r.at == len(data), "bytes left over"
    return bytes(out)


def main():
    lines = subprocess.run([sys.argv[1]], capture_output=True, text=True, check=True).stdout.splitlines()
    for number, line in enumerate(lines):
        parts = line.split(";")
        if parts[0] == "values":
            wanted = [struct.unpack("<f", struct.pack("<I", int(b, 16)))[0] for b in parts[2].split()]
            if values_of(bytes.fromhex(parts[1]))[2] != wanted:
                sys.exit(f"line {number + 1}: the values differ")
            continue
        if parts[0] == "entropy":
            if entropy_decode(bytes.fromhex(parts[1])) != bytes.fromhex(parts[2]):
                sys.exit(f"line {number}: entropy-coded bytes are other ones")
            continue
        kind, *decoded = decode(bytes.fromhex(parts[1]))
        mask = decoded.pop(1)
        expected = [[int(x, 16 if k in (4, 6, 7) else 10) for x in parts[k].split()] for k in range(2, 8)]
        expected_mask = expected.pop(1)
        same = kind == int(parts[0]) and decoded == expected
        if kind in (3, 4):
            same = same and mask == expected_mask
        elif kind == 2:  # fillers may be kept in addition
            same = same and all(a >= b for a, b in zip(mask, expected_mask))
        if not same:
            sys.exit(f"line {number}: {line}")
    print(len(lines), "packed matrices are what docs/formats says")
    return 0 if len(lines) > 1000 else 1


if __name__ == "__main__":
    sys.exit(main())
