"""Compares slim_llm's tokenizer with the `tokenizers` package, id by id.

tokenizer_oracle.py ENCODE_STRINGS          hard strings, random strings and whole texts, four pre-tokenizers, from GGUF and
                                            tokenizer.json; exit status 77 if a package or the model is missing
tokenizer_oracle.py --folders ENCODE_STRINGS
                                            folders of every kind that is read (SentencePiece as tokenizer.json and
                                            tokenizer.model, added tokens, vocab.json of Qwen2); needs no model
tokenizer_oracle.py --write FOLDER          makes small_tokenizer.json (needs no model) and smollm2_ids.json
tokenizer_oracle.py --write-folders FOLDER  makes folder_ids.json (needs no model)

SLIM_MODEL names the GGUF file, SLIM_TEXT further texts, separated by ':'.
"""
import glob, json, os, random, struct, subprocess, sys, tempfile
from pathlib import Path

try:
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from gguf import GGUFReader, GGUFWriter
except ImportError as missing:
    print("skipped:", missing)
    sys.exit(77)

CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
PRE_TOKENIZERS = {
    "gpt2": lambda: pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
    "smollm": lambda: pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True),
                                               pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)]),
    "qwen2": lambda: pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(CONTRACTIONS + r"\p{N}" + REST), "isolated"),
                                              pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]),
    "llama3": lambda: pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(CONTRACTIONS + r"\p{N}{1,3}" + REST), "isolated"),
                                               pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]),
}
GGUF_NAMES = {"gpt2": "gpt-2", "smollm": "smollm", "qwen2": "qwen2", "llama3": "llama-bpe"}

HARD = [
    "", " ", "  ", "   x", "a", "Hello, world!", " Hello  world ", "In 2000 , the @-@ cat", "1234567890", "3.14159 and 1,000,000",
    "x1y22z333", " 7 8  9", "12ab 34", "\u0663\u0664 \u00bd\u00b2 \u2167 \u4e09 \u0be7", "don't can't we'll I'VE they'RE it's 'twas 's 'S 'LL 'D'd",
    "\u2019s curly", "'\u017f long s", "'ſ'ſx", "tab\tand\t\ttabs", "line\nbreak", "line\r\nbreak\r\n", "\n", "\n\n\n", " \n \n x", "x \n", "x  \n\n  y",
    "a\n b\n  c\n\n   d", "trailing   ", "trailing\n  \n", "\t\n\r\x0b\x0c x", "nbsp\u00a0here\u00a0\u00a0two", "\u2003em\u3000ideographic \u2028ls\u2029ps",
    "zero\u200bwidth\u200djoiner\ufeffbom", "\u1680ogham\u180emongolian\u0085nel", "\x1c\x1d\x1e\x1f separators",
    "\U0001f600\U0001f601 \U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466 \U0001f1e9\U0001f1ea \U0001f44d\U0001f3fd", "\u2764\ufe0f",
    "\u4f60\u597d\uff0c\u4e16\u754c\u3002", "\u65e5\u672c\u8a9e\u3068English\u306e\u6df7\u5408123", "\ud55c\uad6d\uc5b4 \ubb38\uc7a5", "\u0440\u0443\u0441\u0441\u043a\u0438\u0439 \u0442\u0435\u043a\u0441\u0442",
    "\u0627\u0644\u0639\u0631\u0628\u064a\u0629 \u0661\u0662\u0663", "\u05e2\u05d1\u05e8\u05d9\u05ea", "\u0939\u093f\u0928\u094d\u0926\u0940 \u0967\u0968", "\u0e20\u0e32\u0e29\u0e32\u0e44\u0e17\u0e22",
    "cafe\u0301 caf\u00e9 a\u0300\u0301\u0302b", "\u1e69 s\u0323\u0307 \u212b \ufb01", "\u0131\u0130 \u00df\u1e9e", "\U0001d400\U0001d7d8 \U00020000\U0002a6d6", "\U000e0041tag \U0010ffff \ufffd \ufffe",
    "\x00\x01\x7f nul", "control \x04\x06\x0e bytes", "C++ == -> <= /* x */ #!/bin/sh", "def f(x):\n    return x  # y\n\n\n\tz", "https://example.com/a?b=c&d=%20#e",
    "a" * 300, "ab" * 200, " " * 100, "!" * 100, "\n" * 50, "1" * 60, "\u00e9" * 80, "the " * 40, "aAaA" * 30, "=" * 17 + " " * 17 + "=" * 17,
    "<|im_start|>user\nHi <|im_end|>\n<|im_start|>assistant\n", "<|endoftext|>", "x<|endoftext|>y <|im_end|> z", "<|im_start", "|im_end|>", "<<|im_end|>>",
    "zebra zebra zebras", "<|im_end|><|im_end|>", "<filename>a.py<gh_stars>0-10", "<repo_name><reponame>", " <|im_end|> ", "\n<|im_end|>\n", "<|endoftext|>1<|endoftext|>",
]
INVALID = [b"\xff", b"a\xffb", b"\xc3", b"\xc3(", b"\xe2\x82", b"\xe2\x82x", b"\xf0\x9f\x98", b"\xf0\x80\x80A", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xc0\xaf", b"\xf8\x88\x80\x80\x80",
           b"ok \xe2\x28\xa1 ok", b"\x80\x81 x", b"\xe1\x80\xe2\xf0\x91\x92\xf1\xbfA"]


