"""koflan's build against a row-by-row loop: rows per second and peak memory, side by side in one run.

    KOFLAN_HUB_MIRROR=DIR python benchmarks/generate.py [--tasks "*"] [--splits train] [--repeat 10] [--num_proc 1]

Both sides start from the parquet files of the mirror and end with a closed JSONL file, every split of a task.
- reference: `datasets.load_dataset` on the folder of the mirror, once for each configuration, then one dict per row (`random.choice` of instruction and
  wording) and one `json.dumps` per line; nothing is checked, normalised or hashed. `load` is its share for `load_dataset` with nothing in the cache.
- koflan: the works of `koflan_generate`, that is reading, tidying, all checks, writing, sha256 and the entries for the manifest.

Each side of each task is a fresh process that has imported everything before its clock starts. They take 5 turns; a turn builds again and again until
0.3 seconds have passed, once at least. The best build counts.
`ratio` compares one process of koflan with the reference, from parquet to JSONL; `loop` leaves the reference's loading out (koflan's stays in).
Peaks are VmHWM in MiB.
Tasks with code of their own for the answers (`own`) are no declared tasks: they are left out of the median.
At last one build of all tasks, in one process and in `--num_proc N`, beside the sum of what the reference took for each.
`--repeat N` copies every parquet file N times: a build bounded by its chunks keeps its peak.
"""
import argparse
import json
import os
import random
import re
import shutil
import statistics
import sys
import time
from functools import partial
from multiprocessing import active_children, get_context
from pathlib import Path
from tempfile import TemporaryDirectory

import datasets
import pandas # noqa: F401  (datasets and polars import these late: no side shall pay for it on its clock)
import polars as pl
import pyarrow.parquet # noqa: F401

from koflan.build.engines import make_pool
from koflan.build.stages import SHARD_ROWS, Stages
from koflan.core.schema import user_errors
from koflan.authoring.shapes import BorrowTask, ChoiceTask, LabelTask, MultiLabelTask, SpanTask
from koflan.build.shards import Job
from koflan.core.sources import SPLITS, find_mirror
from koflan.tasks import find_tasks
from koflan.tasks.klue_ner import NO_TAG, QUOTES, TYPES, WHAT

FAMILIES = dict(label=LabelTask, multilabel=MultiLabelTask, choice=ChoiceTask, span=SpanTask, borrow=BorrowTask)
ROUNDS, TURN = 5, .3

load_dataset = partial(datasets.load_dataset, verification_mode="no_checks") # the card of a mirror need not know how many rows lie there

DERIVED = dict( # what the columns that a source derives are, row by row
    klue_sts=lambda row: dict(label=row["labels"]["binary-label"]),
    kor_qpair=lambda row: dict(meaning=row["is_duplicate"]),
    kor_sarcasm=lambda row: dict(text=row["tokens"]),
    kobest_boolq=lambda row: dict(form="statement" if row["question"].rstrip(" .").endswith("다") else "question"),
    kobest_wic=lambda row: dict(quoted=f"'{row['word']}'"),
)


def family(cls):
    "The family of a declared task; `own` for one that brings its own code for the answers."
    found = next((k for k, base in FAMILIES.items() if issubclass(cls, base)), None)
    return found if found and cls.answers is FAMILIES[found].answers else "own"


def files_of(cls, split, mirror):
    "The parquet files of a split; none where the mirror does not hold all of it."
    found = []
    for config, name in cls.source.parts(split):
        folder = Path(mirror)/cls.source.repo/(config or "data")
        if not (files := sorted(map(str, folder.glob(f"{name}-[0-9]*.parquet")))): return []
        found += files
    return found


def splits_of(cls, wanted, mirror): return [o for o in SPLITS if o in cls.source.splits and (not wanted or o in wanted) and files_of(cls, o, mirror)]


# ---- the reference: a loop

