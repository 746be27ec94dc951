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
    agreed = struct.pack("<4B", 14, 0, 0, 64) + b"\x08"
    hello = agreed + agreed + bytes([0x00, 0x80, 0x02, 0x82, 0x00, 0x80, 0x02, 0x82, 0x00, 0x80, 0x02, 0x82])
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
    seed("session_pair", "hello", hello)
    seed("session_pair", "silence", hello + bytes([10, 138] * 8))
    seed("session_pair", "lossy", agreed + agreed + bytes([0, 128, 6, 134, 7, 135, 2, 130, 5, 133, 8, 1, 2, 0, 128, 2, 130, 10, 138]))


if __name__ == "__main__":
    main()