def random_strings(count):
    """Strings over alphabets that meet the borders of the rules."""
    rng = random.Random(1)
    parts = list(" \n\t\r'aZs1\u0663.,!\u00e9\u4e00\u00a0\u0301\u00bd\U0001f600\u3000\u2028\u017f") + ["  ", "\r\n", "'s", "'LL", "'re", "ve", "12", "the", " of", "<|im_end|>", "<|", "\u200d"]
    anything = lambda: chr(rng.choice([rng.randrange(0x20, 0x7f), rng.randrange(0xa0, 0x800), rng.randrange(0x800, 0xd800), rng.randrange(0x10000, 0x1ffff)]))
    out = ["".join(rng.choice(parts) for _ in range(rng.randrange(1, 30))) for _ in range(count)]
    return out + ["".join(anything() for _ in range(rng.randrange(1, 20))) for _ in range(count)]


def assembled(tokens, merges, kinds, rule):
    tk = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=[tuple(m.split(" ")) for m in merges], ignore_merges=rule == "llama3"))
    tk.pre_tokenizer = PRE_TOKENIZERS[rule]()
    tk.decoder = decoders.ByteLevel()
    tk.add_special_tokens([AddedToken(t, normalized=False, special=True) for t, k in zip(tokens, kinds) if k in (2, 3)])
    return tk


def read_gguf(path):
    fields = GGUFReader(path).fields
    return tuple(fields["tokenizer.ggml." + key].contents() for key in ("tokens", "merges", "token_type"))


def write_gguf(path, tokens, merges, kinds, rule):
    writer = GGUFWriter(path, "llama")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(GGUF_NAMES[rule])
    writer.add_token_list(tokens)
    writer.add_token_merges(merges)
    writer.add_token_types(kinds)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def encode_with_slim(program, vocabulary, strings, *arguments):
    text = json.dumps([(s if isinstance(s, bytes) else s.encode()).hex() for s in strings])
    run = subprocess.run([program, vocabulary, *arguments], input=text, capture_output=True, text=True)
    if run.returncode != 0:
        sys.exit(f"{vocabulary}: {run.stderr}")
    return json.loads(run.stdout), float(run.stderr)


def compare(name, tk, program, vocabulary, strings):
    ours, seconds = encode_with_slim(program, vocabulary, strings)
    count = 0
    for s, ids in zip(strings, ours):
        text = s.decode("utf-8", "replace") if isinstance(s, bytes) else s
        expected = tk.encode(text, add_special_tokens=False).ids
        if ids != expected:
            at = next((k for k, (a, b) in enumerate(zip(ids, expected)) if a != b), min(len(ids), len(expected)))
            sys.exit(f"{name}: ids differ at {at} of {len(expected)} in {s[:200]!r}: {ids[at:at + 8]} instead of {expected[at:at + 8]}")
        count += len(ids)
    print(f"{name}: {len(strings)} strings, {count} tokens agree; {seconds:.3f} s here")
    return count


def texts():
    paths = [p for p in os.environ.get("SLIM_TEXT", "").split(":") if p]
    return [open(p, encoding="utf-8", errors="replace").read() for p in paths if os.path.exists(p)]


def small_vocabulary():
    """256 bytes, three control tokens and some merges learned from the hard strings themselves."""
    tk = Tokenizer(models.BPE())
    tk.pre_tokenizer = PRE_TOKENIZERS["gpt2"]()
    trainer = trainers.BpeTrainer(vocab_size=420, special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"], show_progress=False,
                                  initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()))
    tk.train_from_iterator([s for s in HARD if s] * 3, trainer)
    model = json.loads(tk.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get) + ["zebra", "\u0120zebra"]  # tokens that no merges lead to
    merges = [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]
    return tokens, merges, [3 if t.startswith("<|") else 1 for t in tokens]