def filled(template, row):
    "A template's text; the quick way where no josa is asked for."
    if not template.fields: return template.text
    if any(spec for _, _, spec in template.parts): return template.fill(**row)
    return template.text.format_map(row)


def group(ds, *columns):
    "What rows of one group lend each other."
    out = {}
    for row in ds: out.setdefault(row[columns[0]], []).append(tuple(row[o] for o in columns[1:]))
    return out


def label_answers(cls, row, ask, shared):
    names, value, w = cls.source.names_of(cls.label), row[cls.label], random.randrange(ask.wordings)
    right = value if isinstance(value, str) else names[value]
    return [ask.answers[right][w]], [ask.answers[o][w] for o in names if o != right]


def multilabel_answers(cls, row, ask, shared):
    w = random.randrange(ask.wordings)
    on = {o for o in cls.flags if row[o] == 1}
    return [ask.answers[o][w] for o in cls.flags if o in on], [ask.answers[o][w] for o in cls.flags if o not in on]


def choice_answers(cls, row, ask, shared):
    words, gold = [row[o] for o in cls.choices], row[cls.gold] - cls.gold_from
    return [words[gold]], words[:gold] + words[gold + 1:]


def span_answers(cls, row, ask, shared):
    right, others = row["answers"]["text"], shared[row[cls.context]]
    wrong = {o["text"][0]: 0 for o, in random.sample(others, min(len(others), cls.window))}
    return right[:1], [o for o in wrong if not any(o in r or r in o for r in right)][:cls.most]


def borrow_answers(cls, row, ask, shared):
    others = shared[row[cls.group]]
    wrong = {reply: 0 for asked, reply in random.sample(others, min(len(others), cls.window)) if asked != row[cls.asked] and reply != row[cls.reply]}
    return [row[cls.reply]], list(wrong)[:cls.most]


def names_in(row):
    "word -> type, of the names of a sentence that can be asked about."
    spans, inside, found = [], None, {}
    for char, tag in zip(row["tokens"], row["ner_tags"]):
        kind, later = divmod(tag, 2)
        if tag < NO_TAG and not later: spans.append([kind, char])
        elif kind == inside: spans[-1][1] += char
        else: kind = None
        inside = kind
    text = row["text"] = "".join(row["tokens"])
    for kind, word in spans: found.setdefault(word.strip(QUOTES + " "), []).append(kind)
    return {word: TYPES[kinds[0]] for word, kinds in found.items() if word and len(set(kinds)) == 1 and text.count(word) == len(kinds)}


def ner_answers(cls, row, ask, shared):
    if not (found := names_in(row)): return None
    row["word"], w = random.choice(list(found)), random.randrange(ask.wordings)
    right = found[row["word"]]
    return [ask.answers[right][w]], [ask.answers[o][w] for o in TYPES if o != right]


def ner_choice_answers(cls, row, ask, shared):
    found = names_in(row)
    if len(set(found.values())) < 2: return None
    right = random.choice(list(found))
    row["what"] = WHAT[found[right]]
    return [right], [word for word, kind in found.items() if kind != found[right]]


def nli_choice_answers(cls, row, ask, shared):
    groups, seen = shared
    if (this := (row["premise"], row["label"])) in seen: return None
    seen.add(this)
    wrong = [o for o, label in groups[row["premise"]] if label != row["label"]]
    return ([row["hypothesis"]], wrong) if wrong else None


ANSWERS = dict(label=label_answers, multilabel=multilabel_answers, choice=choice_answers, span=span_answers, borrow=borrow_answers,
               klue_ner=ner_answers, klue_ner_choice=ner_choice_answers, klue_nli_choice=nli_choice_answers)


def lent(cls, ds):
    if issubclass(cls, SpanTask): return group(ds, cls.context, "answers")
    if issubclass(cls, BorrowTask): return group(ds, cls.group, cls.asked, cls.reply)
    return (group(ds, "premise", "hypothesis", "label"), set()) if cls.name == "klue_nli_choice" else None


