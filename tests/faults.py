#!/usr/bin/env python3
"""faults.py [BUILD_DIR = build/release]: what users' hands broke in 0.1.0 (4d486ab), what is right, and whether it holds.

Prints a table with a row per fault. A row holds if all tests that show it pass (ctest; build them first). Exit status 1 if
one does not, 2 if a row has no test in this build.
"""
import fnmatch
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as xml

# fault, what 0.1.0 did, what is right, tests that show it (names in ctest; * stands for anything)
FAULTS = [
    ("tied head that differs", "dropped unread", "kept, with a note", ["interop: family twice"]),
    ("biases that the configuration denies", "used, no word", "refused by name", ["interop: family twice"]),
    ("rope scaling without original context", "a default of our own", "transformers' default, wherever it stands", ["interop: family families"]),
    ("sliding windows: class default, max_window_layers", "ignored, or refused", "as transformers", ["interop: family families", "llm:a window hides*"]),
    ("vocab.json and merges.txt of Qwen2", "GPT-2's rules", "Qwen2's", ["interop: tokenizer folders"]),
    ("added tokens, normalized and not", "one pass", "two passes, as tokenizers", ["interop: tokenizer folders"]),
    ("SentencePiece folders (Llama-2, TinyLlama, Mistral)", "refused", "read", ["interop: tokenizer folders", "llm:a damaged or unusual tokenizer.model*"]),
    ("BOS under llama.cpp's protocol", "before every window", "before the text, then over a window's first token",
     ["llm:llama.cpp's protocol puts BOS*", "llm:llama.cpp: targets*"]),
    ("compressed file of another model", "trains", "refused", ["llm:finetune and refine write the .slim file again*"]),
    ("outputs over inputs or each other", "the model overwritten, exit 0", "refused before anything is read",
     ["llm:no output takes the place*", "llm:the program refuses outputs*"]),
    ("dtype of a written folder", "the old one", "the one that is written", ["llm:a written folder names*", "llm:the type of config.json*"]),
    ("null metadata, unread index, harmless tensors", "refused", "read, with a note", ["interop: family twice", "io:*safetensors*"]),
    ("Infinity in config.json", "no valid JSON, without a place", "read", ["io:Python's NaN and Infinity*"]),
    ("NaN in a weight", "perplexity -nan, exit 0", "refused with tensor, row, column", ["interop: model refusals", "llm:what is not finite*"]),
    ("overflow inside a model", "nan", "an error that names block or window", ["llm:numbers that overflow*"]),
    ("texts shorter than a window, contexts too long", "no word", "said", ["llm:texts and windows*"]),
    ("unknown subcommands and recipes, wide help", "no name; 145 columns", "the nearest name; 100 columns",
     ["llm:the nearest known name", "llm: help that fits", "llm:a recipe's name*"]),
    ("families: SmolLM3, OLMo 2, Gemma, Phi-3, experts", "refused", "float64 NumPy's logits", ["interop: family families", "llm:every family*"]),
    ("experts without tokens", "-", "left as they are, named", ["llm:an expert that no token*"]),
    ("mdspan with reference members", "does not compile", "a matrix", ["core:mdspan-like*"]),
    ("complex numbers", "an error inside matrix.hpp", "the sentence", ["core:complex numbers*", "compile_fail: as_matrix_view*"]),
    ("codes, books, adapters made by hand", "read out of bounds, silently wrong", "refused by field", ["pipeline:*made by hand*"]),
    ("pack(layer) of fp32 scales, 4:8, books, any_chain", "refused, or silently uniform", "packed, or a sentence",
     ["pipeline:scales are packed*", "pipeline:layers of books*", "pipeline:codes that are handed out*"]),
    ("bits of N:M positions", "log2 M per kept weight", "the cheapest format's", ["pruning:index bits are*"]),
    ("-ffast-math and other flags", "one ABI name, NaN accepted", "names of their own, NaN by bits", ["package: two units with different flags"]),
    ("-fno-rtti, -fno-exceptions, foreign warnings", "do not compile, no word", "compiles; says why not; none",
     ["package: without run-time*", "package: without exceptions*", "package: no warning*"]),
    ("GPTQ without a Gram matrix", "rounding, no note", "a note", ["joint:GPTQ without a Gram matrix*"]),
    ("negative descents, ratios above 1", "accepted", "refused with the value", ["joint:configurations that make no sense*"]),
    ("cancelling, progress", "by throwing from an executor", "context.stop, context.progress", ["pipeline:a compress stopped*", "core:progress*"]),
    ("ways in: GPTQ, AWQ, NF4, imatrix, a Gram matrix", "none", "documented, tested",
     ["interop:GPTQ*", "interop:AWQ*", "interop:NF4*", "interop:an imatrix*", "calibration:a Gram matrix tells*"]),
    ("version, pkg-config, compiled form, C interface", "none", "there",
     ["pipeline:the version*", "package: pkg-config", "package: compiled form", "package: the C interface*"]),
]


def main(build):
    with tempfile.NamedTemporaryFile(suffix=".xml") as report:
        names = subprocess.run(["ctest", "--test-dir", build, "-N"], capture_output=True, text=True, check=True).stdout
        known = [line.split(": ", 1)[1] for line in names.splitlines() if line.lstrip().startswith("Test ") and ": " in line]
        wanted = sorted({name for fault in FAULTS for pattern in fault[3] for name in fnmatch.filter(known, pattern)})
        numbers = ",".join(str(known.index(name) + 1) for name in wanted)
        subprocess.run(["ctest", "--test-dir", build, "-j", "2", "-I", f"0,0,0,{numbers}", "--output-junit", report.name],
                       stdout=subprocess.DEVNULL, check=False)
        outcome = {case.get("name"): case.get("status") for case in xml.parse(report.name).getroot().iter("testcase")}
    print("| fault | 0.1.0 | right | now | tests |\n|:--|:--|:--|:--|--:|")
    status = 0
    for fault, old, right, patterns in FAULTS:
        tests = [name for pattern in patterns for name in fnmatch.filter(known, pattern)]
        failed = [name for name in tests if outcome.get(name) == "fail"]
        skipped = [name for name in tests if outcome.get(name) != "run" and name not in failed]
        missing = [pattern for pattern in patterns if not fnmatch.filter(known, pattern)]
        status = max(status, 1 if failed else 2 if missing else 0)
        now = "FAILS: " + "; ".join(failed) if failed else "no test " + "; ".join(missing) if missing else \
            "skipped: " + "; ".join(skipped) if skipped else "holds"
        print(f"| {fault} | {old} | {right} | {now} | {len(tests)} |")
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else "build/release"))
