#!/usr/bin/env python3
"""Copies a GGUF model under another architecture name: general.architecture, and the keys that begin with the old one.

Tensors stay as they are, so the copy is for a plugin that computes the same (or part of the same) forward pass. Needs nothing but
Python.

    rename-arch.py IN.gguf OUT.gguf ARCHITECTURE
"""
import shutil
import struct
import sys

SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
STRING, ARRAY = 8, 9


class Reader:
    """Reads what a GGUF header consists of; ends the program where the file is shorter than it says."""

    def __init__(self, file):
        self.file = file

    def raw(self, count):
        data = self.file.read(count)
        if len(data) != count:
            sys.exit("rename-arch.py: the file ends within its header")
        return data

    def number(self, code):
        return struct.unpack("<" + code, self.raw(struct.calcsize("<" + code)))[0]

    def string(self):
        return self.raw(self.number("Q"))

    def value(self, kind):
        """The bytes of a value of that kind."""
        if kind == STRING:
            return pack_string(self.string())
        if kind == ARRAY:
            kind, count = self.number("I"), self.number("Q")
            head = struct.pack("<IQ", kind, count)
            return head + (b"".join(self.value(kind) for _ in range(count)) if kind in (STRING, ARRAY)
                           else self.raw(SIZES[kind] * count))
        return self.raw(SIZES[kind])

    def tensor(self):
        """The bytes of a tensor's name, shape, type and offset."""
        name, dims = self.string(), self.number("I")
        return pack_string(name) + struct.pack("<I", dims) + self.raw(8 * dims + 4 + 8)


def pack_string(data):
    return struct.pack("<Q", len(data)) + data


def rename(source, target, arch):
    r = Reader(source)
    if r.raw(4) != b"GGUF":
        sys.exit("rename-arch.py: not a GGUF file")
    version, n_tensors, n_pairs = r.number("I"), r.number("Q"), r.number("Q")
    pairs = []
    for _ in range(n_pairs):
        key, kind = r.string(), r.number("I")
        pairs.append((key, kind, r.value(kind)))
    old = next((v[8:] for k, _, v in pairs if k == b"general.architecture"), None)
    if old is None:
        sys.exit("rename-arch.py: the file has no general.architecture")
    align = next((struct.unpack("<I", v)[0] for k, _, v in pairs if k == b"general.alignment"), 32)
    infos = b"".join(r.tensor() for _ in range(n_tensors))
    r.raw(-source.tell() % align)

    header = b"GGUF" + struct.pack("<IQQ", version, n_tensors, n_pairs)
    for key, kind, data in pairs:
        if key.startswith(old + b"."):
            key = arch + key[len(old):]
        elif key == b"general.architecture":
            data = pack_string(arch)
        header += pack_string(key) + struct.pack("<I", kind) + data
    header += infos
    target.write(header + b"\0" * (-len(header) % align))
    shutil.copyfileobj(source, target, 1 << 24)


if len(sys.argv) != 4:
    sys.exit(__doc__)
with open(sys.argv[1], "rb") as model, open(sys.argv[2], "wb") as copy:
    rename(model, copy, sys.argv[3].encode())
