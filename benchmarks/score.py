"""Scoring the answers to many prompts: answers per second and peak memory, side by side in one run.

    KOFLAN_HUB_MIRROR=DIR python benchmarks/score.py [--tasks nsmc,ynat7,topics30,re30,korquad] [--prompts 256] [--rounds 2] [--clock wall]

Same records, same model shape (see train.py; fresh weights), one fresh process for each, taking turns; the best round counts. Texts in, scores out:
tokenising is on the clock on all sides, loading is not; a tenth of the prompts runs before the clock starts.
- crossencoder: sentence-transformers `CrossEncoder.predict` on all (prompt, answer) pairs as a user runs it (fp32, batch 32); crossencoder16 under bf16 autocast.
- pair, packed: `RewardModel.score` with precision fp32; pair16, packed16 with bf16. Where the machine has bf16, `RewardModel.from_pretrained` takes it by itself.
`x fp32` and `x bf16` compare with the two crossencoders. `--clock cpu` counts processor seconds instead, for a machine that is shared.
"""
import json
import time
from contextlib import nullcontext
from tempfile import TemporaryDirectory

from common import CLOCKS, TASKS, command, model_of, peak, records_of, rounds

WAYS = ("crossencoder", "crossencoder16", "pair", "pair16", "packed", "packed16")


def crossencoder(tokenizer, bf16, tmp):
    import torch
    from sentence_transformers.cross_encoder import CrossEncoder
    model_of(tokenizer, "pair").save_pretrained(tmp)
    tokenizer.save_pretrained(tmp)
    model = CrossEncoder(tmp, max_length=512)

    def score(rows):
        pairs = [(f"{o['input']}{tokenizer.sep_token}{o['instruction']}", a) for o in rows for a in o["positives"] + o["negatives"]]
        with torch.autocast(model.device.type, torch.bfloat16) if bf16 else nullcontext(): return model.predict(pairs, show_progress_bar=False)
    return score


def koflan(tokenizer, scoring, bf16):
    import torch
    from koflan.reward import RewardModel
    model = RewardModel(model_of(tokenizer, scoring).to("cuda" if torch.cuda.is_available() else "cpu"), tokenizer, precision="bf16" if bf16 else "fp32")
    return lambda rows: model.score(*([o[k] for o in rows] for k in ("instruction", "input")), [o["positives"] + o["negatives"] for o in rows])


def one(way, task, args):
    "Measure one way in this process; prints JSON."
    from transformers import AutoTokenizer
    tokenizer, rows, bf16, clock = AutoTokenizer.from_pretrained(args.data/"tokenizer"), records_of(task, args.prompts, args.data).to_dicts(), way.endswith("16"), getattr(time, CLOCKS[args.clock])
    with TemporaryDirectory() as tmp:
        score = crossencoder(tokenizer, bf16, tmp) if way.startswith("cross") else koflan(tokenizer, way.removesuffix("16"), bf16)
        score(rows[:max(1, len(rows)//10)])
        start = clock()
        score(rows)
        took = clock() - start
    print(json.dumps(dict(answers=sum(len(o["positives"]) + len(o["negatives"]) for o in rows)/took, prompts=len(rows)/took, peak=peak())))


def main():
    args = command(__doc__, WAYS, prompts=256)
    if args.one: return one(*args.one.split(":"), args)
    for task, best in rounds(args, "answers"):
        print(f"\n{task}: {TASKS[task]}\n{'':<16}{'answers/s':>11}{'prompts/s':>11}{'x fp32':>9}{'x bf16':>9}{'peak MiB':>10}")
        for way, o in best.items():
            times = lambda base: f"{o['answers']/best[base]['answers']:>9.2f}" if base in best else f"{'-':>9}"
            print(f"{way:<16}{o['answers']:>11.1f}{o['prompts']:>11.1f}{times('crossencoder')}{times('crossencoder16')}{o['peak']:>10,.0f}", flush=True)


if __name__ == "__main__": main()
