#!/usr/bin/env python3
"""Compares our tokenizer with the sentencepiece and tokenizers packages on random multilingual lines.

    compare-sentencepiece.py BUILD/tests/test-tokenizer MODEL.gguf [LINES] [SEED]

The other side is built from the vocabulary in the GGUF file: a sentencepiece BPE model for "llama", a tokenizers
byte-level BPE for "gpt2" (pre-tokenizers: see PRE). Needs the Python packages gguf, sentencepiece, protobuf, tokenizers.
"""
import random
import subprocess
import sys

from gguf import GGUFReader

GPT4 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+")
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
CJK = "[一-龥ࠀ-一가-퟿]+"
DEEPSEEK3 = (r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
             r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
GPT4O = (rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+%s|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*%s|\p{{N}}%s"
         r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
PRE = {
    "tekken": [GPT4O % ("", "", "")],
    "gpt-4o": [GPT4O % (("(?i:'s|'t|'re|'ve|'m|'ll|'d)?",) * 2 + ("{1,3}",))],
    "gpt-2": [GPT2],
    "qwen2": [GPT4 % ""],
    "llama-bpe": [GPT4 % "{1,3}"],
    "deepseek-coder": ["[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", CJK, r"\p{N}"],
    "deepseek-v3": [r"\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+", DEEPSEEK3],
    "starcoder": [r"\p{N}", GPT2],
}

WORDS = ("the of and Hello world don't I'll we'VE don’t int main(void) return 0; for(i=0;i<10;i++) naïve café Straße "
         "привет мир как дела 你好 世界 中文分词 日本語の文章 カタカナ 한국어 문장 العربية نص हिन्दी पाठ ภาษาไทย "
         "ελληνικά עברית 🚀 😀 👨‍👩‍👧‍👦 ✅ 3.14159 1234567 2024-01-01 ½ ² Ⅷ ١٢٣ http://a.b/c?d=e&f <div> </p> {} [] ---- "
         "==== !!! ... … « » “quoted” 'single' a_b_c CamelCase UPPER ſ K ǆ \u0301 \u200d \ufeff é").split(" ")
BLANKS = [" "] * 12 + ["  ", "   ", "\n", "\n\n", "\t", "\r\n", " \n ", "\u3000", "\u00a0", ""]


def random_line(rng):
    parts = []
    for _ in range(rng.randint(1, 30)):
        if rng.random() < 0.1:
            c = rng.choice((rng.randrange(0x20, 0x3000), rng.randrange(0x20, 0x30000)))
            parts.append(chr(c) if not 0xD800 <= c < 0xE000 and c != 0x2581 else "x")
        else:
            parts.append(rng.choice(WORDS))
        parts.append(rng.choice(BLANKS))
    return "".join(parts).replace("\0", "")


def sentencepiece_encoder(field, tokens, types):
    import sentencepiece
    from sentencepiece import sentencepiece_model_pb2 as pb
    model = pb.ModelProto()
    scores = field("scores")
    unk = field("unknown_token_id", 0)
    for index, (text, kind, score) in enumerate(zip(tokens, types, scores)):
        if kind == 4:
            text = text.replace(" ", "\u2581")
        if kind in (2, 3):  # sentencepiece knows exactly one unknown piece
            kind = 2 if index == unk else 3
        model.pieces.add(piece=text, score=score, type=kind)
    model.trainer_spec.model_type = pb.TrainerSpec.BPE
    model.trainer_spec.byte_fallback = True
    model.trainer_spec.vocab_size = len(tokens)
    model.trainer_spec.unk_id = unk
    model.trainer_spec.bos_id = field("bos_token_id", 1)
    model.trainer_spec.eos_id = field("eos_token_id", 2)
    model.trainer_spec.pad_id = field("padding_token_id", -1)
    for name, key in (("unk_piece", "unk_id"), ("bos_piece", "bos_id"), ("eos_piece", "eos_id"), ("pad_piece", "pad_id")):
        index = getattr(model.trainer_spec, key)
        if index >= 0:
            setattr(model.trainer_spec, name, tokens[index])
    model.normalizer_spec.name = "identity"
    model.normalizer_spec.add_dummy_prefix = bool(field("add_space_prefix", True))
    model.normalizer_spec.remove_extra_whitespaces = bool(field("remove_extra_whitespaces", False))
    model.normalizer_spec.escape_whitespaces = True
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.SerializeToString())
    return processor.encode


def byte_level_encoder(field, tokens, types):
    from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers
    pre = field("pre", "default")
    if pre not in PRE:
        sys.exit(f"pre-tokenizer {pre} is not in this script's table")
    merges = [tuple(m.split(" ", 1)) for m in field("merges")]
    vocab = {t: i for i, t in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab, merges, ignore_merges=pre in ("llama-bpe", "tekken")))
    splits = [pre_tokenizers.Split(Regex(p), "isolated") for p in PRE[pre]]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        splits + [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.add_tokens([AddedToken(t, normalized=False) for t, kind in zip(tokens, types) if kind == 4])
    return lambda text: tokenizer.encode(text, add_special_tokens=False).ids


def main():
    program, path = sys.argv[1:3]
    count = int(sys.argv[3]) if len(sys.argv) > 3 else 10000
    rng = random.Random(int(sys.argv[4]) if len(sys.argv) > 4 else 1)
    reader = GGUFReader(path)

    def field(name, default=None):
        value = reader.fields.get("tokenizer.ggml." + name)
        return default if value is None else value.contents()

    tokens, types = field("tokens"), field("token_type")
    make = sentencepiece_encoder if field("model") == "llama" else byte_level_encoder
    encode = make(field, tokens, types)
    lines = [random_line(rng) for _ in range(count)]
    done = subprocess.run([program, "--encode", path], input="".join(line + "\0" for line in lines).encode(),
                          stdout=subprocess.PIPE, check=True)
    ours = [[int(i) for i in line.split()] for line in done.stdout.decode().split("\n")[:-1]]
    differ = [(line, mine, encode(line)) for line, mine in zip(lines, ours) if mine != encode(line)]
    for line, mine, theirs in differ[:5]:
        at = next((i for i, (a, b) in enumerate(zip(mine, theirs)) if a != b), min(len(mine), len(theirs)))
        print(f"{line!r}\n  ours   {[(i, tokens[i]) for i in mine[at:at + 6]]}"
              f"\n  theirs {[(i, tokens[i]) for i in theirs[at:at + 6]]}")
    print(f"{path}: {len(ours)} lines, {sum(map(len, ours))} tokens, {len(differ)} lines differ")
    return len(differ) > 0 or len(ours) != count


if __name__ == "__main__":
    sys.exit(main())