def by_rows(cls, ds, split, out):
    "Write one split row by row."
    answers, derive, shared, asks = ANSWERS.get(cls.name) or ANSWERS[family(cls)], DERIVED.get(cls.name), lent(cls, ds), cls.prompts.asks
    depends = any(o.when for o in asks)
    with open(out, "w", encoding="utf-8") as f:
        for i, row in enumerate(ds):
            if derive: row |= derive(row)
            if depends and not (asks := [o for o in cls.prompts.asks if all(str(row[k]).strip() == str(v) for k, v in o.when.items())]): continue
            ask = random.choice(asks)
            n = random.randrange(len(ask.templates))
            if not (found := answers(cls, row, ask, shared)): continue
            positives, negatives = found
            template, text = ask.templates[n], ask.input or cls.prompts.input
            if "options" in template.fields or "options" in text.fields:
                options = positives + negatives
                random.shuffle(options)
                row["options"] = cls.between.join(options)
            record = dict(instruction=filled(template, row), input=filled(text, row), positives=positives, negatives=negatives,
                          task=cls.name, id=f"{cls.name}-{split}-{i}", template=n)
            f.write(json.dumps(record, ensure_ascii=False) + "\n")


# ---- the two sides

def reference(tasks, mirror, out):
    (cls, splits), = tasks
    splits = {cls.source.splits[o]: o for o in reversed(splits)}.values() # a held-out tenth comes from the same files: read them once
    parts = {o: cls.source.parts(o) for o in splits}
    names, held = {}, {}
    for config, name in (part for o in splits for part in parts[o]): names.setdefault(config, []).append(name)
    start = time.perf_counter()
    for config, some in names.items(): held |= zip(((config, o) for o in some), load_dataset(str(mirror/cls.source.repo), config, split=some, cache_dir=str(out/"cache")))
    whole = {o: datasets.concatenate_datasets([held[part] for part in parts[o]]) for o in splits}
    loaded = time.perf_counter() - start
    for split, ds in whole.items(): by_rows(cls, ds, split, out/f"{split}.jsonl")
    return sum(map(len, whole.values())), loaded


def koflan(tasks, mirror, out, pool):
    jobs = [Job(cls, o, str(out), str(mirror), dict(seed=0, cap=None)) for cls, splits in tasks for o in splits]
    stages = Stages(jobs, pool, SHARD_ROWS if pool.width > 1 else 20 * SHARD_ROWS)
    stages.build()
    if stages.failed: sys.exit(str(stages.failed))
    return sum(e["rows"] for entries in stages.done.values() for e in entries), 0.


def memory(field):
    "VmHWM (peak) or VmRSS (now) of this process in MiB."
    return int(re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])/1024


def timed(work, tasks, mirror):
    "rows, seconds, seconds for loading."
    with TemporaryDirectory() as d:
        start = time.perf_counter()
        rows, loaded = work(tasks, mirror, Path(d))
        return rows, time.perf_counter() - start, loaded


def side(pipe, num_proc, tasks, mirror):
    "A process of one side (the reference where `num_proc` is 0): for every 'go' it builds for a turn and tells of the best build, at last its memory."
    datasets.disable_progress_bars()
    tasks, pool = [(find_tasks(name)[0], splits) for name, splits in tasks], make_pool(num_proc=num_proc)
    work = partial(koflan, pool=pool) if num_proc else reference
    pipe.send(memory("VmRSS"))
    while pipe.recv() == "go":
        runs, end = [timed(work, tasks, mirror)], time.perf_counter() + TURN
        while time.perf_counter() < end: runs.append(timed(work, tasks, mirror))
        pipe.send(min(runs, key=lambda o: o[1]))
    pipe.send(memory("VmHWM"))
    pool.close()


