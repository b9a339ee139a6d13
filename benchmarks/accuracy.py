"""Accuracy of pair and packed scoring, from scratch: at equal data and at equal wall-clock, several seeds, beside the lexical baselines.

    KOFLAN_HUB_MIRROR=DIR python benchmarks/accuracy.py [--tasks nsmc,unsmile,kor_hate,kobest_sentineg,...] [--records 20000] [--epochs 1] [--seeds 3]

One model over all tasks for each way and seed: `--layers` of `--hidden` and a WordPiece vocabulary learnt from the training records, learning rate 1e-3
after a warm-up, then constant. `pair` and `packed` see the same records the same number of times; `packed=t` trains as long as `pair` took
(at most 50 passes; `--clock cpu` counts processor seconds, for a machine that is shared: give it one thread). Top-1 accuracy on the first `--test` test records of each task, mean over seeds and half the range; `macro` is the mean over tasks.
"""
import argparse
import time
from tempfile import TemporaryDirectory

import polars as pl
from common import CLOCKS, machine

from koflan.build.manifest import load_records
from koflan.core.chance import Chance, smallest
from koflan.generate import generate
from koflan.model.baseline import BASELINES
from koflan.model.metrics import by_task, judge
from koflan.model.scoring import Scorer, learn_tokenizer, tiny_electra
from koflan.reward_trainer import RewardArguments, RewardData, RewardTrainer


def capped(df, n): return df.filter(pl.int_range(pl.len()).over("task") < n)


def run(scoring, seed, train, test, tokenizer, args, seconds=None):
    "(seconds of training, accuracy of each task and macro)."
    import torch
    from transformers import PrinterCallback, TrainerCallback

    clock = getattr(time, CLOCKS[args.clock])

    class Stop(TrainerCallback):
        def on_step_end(self, a, state, control, **kwargs): control.should_training_stop |= seconds is not None and clock() - start > seconds

    net = tiny_electra(tokenizer, args.hidden, args.layers, max(2, args.hidden//64), seed, scoring)
    for o in net.modules():
        if isinstance(o, torch.nn.Dropout): o.p = 0.
    scorer = Scorer(net, tokenizer, args.max_length)
    with TemporaryDirectory() as tmp:
        options = RewardArguments(tmp, num_train_epochs=args.epochs if seconds is None else 50, per_device_train_batch_size=args.batch, per_device_eval_batch_size=64, learning_rate=args.lr, warmup_steps=100,
                                  lr_scheduler_type="constant_with_warmup", seed=seed, report_to="none", save_strategy="no", logging_strategy="no", disable_tqdm=True)
        trainer = RewardTrainer(net, options, scorer, RewardData(train, scorer, True, seed=seed), RewardData(test, scorer), tokenizer, callbacks=[Stop()])
        trainer.remove_callback(PrinterCallback)
        start = clock()
        trainer.train()
        took = clock() - start
        trainer.evaluate()
    return took, dict(trainer.table.select("task", "top1").iter_rows())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", default="nsmc,unsmile,kor_hate,kobest_sentineg,kobest_boolq,kobest_copa,kobest_hellaswag,kobest_wic")
    for name, kind, value in (("records", int, 20_000), ("test", int, 2_000), ("epochs", float, 1.), ("seeds", int, 3), ("batch", int, 64), ("layers", int, 2), ("hidden", int, 128), ("vocab", int, 24_000), ("max_length", int, 256), ("lr", float, 1e-3)):
        parser.add_argument(f"--{name}", type=kind, default=value)
    parser.add_argument("--clock", default="wall", choices=list(CLOCKS))
    args = parser.parse_args()
    with TemporaryDirectory() as tmp:
        generate(args.tasks, tmp, splits="train,test")
        train, test = load_records(tmp, "train"), capped(load_records(tmp, "test"), args.test)
    train = pl.concat([o[smallest(Chance(0, o["task"][0], "train").bits(range(len(o)), "benchmark"), args.records)] for o in train.partition_by("task", maintain_order=True)])
    tokenizer = learn_tokenizer(pl.concat([train["instruction"], train["input"], *(train[o].explode().drop_nulls() for o in ("positives", "negatives"))]).to_list(), args.vocab)
    print(machine(), f"\n{len(train):,} training records, {vars(args)}", flush=True)
    found = {}
    for seed in range(args.seeds):
        for way in ("pair", "packed", "packed=t"):
            took, top = run(way.removesuffix("=t"), seed, train, test, tokenizer, args, found["pair"][-1][0] if way.endswith("=t") else None)
            found.setdefault(way, []).append((took, top))
            print(f"seed {seed} {way:<10}{took:>8.0f} s  macro {top['macro']:.3f}", flush=True)
    lexical = {k: dict(by_task(o).select("task", "top1").iter_rows()) for k in ("tfidf", "tfidf_all")
               if len(o := judge(test, BASELINES[k](train, test)))}
    print(f"\n{'task':<20}" + "".join(f"{o:>18}" for o in found) + "".join(f"{o:>12}" for o in lexical))
    for name in found["pair"][0][1]:
        tops = [[top[name] for _, top in runs] for runs in found.values()]
        ours = "".join(f"{sum(o)/len(o):>10.3f} ± {(max(o) - min(o))/2:.3f}" for o in tops)
        print(f"{name:<20}{ours}" + "".join(f"{o[name]:>12.3f}" if name in o else f"{'-':>12}" for o in lexical.values()))


if __name__ == "__main__": main()
