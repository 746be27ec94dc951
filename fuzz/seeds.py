#!/usr/bin/env python3
"""Makes the fuzz targets' seeds of the published vectors: python3 seeds.py, in this folder.

The layout of each target's input stands at its function in src/. A seed is named by the vector it comes from.
"""
import pathlib
import shutil
import struct

HERE = pathlib.Path(__file__).parent
seen = set()


def seed(target, name, data):
    folder = HERE / "seeds" / target
    folder.mkdir(parents=True, exist_ok=True)
    if (target, data) not in seen:
        seen.add((target, data))
        (folder / name).write_bytes(data)


def words(lines, word):
    return " ".join(line[len(word) + 1:] for line in lines if line.startswith(word + " "))


def main():
    shutil.rmtree(HERE / "seeds", ignore_errors=True)
    agreed = struct.pack("<4B", 14, 0, 0, 64) + b"\x08" + bytes([4, 0, 0, 0])
    meet = bytes([0x00, 0x80, 0x02, 0x82, 0x00, 0x80, 0x02, 0x82, 0x00, 0x80, 0x02, 0x82])
    hello, keyed = agreed + agreed + meet, agreed[:7] + bytes([1, 1]) + agreed[:7] + bytes([2, 0])
    stream = b""
    for path in sorted((HERE / "../syn1-core/vectors").glob("*.txt")):
        lines, name = path.read_text(encoding="utf-8").splitlines(), path.stem
        frame = bytes.fromhex(words(lines, "bytes"))
        limits = struct.pack("<IHHIB", *(int(item.split("=")[1]) for item in words(lines, "limits").split()))
        payload, (kind, codec), (cols,) = frame[24:], struct.unpack("<BxB", frame[4:7].ljust(3, b"\0")), struct.unpack("<H", frame[22:24].ljust(2, b"\0"))
        vocab = int(words(lines, "limits").split()[3].split("=")[1])
        if len(frame) >= 24:
            seed("header", name, limits + frame[:24])
        seed("decoder_chunks", name, limits + struct.pack("<H3B", 4120, 2, 7, 30) + frame + frame)
        if kind in (2, 3) and not name.startswith("refused-"):
            values = words(lines, "sent") + words(lines, "logits")
            bits = b"".join(bytes.fromhex(value.split("=")[1])[::-1] for value in values.split())
            seed("codec_roundtrip", name, struct.pack("<HH", cols, 3) + bits)
        if kind in (2, 3) and payload:
            seed("codec_hostile", name, struct.pack("<BHH", codec, cols, vocab) + payload)
        if kind == 2 and frame[5] & 6:
            seed("compressed", name, struct.pack("<BHB", frame[20] - 1, cols - 1, 0) + payload)
        if kind == 4 and payload and len(payload) < 256:
            seed("control", name, payload)
            for to in (0x0D, 0x8D):
                seed("session_pair", f"{name}-{to >> 7}", hello + bytes([to, len(payload)]) + payload + bytes([10, 138]))
        if 24 <= len(frame) < 256 and kind in (1, 2, 3) and not name.startswith("refused-"):
            model = struct.pack("<BHI", 0x8C, 10, 5)
            seed("session_pair", name, hello + model + bytes([0x8F, len(frame)]) + frame)
        if lines[1].startswith("limits max_payload=4096 max_rows=4 width=10 vocab=5 flags=0") and not name.startswith("refused-"):
            stream += frame
            frames = struct.pack("<IHHIB", 4096, 4, 10, 5, 0) + struct.pack("<H4B", 4120, 3, 255, 3, 40) + stream
    seed("decoder_chunks", "stream", frames)
    rows = bytes(range(40)) + bytes(byte * 3 % 40 for byte in range(40))
    for name, what in (("q8", 0x00), ("q4", 0x10), ("compressed", 0x20), ("rows", 0x50)):
        frame = bytes([what]) + rows[:20 * (1 + (what >> 4) // 3)]
        seed("delta", name, bytes([19]) + (frame + bytes([7])) * 4)
        seed("delta", f"{name}-lost", bytes([19]) + frame + frame + bytes([7, 10]) + frame + bytes([7]))
        seed("delta", f"{name}-repeated", bytes([19]) + frame + bytes([11]) + frame + bytes([7, 7, 7]))
        seed("delta", f"{name}-reordered", bytes([19]) + frame * 4 + bytes([0x2C, 7, 7, 0x1C, 7, 7]))
        seed("delta", f"{name}-damaged", bytes([19]) + frame + frame + bytes([0x1D, 9, 0, 7, 7]))
        seed("delta", f"{name}-rollback", bytes([19]) + frame + bytes([7]) + frame + bytes([0x1E, 7]) + frame + bytes([0x1F]) + frame)
        seed("delta", f"{name}-plain", bytes([19]) + frame + bytes([0x06]) + rows[:20] + frame + bytes([7, 7, 7]))
    for name, values in (("bells", bytes(range(256))), ("zeros", bytes(700)), ("ramp", bytes(byte % 96 for byte in range(700)))):
        seed("compressed", name, struct.pack("<BHB", 2, 255, 0) + values)
        seed("compressed", f"{name}-damaged", struct.pack("<BHB", 0, 767, 2) + struct.pack("<HBHB", 36, 3, 500, 64) + values)
    seed("session_pair", "hello", hello)
    seed("session_pair", "keys", keyed + meet + meet)
    seed("session_pair", "keys-not-asked-for", agreed + keyed[9:] + meet + meet)
    seed("session_pair", "keys-not-there", keyed[:9] + agreed + meet)
    seed("session_pair", "models", agreed[:6] + b"\x01" + agreed[7:] + agreed[:6] + b"\x02" + agreed[7:] + meet)
    model = struct.pack("<BHIBHI", 0x8C, 10, 5, 0x0C, 10, 5)
    seed("session_pair", "credit", hello + model + bytes([16, 130, 145] * 3 + [0, 2] + [16, 130] * 5 + [145] * 4 + [0, 2]))
    seed("session_pair", "goodbye", hello + bytes([18, 130, 18, 146, 2, 0x00, 0x80, 10, 138]))
    seed("session_pair", "silence", hello + bytes([10, 138] * 8))
    seed("session_pair", "lossy", agreed + agreed + bytes([0, 128, 6, 134, 7, 135, 2, 130, 5, 133, 8, 1, 2, 0, 128, 2, 130, 10, 138]))


if __name__ == "__main__":
    main()
