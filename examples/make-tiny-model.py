#!/usr/bin/env python3
"""Writes a tiny GGUF model with random weights, for tests that need a model and not its answers.

A plain decoder (RMS norm, grouped-query attention, gated feed-forward, tied embeddings) of 3 layers, width 64, 4 query and 2 KV
heads of 16, with a SentencePiece vocabulary of 320: <pad> <eos> <bos> <unk>, the 256 bytes, 60 letters. The same name and seed give
the same file on every machine. Needs nothing but Python.

    make-tiny-model.py [--context N] [--window W] OUT.gguf [ARCHITECTURE]
        ARCHITECTURE defaults to qwen2; only the names in the metadata depend on it. --window: every layer slides (llama)
    make-tiny-model.py --tokens OUT.i32 [COUNT]     COUNT (200) random token ids, for `sharpi logits`
"""
import getopt
import math
import struct
import sys

F32, F16 = 0, 1
LAYERS, WIDTH, HEADS, KV_HEADS, FFN, VOCAB = 3, 64, 4, 2, 160, 320
UINT32, INT32, FLOAT32, BOOL, STRING, ARRAY = 4, 5, 6, 7, 8, 9


class Random:
    """Knuth's 64-bit linear congruential generator: not good, but the same everywhere."""

    def __init__(self, seed):
        self.state = seed

    def next(self):
        self.state = (self.state * 6364136223846793005 + 1442695040888963407) % 2**64
        return self.state >> 40  # 24 bits

    def uniform(self):
        return self.next() / 2**23 - 1.0


def string(text):
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def value(kind, v):
    if kind == STRING:
        return string(v)
    return struct.pack({UINT32: "<I", INT32: "<i", FLOAT32: "<f", BOOL: "<?"}[kind], v)


def pair(key, kind, v):
    if isinstance(v, list):
        return string(key) + struct.pack("<IIQ", ARRAY, kind, len(v)) + b"".join(value(kind, one) for one in v)
    return string(key) + struct.pack("<I", kind) + value(kind, v)


def vocabulary():
    """Pieces, scores, types (1 normal, 2 unknown, 3 control, 6 byte)."""
    letters = ["\u2581"] + list("etaoinshrdlucmfwypvbgkjqxzETAOINSHRDLUCMFWYPVBGKJQXZ.,!?'-:")
    pieces = ["<pad>", "<eos>", "<bos>", "<unk>"] + ["<0x%02X>" % i for i in range(256)] + letters
    kinds = [3, 3, 3, 2] + [6] * 256 + [1] * len(letters)
    scores = [0.0] * 260 + [-1.0 - i for i in range(len(letters))]
    assert len(pieces) == VOCAB, len(pieces)
    return pieces, scores, kinds


def metadata(arch, context, window):
    pieces, scores, kinds = vocabulary()
    sliding = [pair(arch + ".attention.sliding_window", UINT32, window)] if window else []
    return sliding + [
        pair("general.architecture", STRING, arch),
        pair("general.name", STRING, "tiny random model"),
        pair(arch + ".block_count", UINT32, LAYERS),
        pair(arch + ".context_length", UINT32, context),
        pair(arch + ".embedding_length", UINT32, WIDTH),
        pair(arch + ".feed_forward_length", UINT32, FFN),
        pair(arch + ".attention.head_count", UINT32, HEADS),
        pair(arch + ".attention.head_count_kv", UINT32, KV_HEADS),
        pair(arch + ".attention.layer_norm_rms_epsilon", FLOAT32, 1e-6),
        pair(arch + ".rope.freq_base", FLOAT32, 10000.0),
        pair("tokenizer.ggml.model", STRING, "llama"),
        pair("tokenizer.ggml.tokens", STRING, pieces),
        pair("tokenizer.ggml.scores", FLOAT32, scores),
        pair("tokenizer.ggml.token_type", INT32, kinds),
        pair("tokenizer.ggml.bos_token_id", UINT32, 2),
        pair("tokenizer.ggml.eos_token_id", UINT32, 1),
        pair("tokenizer.ggml.unknown_token_id", UINT32, 3),
        pair("tokenizer.ggml.add_bos_token", BOOL, True),
    ]


def tensors():
    """Names, shapes (the contiguous dimension first), types."""
    head_dim = WIDTH // HEADS
    yield "token_embd.weight", [WIDTH, VOCAB], F16
    yield "output_norm.weight", [WIDTH], F32
    for i in range(LAYERS):
        yield "blk.%d.attn_norm.weight" % i, [WIDTH], F32
        yield "blk.%d.attn_q.weight" % i, [WIDTH, HEADS * head_dim], F16
        yield "blk.%d.attn_k.weight" % i, [WIDTH, KV_HEADS * head_dim], F16
        yield "blk.%d.attn_v.weight" % i, [WIDTH, KV_HEADS * head_dim], F16
        yield "blk.%d.attn_output.weight" % i, [HEADS * head_dim, WIDTH], F16
        yield "blk.%d.ffn_norm.weight" % i, [WIDTH], F32
        yield "blk.%d.ffn_gate.weight" % i, [WIDTH, FFN], F16
        yield "blk.%d.ffn_up.weight" % i, [WIDTH, FFN], F16
        yield "blk.%d.ffn_down.weight" % i, [FFN, WIDTH], F16


def data(random, shape, kind):
    if len(shape) == 1:  # a norm: near one
        return struct.pack("<%df" % shape[0], *(1.0 + 0.2 * random.uniform() for _ in range(shape[0])))
    scale = math.sqrt(3.0 / shape[0])  # keeps the variance of what is multiplied
    count = shape[0] * shape[1]
    return struct.pack("<%de" % count, *(scale * random.uniform() for _ in range(count)))


def write_model(path, arch, context, window):
    random = Random(20240607)
    infos, blobs, offset = [], [], 0
    for name, shape, kind in tensors():
        blob = data(random, shape, kind)
        blob += b"\0" * (-len(blob) % 32)
        infos.append(string(name) + struct.pack("<I%dQIQ" % len(shape), len(shape), *shape, kind, offset))
        blobs.append(blob)
        offset += len(blob)
    pairs = metadata(arch, context, window)
    header = b"GGUF" + struct.pack("<IQQ", 3, len(infos), len(pairs)) + b"".join(pairs) + b"".join(infos)
    with open(path, "wb") as f:
        f.write(header + b"\0" * (-len(header) % 32) + b"".join(blobs))


def write_tokens(path, count):
    random = Random(7)
    with open(path, "wb") as f:
        f.write(struct.pack("<%di" % count, 2, *(4 + random.next() % (VOCAB - 4) for _ in range(count - 1))))


def main(args):
    try:
        options, args = getopt.getopt(args, "", ["context=", "window=", "tokens"])
        options = dict(options)
        context, window = int(options.get("--context", 2048)), int(options.get("--window", 0))
    except (getopt.GetoptError, ValueError) as e:
        sys.exit("%s\n%s" % (e, __doc__))
    if len(args) not in (1, 2):
        sys.exit(__doc__)
    if "--tokens" in options:
        write_tokens(args[0], int(args[1]) if len(args) == 2 else 200)
    else:
        write_model(args[0], args[1] if len(args) == 2 else "qwen2", context, window)


main(sys.argv[1:])
