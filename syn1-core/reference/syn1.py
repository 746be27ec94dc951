#!/usr/bin/env python3
"""SYN1 1.0 in Python's standard library, written from SPEC.md: a second implementation to check the first one with.

    python3 syn1.py check VECTORS     reads every vector of a folder, compares what its bytes mean with what it says,
                                      and writes it again byte for byte

Errors carry the names of SPEC.md. This is a reference: it is meant to be read, not to be fast.
"""
import json
import math
import pathlib
import re
import struct
import sys

CODECS = {0: None, 1: lambda c: 4 * c, 2: lambda c: 2 * c, 3: lambda c: 36 + c,
          4: lambda c: 32 + 2 * -(-c // 32) + -(-c // 2), 8: lambda c: 4 * c, 9: lambda c: 8 + 8 * c}
KINDS = {1: ("tokens", (8,), 8), 2: ("activation", (1, 2, 3, 4), 14), 3: ("output", (9, 1), 8), 4: ("control", (0,), 0)}
FIELDS = "kind flags codec epoch position request payload_len rows cols".split()
ENUMS = {"role": ["Coordinator", "Node"],
         "reason": "Done Version Protocol Timeout Refused Replaced Shutdown Internal".split()}
FREQUENCIES = [half + half[::-1] for half in ([int(number) for number in line.split()] for line in """
1 1 1 1 1 1 1 121
1 1 1 1 1 3 15 105
1 1 1 1 2 6 19 97
1 1 1 2 4 11 30 78
1 1 1 3 7 15 32 68
1 2 3 5 10 17 32 58
1 1 2 4 10 21 36 53
2 3 5 7 12 19 31 49
1 2 4 8 14 22 33 44
3 4 7 9 14 20 29 42
1 2 5 10 16 25 32 37
3 5 8 12 17 22 28 33
2 4 7 11 17 24 30 33
4 7 9 13 17 22 26 30
6 8 10 13 17 21 25 28
16 16 16 16 16 16 16 16""".strip().split("\n"))]
BYTES = {"hash": 32, "signature": 64}
MESSAGES = [line.split() for line in """
Hello minor_min:u8 minor_max:u8 role:role flags:u8 codecs:u32 max_payload:u32 max_rows:u16 credit:u16 \
model:hash key:hash nonce:hash agent:text
Bye reason:reason text:text
Ping number:u64
Pong number:u64
Model name:text manifest_sha256:hash http_port:u16 width:u16 vocab:u32 layers:u16
Profile name:text device:text memory_bytes:u64 read_bytes_per_s:u64 layer_ns:u64
Assign generation:u32 first_layer:u16 end_layer:u16 max_positions:u32 slots:u16 max_rows:u16
Loading generation:u32 done_bytes:u64 total_bytes:u64
Loaded generation:u32 fetched_bytes:u64 layer_ns:u64 slots:u16
Open request:u32 epoch:u8 codec:u8 flags:u8 output:output wanted_from:u32
Close request:u32
Failed request:u32 epoch:u8 text:text
Unable generation:u32 text:text
Closed request:u32 compute_us:u64
Prove signature:signature
Grant frames:u16""".strip().split("\n")]


class Refused(Exception):
    """A frame that breaks a rule; the argument is the rule's name."""


def need(rule, name):
    if not rule:
        raise Refused(name)


def f32(x):
    return struct.unpack("<f", struct.pack("<f", x))[0]


def floats(data):
    return list(struct.unpack(f"<{len(data) // 4}f", data))


def grid(vocab):  # SPEC 4.5
    rows = -(-vocab // 65535)
    return rows, -(-vocab // rows)


def header(data, limits):
    """The fields of a header, or None for a frame to ignore (SPEC 1 and 2)."""
    need(data[:3] == b"SYN", "Magic")
    need(data[3:4] == b"1", "Version")
    h = dict(zip(FIELDS, struct.unpack("<4BIIIHH", data[4:24])))
    if h["kind"] not in KINDS:
        need(h["kind"] & 0x80, "Kind")
        need(h["payload_len"] <= max(limits["max_payload"], 1024), "TooLong")
        return None
    name, codecs, meaningful = KINDS[h["kind"]]
    flags, codec, rows, cols = h["flags"], h["codec"], h["rows"], h["cols"]
    need(flags < 16, "ReservedFlags")
    need(codec in CODECS, "Codec")
    need(flags & 1 == (codec in (3, 4)), "Quantized")
    need(not flags & 14 & ~limits["flags"], "NotNegotiated")
    need(not flags & 14 & ~meaningful, "FlagsOfKind")
    need(codec in codecs, "CodecOfKind")
    delta, compressed = flags & 4, flags & 2
    if name == "control":
        need(not any(h[field] for field in ("epoch", "position", "request", "rows", "cols")), "ControlFields")
        need(h["payload_len"] <= 1024, "TooLong")
        return h
    need((not delta or codec in (3, 4)) and (not compressed or codec == 3), "FlagsOfCodec")
    need(limits["width"] and limits["vocab"], "NoModel")
    full = name == "output" and codec == 1
    if (name, rows, cols) != ("output", 0, 0) or full:
        need(full or 1 <= rows <= limits["max_rows"], "Rows")
        need(h["position"] + (1 if full else rows) < 1 << 32, "Position")
        fits = {"tokens": cols == 1, "activation": cols == limits["width"], "output": 1 <= cols <= limits["vocab"]}
        need((rows, cols) == grid(limits["vocab"]) if full else fits[name], "Shape")
    prefix = 4 + rows if delta else 0
    length = prefix + rows * CODECS[codec](cols)
    least, most = (prefix + fixed(rows, cols), length - 1) if compressed else (length, length)
    need(least <= h["payload_len"] <= most or length >= 1 << 32, "Length")
    need(length < 1 << 32 and h["payload_len"] <= limits["max_payload"], "TooLong")
    return h


def fixed(rows, cols):
    """Bytes of a compressed payload in front of its stream (SPEC 3.31)."""
    return rows * (36 + 1 + -(-cols // 2)) + 10


def decode_rows(h, data, reference):
    """The rows of an activation; `reference` is the last row of the delta frame that ended right before, or None
    (SPEC 3.26 to 3.29)."""
    rows, cols, weights = h["rows"], h["cols"], [0] * h["rows"]
    if h["flags"] & 4:
        check, weights, data = struct.unpack("<I", data[:4])[0], data[4:4 + rows], data[4 + rows:]
        need(max(weights) <= 128, "Weight")
        need(reference or not weights[0], "Reference")
        need(check == (row_hash(reference) if weights[0] else 0), "Reference")
    if h["flags"] & 2:
        data = decompress(data, rows, cols)
    step, out = CODECS[h["codec"]](cols), []
    for row, weight in enumerate(weights):
        values = decode_row(h["codec"], data[row * step:(row + 1) * step], cols)
        out.append(add(out[-1] if out else reference, weight, values))
    return out


def encode_rows(h, data, reference, given):
    """The payload of the rows in `given`, with check, weights and tables of `data`."""
    rows, cols, prefix, weights = h["rows"], h["cols"], b"", [0] * h["rows"]
    if h["flags"] & 4:
        prefix, weights = data[:4 + rows], data[4:4 + rows]
    parts = []
    for row, weight in zip(given, weights):
        residual = [f32(x - f32(weight / 128 * p)) for x, p in zip(row, reference)] if weight else row
        parts.append(encode_row(h["codec"], residual))
        reference = add(reference, weight, decode_row(h["codec"], parts[-1], cols))
    return prefix + (compress(parts, data[len(prefix) + 36 * rows:]) if h["flags"] & 2 else b"".join(parts))


def add(before, weight, residual):
    return [f32(f32(weight / 128 * p) + r) for p, r in zip(before, residual)] if weight else residual


def row_hash(row):
    def step(h, x):
        mixed = (h ^ x) * 2654435761 % (1 << 32)
        mixed = (mixed ^ mixed >> 15) * 2246822519 % (1 << 32)
        return mixed ^ mixed >> 13

    lanes, out = [1398361649] * 16, 1398361649
    row = row + [0.0] * (-len(row) % 16)
    for column, x in enumerate(struct.unpack(f"<{len(row)}I", struct.pack(f"<{len(row)}f", *row))):
        lanes[column % 16] = step(lanes[column % 16], x)
    for lane in lanes:
        out = step(out, lane)
    return out


def decompress(data, rows, cols):
    """The rows of q8 in a compressed payload (SPEC 3.31 to 3.36)."""
    half, start = -(-cols // 2), fixed(rows, cols)
    heads, tables, lows = data[:36 * rows], data[36 * rows:37 * rows], data[37 * rows:start - 10]
    packed, stream, taken, out = int.from_bytes(data[start - 10:start], "little"), data[start:], 0, b""
    states = [packed >> 20 * lane & 0xFFFFF for lane in range(4)]
    need(min(states) >= 4096, "Entropy")
    for row in range(rows):
        need(tables[row] < 16, "Table")
        halves = [half for byte in lows[row * half:(row + 1) * half] for half in (byte & 15, byte >> 4)]
        need(not any(halves[cols:]), "Padding")
        frequencies, body = FREQUENCIES[tables[row]], []
        for column in range(cols):
            state = states[column % 4]
            symbol = next(s for s in range(16) if state % 256 < sum(frequencies[:s + 1]))
            state = frequencies[symbol] * (state // 256) + state % 256 - sum(frequencies[:symbol])
            if state < 4096:
                state = 256 * state + (stream[taken] if taken < len(stream) else 0)
                taken += 1
            states[column % 4] = state
            body.append((16 * symbol + halves[column]) ^ 0x80)
        out += heads[36 * row:36 * row + 36] + bytes(body)
    need(taken == len(stream) and states == [4096] * 4, "Entropy")
    return out


def compress(parts, tables):
    """Rows of q8 compressed with the given tables (SPEC 3.31, 3.35)."""
    states, stream, lows = [4096] * 4, b"", b""
    for part, table in reversed(list(zip(parts, tables))):
        body, frequencies = [byte ^ 0x80 for byte in part[36:]], FREQUENCIES[table]
        for column in reversed(range(len(body))):
            state, symbol = states[column % 4], body[column] >> 4
            if state >= 4096 * frequencies[symbol]:
                stream, state = bytes([state % 256]) + stream, state // 256
            rounds, rest = divmod(state, frequencies[symbol])
            states[column % 4] = 256 * rounds + rest + sum(frequencies[:symbol])
        halves = [byte & 15 for byte in body] + [0]
        lows = bytes(a | b << 4 for a, b in zip(halves[::2], halves[1::2])) + lows
    packed = sum(state << 20 * lane for lane, state in enumerate(states))
    heads = b"".join(part[:36] for part in parts)
    return heads + bytes(tables[:len(parts)]) + lows + packed.to_bytes(10, "little") + stream


def decode_row(codec, data, cols):
    """One row of an activation (SPEC 3.4 to 3.24)."""
    if codec == 1:
        row = floats(data)
    elif codec == 2:
        row = list(struct.unpack(f"<{cols}e", data))
    else:
        row = decode_q8(data, cols) if codec == 3 else decode_q4(data, cols)
    need(all(map(math.isfinite, row)), "NotFinite")
    return row


def decode_q8(data, cols):
    scale = floats(data[:4])[0]
    need(not data[3] & 0x80 and (scale == 0 or 2.0 ** -126 <= scale <= f32(65504 / 127)), "Scale")
    need(0x80 not in data[36:], "Minus128")
    return beside([f32(q * scale) for q in struct.unpack(f"<{cols}b", data[36:])], data[4:36])


def decode_q4(data, cols):
    groups = -(-cols // 32)
    scales, body = struct.unpack(f"<{groups}e", data[32:32 + 2 * groups]), data[32 + 2 * groups:]
    need(all(0 <= x <= 9360 and math.copysign(1, x) > 0 for x in scales), "Scale")
    halves = [half for byte in body for half in (byte & 15, byte >> 4)]
    need(8 not in halves, "Minus8")
    need(not any(halves[cols:]), "Padding")
    return beside([((q ^ 8) - 8) * scales[c // 32] for c, q in enumerate(halves[:cols])], data[:32])


def beside(row, data):
    """The row with the values of a side list (SPEC 3.16, 3.17)."""
    index, values, cols = struct.unpack("<8H", data[:16]), struct.unpack("<8e", data[16:]), len(row)
    for slot, (column, value) in enumerate(zip(index, values)):
        last = index[slot - 1] if slot else -1
        need(column < cols and (column > last if slot < cols else column == last), "SideIndex")
        need(math.isfinite(value), "NotFinite")
        need(slot < cols or data[16 + 2 * slot:18 + 2 * slot] == data[14 + 2 * slot:16 + 2 * slot], "SideValue")
        row[column] = value
    return row


def encode_row(codec, row):
    """The bytes of one row (SPEC 3.4 to 3.23)."""
    if codec < 3:
        return struct.pack(f"<{len(row)}{' fe'[codec]}", *row)
    by_magnitude = sorted(range(len(row)), key=lambda column: (-abs(row[column]), column))
    index = sorted(by_magnitude[:8])
    index += index[-1:] * (8 - len(index))
    side = struct.pack("<8H8e", *index, *(row[column] for column in index))
    row = [0.0 if column in index else x for column, x in enumerate(row)]
    if codec == 3:
        scale = f32(max(map(abs, row)) / 127)
        scale = scale if scale >= 2.0 ** -126 else 0.0
        return struct.pack("<f", scale) + side + struct.pack(f"<{len(row)}b", *integers(row, scale))
    groups = [row[start:start + 32] for start in range(0, len(row), 32)]
    scales = [f16_up(f32(max(map(abs, group)) / 7)) for group in groups]
    body = [q & 15 for group, scale in zip(groups, scales) for q in integers(group, scale)] + [0]
    return side + struct.pack(f"<{len(scales)}e", *scales) + bytes(a | b << 4 for a, b in zip(body[::2], body[1::2]))


def integers(row, scale):
    inverse = f32(1 / scale) if scale else 0.0
    return [round(f32(x * inverse)) for x in row]


def f16_up(x):
    """The smallest binary16 that is not below x."""
    bits = struct.unpack("<H", struct.pack("<e", x))[0]
    up = [struct.unpack("<e", struct.pack("<H", b))[0] for b in (bits, bits + 1)]
    return up[up[0] < x]


def decode_top(data, vocab):
    """log_sum_exp and entries of one row (SPEC 4.1 to 4.3)."""
    total, zero = struct.unpack("<fI", data[:8])
    need(math.isfinite(total) and zero == 0, "Head")
    entries = list(struct.iter_unpack("<If", data[8:]))
    for at, (token, logit) in enumerate(entries):
        need(token < vocab, "Id")
        need(logit < math.inf, "NotFinite")
        need(at == 0 or (-entries[at - 1][1], entries[at - 1][0]) < (-logit, token), "Order")
    return total, entries


def encode_top(logits, k, total):
    most = max(logits)
    exact = most + math.log(sum(math.exp(x - most) for x in logits))
    need(abs(exact - total) <= 1e-6 + 1e-7 * abs(exact), f"a log_sum_exp of {total} where {exact} is exact")
    best = sorted(range(len(logits)), key=lambda token: (-logits[token], token))[:k]
    return struct.pack("<fI", total, 0) + b"".join(struct.pack("<If", token, logits[token]) for token in best)


def decode_message(data):
    """The name and the fields of a control message (SPEC 5)."""
    data = bytearray(data)

    def take(count):
        need(count <= len(data), "Malformed")
        taken = bytes(data[:count])
        del data[:count]
        return taken

    def varint(bits):
        value = 0
        for at in range(0, bits, 7):
            byte = take(1)[0]
            value |= (byte & 0x7F) << at
            if byte < 0x80:
                need(value < 1 << bits, "Malformed")
                return value
        raise Refused("Malformed")

    def field(kind):
        if kind in ENUMS:
            number = varint(32)
            need(number < len(ENUMS[kind]), "Malformed")
            return ENUMS[kind][number]
        if kind == "output":
            number = varint(32)
            need(number < 2, "Malformed")
            return "Full" if number else f"Top({varint(16)})"
        if kind == "text":
            try:
                return take(varint(64)).decode("utf-8")
            except UnicodeDecodeError:
                raise Refused("Malformed") from None
        if kind in BYTES:
            return take(BYTES[kind]).hex()
        return take(1)[0] if kind == "u8" else varint(int(kind[1:]))

    number = varint(32)
    need(number < len(MESSAGES), "Unknown")
    name, *kinds = MESSAGES[number]
    fields = [(label, field(kind)) for label, kind in (item.split(":") for item in kinds)]
    need(not data, "Trailing")
    return name, fields


def encode_message(name, fields):
    def varint(value):
        return bytes([value]) if value < 0x80 else bytes([value & 0x7F | 0x80]) + varint(value >> 7)

    number = [message[0] for message in MESSAGES].index(name)
    out = varint(number)
    for (_, value), kind in zip(fields, (item.split(":")[1] for item in MESSAGES[number][1:])):
        if kind in ENUMS:
            out += varint(ENUMS[kind].index(value))
        elif kind == "output":
            out += b"\x01" if value == "Full" else b"\x00" + varint(int(value[4:-1]))
        elif kind == "text":
            out += varint(len(value.encode())) + value.encode()
        else:
            out += bytes.fromhex(value) if kind in BYTES else bytes([value]) if kind == "u8" else varint(value)
    return out


def bits(x):
    return struct.pack(">f", x).hex()


def meaning(data, limits, given, before):
    """What a message of one frame says behind the one `before`, as a vector states it, and its payload written anew from
    `given`."""
    need(len(data) >= 24, "Torn")
    h = header(data, limits)
    if h is None:
        return ["expect skip"], data[24:]
    payload, codec, rows, cols = data[24:], h["codec"], h["rows"], h["cols"]
    need(len(payload) == h["payload_len"], "Torn")
    lines = [f"expect {KINDS[h['kind']][0]}", "header " + " ".join(f"{field}={h[field]}" for field in FIELDS)]
    if codec == 0:
        name, fields = decode_message(payload)
        text = [f"{label}={json.dumps(x, ensure_ascii=False) if quoted(name, label) else x}" for label, x in fields]
        return lines + [" ".join(["message", name, *text])], encode_message(name, fields)
    if codec == 8:
        ids = struct.unpack(f"<{rows}I", payload)
        return lines + [" ".join(["ids", *map(str, ids)])], struct.pack(f"<{rows}I", *ids)
    if h["kind"] == 2:
        reference = reference_behind(before, limits, h)
        decoded = decode_rows(h, payload, reference)
        lines += [" ".join(["decoded", *map(bits, row)]) for row in decoded]
        return lines, encode_rows(h, payload, reference, given)
    step = CODECS[codec](cols)
    parts = [payload[row * step:(row + 1) * step] for row in range(rows)]
    if codec == 9:
        read = [decode_top(part, limits["vocab"]) for part in parts]
        lines += [" ".join(["row", f"log_sum_exp={bits(t)}", *(f"{i}:{bits(x)}" for i, x in e)]) for t, e in read]
        return lines, b"".join(encode_top(row, cols, total) for row, (total, _) in zip(given, read))
    cells, vocab = floats(payload), limits["vocab"]
    need(all(x < math.inf for x in cells) and all(x == -math.inf for x in cells[vocab:]), "NotFinite")
    padding = [-math.inf] * (len(cells) - vocab)
    again = b"".join(struct.pack(f"<{len(cells)}f", *row, *padding) for row in given)
    return lines + [" ".join(["decoded", *map(bits, cells[:vocab])])], again


def reference_behind(data, limits, h):
    """The row that the first one of frame `h` may build on, after the frame in `data` (SPEC 3.29)."""
    earlier = header(data, limits) if data else None
    if not earlier or not earlier["flags"] & 4 or any(earlier[field] != h[field] for field in ("request", "epoch")):
        return None
    return decode_rows(earlier, data[24:], None)[-1] if earlier["position"] + earlier["rows"] == h["position"] else None


def quoted(name, label):
    return f"{label}:text" in next(message for message in MESSAGES if message[0] == name)


def check(path):
    """Whether a vector's bytes mean what it says; raises or returns a complaint."""
    lines = path.read_text(encoding="utf-8").splitlines()
    of = {word: [line[len(word) + 1:] for line in lines if line.startswith(word + " ")]
          for word in ("limits", "sent", "logits", "before", "bytes")}
    limits = {key: int(value) for key, value in (item.split("=") for item in of["limits"][0].split())}
    number = re.compile(r"(?<=[ :=])(-?(?:[0-9.]+(?:e-?[0-9]+)?|inf))=([0-9a-f]{8})\b")
    for decimal, stated in number.findall("\n".join(lines)):
        if bits(float(decimal)) != stated:
            return f"{decimal} is not {stated}"
    given = [[struct.unpack(">f", bytes.fromhex(item.split("=")[1]))[0] for item in line.split()]
             for line in of["sent"] + of["logits"]]
    data, before = (bytes.fromhex("".join(of[word])) for word in ("bytes", "before"))
    stated = [number.sub(r"\2", line) for line in lines if line.split()[0] not in (*of, "#")]
    try:
        said, payload = meaning(data, limits, given, before)
    except Refused as refused:
        said, payload = [f"expect error {refused}"], None
    if said != stated:
        return f"it says {stated}, the reference reads {said}"
    if payload is not None and payload != data[24:]:
        return f"the reference writes the payload {payload.hex()}"
    return None


def main():
    if len(sys.argv) != 3 or sys.argv[1] != "check":
        sys.exit(__doc__)
    paths = sorted(pathlib.Path(sys.argv[2]).glob("*.txt"))
    complaints = [f"{path.name}: {complaint}" for path in paths for complaint in [check(path)] if complaint]
    if complaints or not paths:
        sys.exit("\n".join(complaints or [f"no vectors in {sys.argv[2]}"]))
    print(f"{len(paths)} vectors agree")


if __name__ == "__main__":
    main()