def write_goldens(folder):
    small = small_vocabulary()
    strings = [s for s in HARD if len(s) <= 100]
    out = {"tokens": small[0], "merges": small[1], "token_types": small[2], "strings": strings, "rules": {}}
    for rule in PRE_TOKENIZERS:
        tk = assembled(*small, rule)
        out["rules"][rule] = {"pre_tokenizer": json.loads(tk.to_str())["pre_tokenizer"], "ids": [tk.encode(s).ids for s in strings]}
    with open(os.path.join(folder, "small_tokenizer.json"), "w") as file:
        json.dump(out, file, separators=(",", ":"))
        file.write("\n")
    tk = assembled(*read_gguf(model_path()), "smollm")
    with open(os.path.join(folder, "smollm2_ids.json"), "w") as file:
        json.dump({"strings": HARD, "ids": [tk.encode(s).ids for s in HARD]}, file, separators=(",", ":"))
        file.write("\n")


SYMBOLS = ["la", "tok\u2581en", "lala"]  # user-defined, matched in the text with its spaces spelled
PIECES = ["<unk>", "<s>", "</s>"]
BYTES = [f"<0x{b:02X}>" for b in range(256)]
SPACE = "\u2581"


def piece_vocabulary():
    """Vocabulary and merges as of a SentencePiece BPE model with byte_fallback, learned from the hard strings."""
    tk = Tokenizer(models.BPE())
    tk.pre_tokenizer = pre_tokenizers.Metaspace()
    tk.train_from_iterator([s for s in HARD if s] * 3, trainers.BpeTrainer(vocab_size=480, special_tokens=PIECES + BYTES, show_progress=False))
    model = json.loads(tk.to_str())["model"]
    return model["vocab"], [tuple(m) if isinstance(m, list) else tuple(m.split(" ")) for m in model["merges"]]


def piece_tokenizer(form, fallback=True):
    """form: prepend (Llama 2, TinyLlama, Mistral), plain (Gemma), first or always (Metaspace), cut."""
    vocab, merges = piece_vocabulary()
    if not fallback:  # some bytes have no token, characters beyond the vocabulary are unknown
        vocab = {t: k for k, t in enumerate(t for t in sorted(vocab, key=vocab.get) if t not in BYTES[128:])}
    tk = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", fuse_unk=form != "cut", byte_fallback=fallback))
    if form in ("prepend", "plain"):
        replace = normalizers.Replace(" ", SPACE)
        tk.normalizer = replace if form == "plain" else normalizers.Sequence([normalizers.Prepend(SPACE), replace])
    if form == "plain":
        tk.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    if form in ("first", "always", "cut"):
        tk.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first" if form == "first" else "always", split=form == "cut")
    tk.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tk.add_special_tokens([AddedToken(t, special=True, normalized=form == "first") for t in PIECES])
    return tk


def varint(value):
    value &= (1 << 64) - 1
    out = bytearray()
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes(out + bytes([value]))


def proto(*fields):
    """(number, value) pairs as a protocol buffer; bool and int, float, str, or bytes of a message."""
    out = b""
    for number, value in fields:
        if isinstance(value, float):
            out += varint(number << 3 | 5) + struct.pack("<f", value)
        elif isinstance(value, int):
            out += varint(number << 3) + varint(value)
        else:
            value = value.encode() if isinstance(value, str) else value
            out += varint(number << 3 | 2) + varint(len(value)) + value
    return out


def sentencepiece_file(symbols=()):
    """tokenizer.model: pieces scored by their place, as SentencePiece's trainer does; user-defined symbols behind them."""
    vocab, merges = piece_vocabulary()
    order = {a + b: -float(k) for k, (a, b) in reversed(list(enumerate(merges)))}
    kind = lambda t: 2 if t == "<unk>" else 3 if t in PIECES else 6 if t in BYTES else 1
    pieces = [(1, proto((1, t), (2, order.get(t, 0.0 if kind(t) != 1 else -1e4 - k)), (3, kind(t)))) for k, t in enumerate(sorted(vocab, key=vocab.get))]
    pieces += [(1, proto((1, t), (2, 0.0), (3, 4))) for t in symbols]
    trainer = [(1, "corpus.txt"), (3, 2), (4, len(pieces)), (35, True), (40, 0), (41, 1), (42, 2), (43, -1)]
    normal = [(1, "identity"), (2, b""), (3, True), (4, False), (5, True)]
    return proto(*pieces, (2, proto(*trainer)), (3, proto(*normal)))