class Side:
    def __init__(self, *args):
        context = get_context("spawn")
        self.pipe, end = context.Pipe()
        self.process = context.Process(target=side, args=(end, *args))
        self.process.start()
        end.close()

    def get(self):
        try: return self.pipe.recv()
        except EOFError:
            for o in active_children(): o.kill()
            sys.exit("a side of the benchmark died; see above")

    def go(self, word):
        self.pipe.send(word)
        return self.get()


def measured(tasks, mirror, *sides):
    "rows, the best (seconds, seconds for loading) of each side (0 processes: the reference), their peaks, memory before."
    sides = [Side(o, [(cls.name, splits) for cls, splits in tasks], mirror) for o in sides]
    before = max(o.get() for o in sides)
    runs = [[o.go("go") for o in sides] for _ in range(ROUNDS)]
    best = [min(o[1:] for o in run) for run in zip(*runs)]
    peaks = [o.go("stop") for o in sides]
    for o in sides: o.process.join()
    return runs[0][-1][0], best, peaks, before


def median(ratios): return f"median {statistics.median(o for o, _ in ratios):.1f}, lowest {min(ratios)[0]:.1f} ({min(ratios)[1]})"


def repeated(mirror, times, folder):
    "A mirror whose parquet files stand there several times."
    shutil.copytree(mirror, folder)
    os.chmod(folder, 0o755)
    for path in list(folder.rglob("*.parquet")):
        os.chmod(path.parent, 0o755)
        for i in range(1, times): shutil.copy(path, path.with_name(f"{path.stem.split('-')[0]}-{i:05}-copy.parquet"))
    return folder


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", default="*", help="names or globs, comma-separated")
    parser.add_argument("--splits", default="", help="comma-separated; by default all that the mirror holds, together")
    parser.add_argument("--repeat", type=int, default=1, help="copies of every parquet file")
    parser.add_argument("--num_proc", type=int, default=os.cpu_count(), help="worker processes of the last build")
    args = parser.parse_args()
    mirror, wanted = find_mirror(), [o for o in args.splits.split(",") if o]
    if not mirror: sys.exit("set KOFLAN_HUB_MIRROR to a mirror of dataset repositories")
    ratios, tasks, spent = [], [], 0
    with TemporaryDirectory() as d:
        mirror = repeated(mirror, args.repeat, Path(d)/"mirror") if args.repeat > 1 else mirror.resolve()
        print(f"{os.cpu_count()} cores, polars {pl.__version__} on {pl.thread_pool_size()} threads, datasets {datasets.__version__}")
        print(f"{'task':<18}{'family':<11}{'rows':>9}{'reference/s':>13}{'load':>7}{'koflan/s':>11}{'ratio':>8}{'loop':>8}{'peak ref':>10}{'koflan':>8}{'before':>8}")
        for cls in find_tasks(args.tasks):
            if not (splits := splits_of(cls, wanted, mirror)): continue
            tasks.append((cls, splits))
            rows, ((ref, load), (ours, _)), peaks, before = measured(tasks[-1:], mirror, 0, 1)
            spent += ref
            if family(cls) != "own": ratios.append((ref/ours, cls.name))
            print(f"{cls.name:<18}{family(cls):<11}{rows:>9,}{rows/ref:>13,.0f}{load/ref:>7.0%}{rows/ours:>11,.0f}{ref/ours:>8.1f}{(ref - load)/ours:>8.1f}"
                  f"{peaks[0]:>10.0f}{peaks[1]:>8.0f}{before:>8.0f}", flush=True)
        if len(tasks) > 1:
            rows, ((one, _), (several, _)), _, _ = measured(tasks, mirror, 1, args.num_proc)
            print(f"all {len(tasks)} tasks in one build: {rows:,} rows; reference {spent:.2f} s, 1 process {one:.2f} s ({spent/one:.1f}), "
                  f"{args.num_proc} processes {several:.2f} s ({spent/several:.1f})")
    if ratios: print(f"ratio of {len(ratios)} declared tasks: {median(ratios)}")


if __name__ == "__main__":
    with user_errors("benchmarks/generate.py"): main()
