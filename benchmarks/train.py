"""Training a reward model four ways: records and answers per second, and peak memory, side by side in one run.

    KOFLAN_HUB_MIRROR=DIR python benchmarks/train.py [--tasks nsmc,ynat7,topics30,re30,korquad] [--seconds 20] [--rounds 2] [--clock wall]

Same records, same model shape (KoELECTRA-small-v3: 12 layers, hidden 256, embedding 128, 4 heads, 35,000 pieces; fresh weights, since only time is
measured), one fresh process for each, taking turns; the best round counts. All four train through `transformers.Trainer`.
- plain: the plain method. One wrong answer drawn for each record, texts tokenised in the collator, two forward passes (right answers, wrong answers),
  batch 8, fp32, padded to a multiple of 8, the model's own dropout of 0.1.
- crossencoder: sentence-transformers `CrossEncoderTrainer` with its binary cross-entropy, two (prompt, answer) rows for each record, 8 records in a batch.
- pair: koflan `--scoring pair`, one right and one wrong answer for each record. packed: koflan `--scoring packed`, all answers of each record.
  Both with koflan's defaults (precision auto, dropout 0) and `--batch` records (64); packed.1 is packed with the dropout of the first two, packed8 with their batch.
`records/s` counts records of the training data, `answers/s` the answers scored for them. `prepare` is the seconds before the first step that koflan
spends on tokens (once for a data set and a tokenizer; kept between runs). `--clock cpu` counts processor seconds instead, for a machine that is shared.
"""
import json
import time
from tempfile import TemporaryDirectory

from common import CLOCKS, TASKS, command, model_of, peak, records_of, rounds

WAYS = dict(plain={}, crossencoder={}, pair=dict(scoring="pair"), packed=dict(scoring="packed"), **{"packed.1": dict(scoring="packed", dropout=.1)}, packed8=dict(scoring="packed", batch=8))


def clocked(seconds, clock, warm=2):
    "A callback that starts its clock after `warm` steps and ends the training when the time is over."
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == warm: self.start, self.first = getattr(time, clock)(), state.global_step
            elif state.global_step > warm:
                self.took, self.steps = getattr(time, clock)() - self.start, state.global_step - self.first
                if self.took > seconds: control.should_training_stop = True
    return Clock()


def arguments(batch, **kw):
    return dict(output_dir=kw.pop("output_dir"), per_device_train_batch_size=batch, num_train_epochs=99, report_to="none", save_strategy="no", logging_strategy="no", disable_tqdm=True, learning_rate=1e-4) | kw


def plain(records, tokenizer, clock, tmp, batch=8):
    "Two forward passes for each pair."
    import random
    import torch
    from transformers import Trainer, TrainingArguments
    rows, rng = records.to_dicts(), random.Random(0)

    class PlainTrainer(Trainer):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            right, wrong = model(**inputs["right"]).logits, model(**inputs["wrong"]).logits
            return -torch.nn.functional.logsigmoid(right - wrong).mean()

    def collate(items):
        prompts = [f"{o['input']}{tokenizer.sep_token}{o['instruction']}" for o in items]
        side = lambda answers: tokenizer(prompts, answers, padding=True, pad_to_multiple_of=8, truncation="only_first", max_length=512, return_tensors="pt")
        return dict(right=side([o["positives"][0] for o in items]), wrong=side([rng.choice(o["negatives"]) for o in items]))

    PlainTrainer(model_of(tokenizer, "pair"), TrainingArguments(**arguments(batch, output_dir=tmp, remove_unused_columns=False)), train_dataset=rows, data_collator=collate, callbacks=[clock]).train()
    return batch, 2*batch, 0.


def crossencoder(records, tokenizer, clock, tmp, batch=8):
    from datasets import Dataset
    from sentence_transformers.cross_encoder import CrossEncoder, CrossEncoderTrainer, CrossEncoderTrainingArguments
    from sentence_transformers.cross_encoder.losses import BinaryCrossEntropyLoss
    model_of(tokenizer, "pair").save_pretrained(f"{tmp}/start")
    tokenizer.save_pretrained(f"{tmp}/start")
    model = CrossEncoder(f"{tmp}/start", max_length=512)
    rows = [dict(question=f"{o['input']}{tokenizer.sep_token}{o['instruction']}", answer=a, label=y) for o in records.to_dicts() for a, y in ((o["positives"][0], 1.), (o["negatives"][0], 0.))]
    args = CrossEncoderTrainingArguments(**arguments(2*batch, output_dir=tmp))
    CrossEncoderTrainer(model=model, args=args, train_dataset=Dataset.from_list(rows), loss=BinaryCrossEntropyLoss(model), callbacks=[clock]).train()
    return batch, 2*batch, 0.


def koflan(records, tokenizer, clock, tmp, batch, scoring, dropout=0.):
    import torch
    from koflan.model.scoring import Scorer
    from koflan.reward_trainer import RewardArguments, RewardData, RewardTrainer
    model = model_of(tokenizer, scoring)
    for o in model.modules():
        if isinstance(o, torch.nn.Dropout): o.p = dropout
    scorer, start = Scorer(model, tokenizer), time.perf_counter()
    data = RewardData(records, scorer, train=True)
    prepare = time.perf_counter() - start
    RewardTrainer(model, RewardArguments(**arguments(batch, output_dir=tmp)), scorer, data, callbacks=[clock]).train()
    answers = sum(o["counts"][0] + o["counts"][1] for o in data.__getitems__(range(min(500, len(data)))))/min(500, len(data))
    return batch, batch*answers, prepare


def one(way, task, args):
    "Measure one way in this process; prints JSON."
    from transformers import AutoTokenizer
    tokenizer, clock = AutoTokenizer.from_pretrained(args.data/"tokenizer"), clocked(args.seconds, CLOCKS[args.clock])
    options = dict(batch=args.batch) | WAYS[way] if WAYS[way] else {}
    with TemporaryDirectory() as tmp: rows, answers, prepare = (dict(plain=plain, crossencoder=crossencoder).get(way) or koflan)(records_of(task, args.records, args.data), tokenizer, clock, tmp, **options)
    print(json.dumps(dict(records=rows*clock.steps/clock.took, answers=answers*clock.steps/clock.took, prepare=prepare, peak=peak())))


def main():
    args = command(__doc__, WAYS, records=20_000, batch=64, seconds=20.)
    if args.one: return one(*args.one.split(":"), args)
    for task, best in rounds(args, "records"):
        print(f"\n{task}: {TASKS[task]}\n{'':<14}{'records/s':>11}{'x plain':>9}{'answers/s':>11}{'x plain':>9}{'prepare s':>11}{'peak MiB':>10}")
        for way, o in best.items():
            base = best.get("plain", o)
            print(f"{way:<14}{o['records']:>11.1f}{o['records']/base['records']:>9.2f}{o['answers']:>11.1f}{o['answers']/base['answers']:>9.2f}{o['prepare']:>11.1f}{o['peak']:>10,.0f}", flush=True)


if __name__ == "__main__": main()