class WithPrefix:
    """SentencePiece's dummy prefix: one space before the whole text."""

    def __init__(self, tk):
        self.tk = tk

    def encode(self, text, add_special_tokens=False):
        return self.tk.encode(" " + text if text else text, add_special_tokens=False)


def scored_tokenizer():
    """What transformers makes of such a file: every way to split a piece into two pieces is a merge, the best score first."""
    vocab, merges = piece_vocabulary()
    rank = {}
    for k, (a, b) in enumerate(merges):
        rank.setdefault(a + b, k)
    splits = [(rank[t], vocab[t[:k]], vocab[t[k:]], t[:k], t[k:]) for t in rank for k in range(1, len(t)) if t[:k] in vocab and t[k:] in vocab]
    tk = Tokenizer(models.BPE(vocab=vocab, merges=[(a, b) for *_, a, b in sorted(splits)], unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tk.normalizer = normalizers.Replace(" ", SPACE)
    return tk


def added_tokenizer(kind):
    tokens, merges, _ = small_vocabulary()
    tokens = list(dict.fromkeys(tokens))  # an id for every token: new tokens get the next ones
    tk = assembled(tokens, merges, [1] * len(tokens), "qwen2")
    tk.normalizer = normalizers.NFC()
    if kind == "overlaps":  # the order of both passes, and of tokens that begin or end with each other
        tk.add_tokens([AddedToken("<tool", normalized=True), AddedToken("<tool_call>", normalized=False), AddedToken("scale<", normalized=True),
                       AddedToken(" weight", normalized=False, lstrip=True), AddedToken("nai\u0308ve", normalized=True), AddedToken("n", normalized=True, single_word=True),
                       AddedToken("<|im", normalized=False)])
        tk.add_special_tokens([AddedToken("<mask>", lstrip=True, special=True), AddedToken("<sep>", rstrip=True, special=True)])
    tk.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in ("<|endoftext|>", "<|im_start|>", "<|im_end|>")])
    return tk


ADDED = ["a <tool_call> b<tool>c <tool_callx scale<|im_end|> scale< x   weight  <mask> y <sep>   z nai\u0308ve na\u00efve <|im_start|>user\nhi<|im_end|>\n",
         "n an n. _n n\u00e9 (n) n1 nn", " <mask> <mask><sep> <sep>\u3000x", "<sep> weight", "  weight weight<tool<tool_call", "scale<tool_call>scale<tool",
         "", "<sep>", "<|im_", "<|im_end", "nai\u0308", "<s> a </s>b <unk><s>", " <s>", "a<s>", "\u2581a \u2581 b", "<0x41><0x", "a\u2581<s>\u2581b", "lala la  lalala", "tok en tok  en tok\u2581en"]


def class_files(folder, tk, name):
    """vocab.json, merges.txt and tokenizer_config.json, as a slow tokenizer saves them."""
    model = json.loads(tk.to_str())["model"]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"], ensure_ascii=False))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(m if isinstance(m, str) else " ".join(m) for m in model["merges"]) + "\n")
    specials = {t: tk.token_to_id(t) for t in ("<|endoftext|>", "<|im_start|>", "<|im_end|>")}
    decoder = {str(i): dict(content=t, lstrip=False, normalized=False, rstrip=False, single_word=False, special=True) for t, i in specials.items()}
    (folder / "tokenizer_config.json").write_text(json.dumps(dict(tokenizer_class=name, bos_token=None, eos_token="<|im_end|>", added_tokens_decoder=decoder)))


def folders(root):
    """Name, folder and tokenizer of every kind of folder that is read."""
    root = Path(root)
    made = {form: piece_tokenizer(form) for form in ("prepend", "plain", "first", "always", "cut")}
    made.update({form + "_unknown": piece_tokenizer(form, False) for form in ("prepend", "cut")})
    made["overlaps"] = added_tokenizer("overlaps")
    gpt2_prefix = assembled(*small_vocabulary(), "gpt2")
    gpt2_prefix.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    made["prefix_space"] = gpt2_prefix
    for name, tk in made.items():
        (root / name).mkdir()
        tk.save(str(root / name / "tokenizer.json"))
    (root / "qwen2_class").mkdir()
    made["qwen2_class"] = added_tokenizer("plain")
    class_files(root / "qwen2_class", made["qwen2_class"], "Qwen2Tokenizer")
    (root / "sentencepiece").mkdir()
    (root / "sentencepiece/tokenizer.model").write_bytes(sentencepiece_file())
    made["sentencepiece"] = WithPrefix(scored_tokenizer())
    (root / "sentencepiece_symbols").mkdir()
    (root / "sentencepiece_symbols/tokenizer.model").write_bytes(sentencepiece_file(SYMBOLS))
    with_symbols = scored_tokenizer()
    with_symbols.add_tokens([AddedToken(t.replace(SPACE, " "), normalized=True) for t in SYMBOLS])
    made["sentencepiece_symbols"] = WithPrefix(with_symbols)
    return [(name, root / name, tk) for name, tk in made.items()]


