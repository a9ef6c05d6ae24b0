#!/usr/bin/env python3
"""What gradients are worth: excess NLL of recipes without and with @guided, and of compressed models before and after finetuning.

    training.py --slim-llm build/release/examples/llm/slim-llm MODEL --text TEXT [--other TEXT] [--draws 3] [--steps 256]
                [--rates 2e-4,5e-4,2e-3] [--guided int3-lr,joint-q,int4-lr] [--tuned int3-lr@guided,int4-lr@guided,slim,slim-q,joint-q]

Of TEXT (WikiText-2 validation has 273,868 tokens of SmolLM2) the first 190,000 are trained on, the next 16,384 chosen by, the last 24,576
evaluated on; recipes are calibrated on 16,384. --other is a text that nothing saw. For every recipe the learning rate is chosen by
the choosing text. Prints Markdown tables with seconds; embedding and head of compressed models are Q8_0."""
import argparse
import json
import subprocess
import tempfile
from pathlib import Path


def options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--slim-llm", type=Path, required=True)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--other", type=Path)
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--steps", type=int, default=256)
    parser.add_argument("--rates", default="2e-4,5e-4,2e-3")
    parser.add_argument("--guided", default="int3-lr,joint-q,int4-lr")
    parser.add_argument("--tuned", default="int3-lr@guided,int4-lr@guided,slim,slim-q,joint-q")
    return parser.parse_args()


def run(args, folder, *words):
    """The command's result as JSON."""
    out = folder / "result.json"
    subprocess.run([args.slim_llm, *words, "--json", out], check=True, stdout=subprocess.DEVNULL)
    return json.loads(out.read_text())


def nll(args, folder, model):
    return run(args, folder, "eval", model, "--text", args.other, "--context", "512", "--max-tokens", "24576", "--last")["nll"]


def guided(args, folder):
    recipes = [name for base in args.guided.split(",") for name in (base, base + "@guided")]
    rows = run(args, folder, "ablate", args.model, "--recipes", ",".join(recipes), "--draws", str(args.draws), "--calib", args.text,
               "--text", args.text, "--max-tokens", "24576")["rows"]
    print("| recipe | bits | excess NLL | +- | draws | seconds |\n|---|---|---|---|---|---|")
    for row in rows:
        draws = " ".join(f"{draw['excess_nll']:.4f}" for draw in row["draws"])
        print(f"| `{row['recipe']}` | {row['bits_per_weight']:.3f} | {row['excess_nll']:.4f} | {row['excess_stderr']:.4f} | {draws} | {row['seconds']:.0f} |")


def tuned(args, folder):
    print("\n| recipe | rate | excess NLL before | after | on the other text before | after | seconds |\n|---|---|---|---|---|---|---|")
    dense = nll(args, folder, args.model) if args.other else 0
    for recipe in args.tuned.split(","):
        compressed, best = folder / "compressed.slim", None
        run(args, folder, "compress", args.model, "--recipe", recipe, "--out", compressed, "--calib", args.text, "--text", args.text, "--no-eval")
        for rate in args.rates.split(","):
            after = folder / f"tuned-{rate}.slim"
            found = run(args, folder, "finetune", args.model, "--compressed", compressed, "--out", after, "--rate", rate, "--steps", str(args.steps),
                        "--calib", args.text, "--text", args.text, "--calib-tokens", "190000", "--held-out-tokens", "16384", "--max-tokens", "24576")
            if best is None or found["choosing_loss_after"] < best[1]["choosing_loss_after"]:
                best = rate, found, after
        rate, found, after = best
        other = [f"{nll(args, folder, file) - dense:.4f}" if args.other else "" for file in (compressed, after)]
        print(f"| `{recipe}` | {rate} | {found['nll_before'] - found['dense_nll']:.4f} | {found['nll_after'] - found['dense_nll']:.4f} "
              f"| {other[0]} | {other[1]} | {found['seconds']:.0f} |", flush=True)


def main():
    args = options()
    with tempfile.TemporaryDirectory() as temporary:
        guided(args, Path(temporary))
        tuned(args, Path(temporary))


if __name__ == "__main__":
    main()