def compare_folders(program):
    with tempfile.TemporaryDirectory() as root:
        for name, folder, tk in folders(root):
            own = [s for s in ADDED if not name.startswith("sentencepiece") or "<" not in s]  # control tokens are not part of a text there
            compare(name, tk, program, folder, HARD + INVALID + own + random_strings(1500))


def write_folder_goldens(target):
    """Small files of each kind with their ids, for the unit tests."""
    out = []
    with tempfile.TemporaryDirectory() as root:
        for name, folder, tk in folders(root):
            strings = [s for s in ADDED + HARD if len(s) <= 36 and (not name.startswith("sentencepiece") or "<" not in s)]
            files = {f.name: f.read_bytes().hex() if f.suffix == ".model" else f.read_text() for f in sorted(folder.iterdir())}
            if name in ("always", "prefix_space", "cut_unknown", "plain"):
                continue  # the interop test has them
            out.append({"name": name, "files": files, "strings": strings, "ids": [tk.encode(s, add_special_tokens=False).ids for s in strings]})
    with open(os.path.join(target, "folder_ids.json"), "w") as file:
        json.dump(out, file, separators=(",", ":"))
        file.write("\n")


def model_path():
    path = os.environ.get("SLIM_MODEL", "")
    if not os.path.exists(path):
        print("skipped: SLIM_MODEL does not name the SmolLM2 GGUF file")
        sys.exit(77)
    return path


def compare_all(program):
    model = model_path()
    tokens, merges, kinds = read_gguf(model)
    strings = HARD + INVALID + random_strings(3000) + texts()
    total = 0
    with tempfile.TemporaryDirectory() as folder:
        for rule in PRE_TOKENIZERS:
            tk = assembled(tokens, merges, kinds, rule)
            from_json = os.path.join(folder, rule + ".json")
            tk.save(from_json)
            total += compare(rule + ", tokenizer.json", tk, program, from_json, strings)
            from_gguf = model if rule == "smollm" else os.path.join(folder, rule + ".gguf")
            if rule != "smollm":
                write_gguf(from_gguf, tokens, merges, kinds, rule)
            total += compare(rule + ", GGUF", tk, program, from_gguf, strings)
            small = small_vocabulary()  # has tokens of several digits, which SmolLM2 has not
            write_gguf(os.path.join(folder, rule + "_small.gguf"), *small, rule)
            total += compare(rule + ", small", assembled(*small, rule), program, os.path.join(folder, rule + "_small.gguf"), strings)
        tk = assembled(tokens, merges, kinds, "qwen2")
        tk.normalizer = normalizers.NFC()
        tk.save(os.path.join(folder, "nfc.json"))
        total += compare("qwen2 with NFC", tk, program, os.path.join(folder, "nfc.json"), strings)
        tk = assembled(tokens, merges, kinds, "gpt2")
        tk.add_special_tokens([AddedToken("<left>", lstrip=True, normalized=False), AddedToken("<right>", rstrip=True, normalized=False)])
        tk.save(os.path.join(folder, "strip.json"))
        stripped = ["a <left> b <right> c", "<left>", "  <left>  <right>  ", "x\n<right>\n\ty", "\u3000<left>"]
        total += compare("tokens that swallow white space", tk, program, os.path.join(folder, "strip.json"), stripped)
        plain = assembled(tokens, merges, [1] * len(kinds), "smollm")
        ours, _ = encode_with_slim(program, model, HARD, "plain")
        assert ours == [plain.encode(s).ids for s in HARD], "control tokens as plain text"
    print(f"{total} tokens agree")


if __name__ == "__main__":
    if len(sys.argv) == 3 and sys.argv[1] == "--write":
        write_goldens(sys.argv[2])
    elif len(sys.argv) == 3 and sys.argv[1] == "--write-folders":
        write_folder_goldens(sys.argv[2])
    elif len(sys.argv) == 3 and sys.argv[1] == "--folders":
        compare_folders(sys.argv[2])
    elif len(sys.argv) == 2:
        compare_all(sys.argv[1])
    else:
        sys.exit(__doc__)
