"What benchmarks/train.py and benchmarks/score.py share: records, tokenizer, model shape, command line, rounds, peak memory."
import argparse
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import polars as pl

from koflan.core.chance import Chance
from koflan.model.scoring import learn_tokenizer, tiny_electra
from koflan.build.manifest import load_records
from koflan.core.mirror import find_mirror

TOPICS = "정치 경제 사회 문화 국제 과학 기술 교육 환경 노동 부동산 금융 증권 자동차 의료 법원 경찰 군사 외교 날씨 교통 여행 음식 영화 음악 방송 축구 야구 농구 골프".split()
SAMPLED = dict(ynat7="klue_ynat", re30="klue_re")
TASKS = dict( # name -> what it is
    nsmc="NSMC, 2 answers (the mirror's rows)",
    ynat7="7 labels: the packaged samples of klue_ynat asked about news sentences of the mirror, cut to the length of a title (synthetic)",
    topics30="30 short topic names over news sentences of the mirror (synthetic)",
    re30="30 long answers: the packaged samples of klue_re asked about news sentences of the mirror (synthetic)",
    korquad="KorQuAD v1, a paragraph and 4 answers (the mirror's rows)",
)


def records_of(task, n, data):
    "The first n records of a benchmark task; `data` is a folder of koflan_generate with nsmc, klue_ner, korquad_v1, klue_ynat and klue_re."
    if task == "nsmc": return load_records(data/"mirror", "train").filter(pl.col("task") == "nsmc").head(n)
    if task == "korquad": return load_records(data/"mirror", "test").filter((pl.col("task") == "korquad_v1") & (pl.col("negatives").list.len() >= 3)).with_columns(pl.col("negatives").list.head(3)).head(n)
    news = load_records(data/"mirror", "test").filter(pl.col("task") == "klue_ner")["input"].to_list()
    news, pick = [news[i % len(news)] for i in range(n)], Chance(0, task, "benchmark").pick(range(n), "label", 30)
    if task == "topics30":
        return pl.DataFrame([dict(instruction="다음 기사 문장은 어떤 분야의 소식인가요?", input=t, positives=[TOPICS[y]], negatives=TOPICS[:y] + TOPICS[y + 1:], task=task) for t, y in zip(news, pick)])
    rows = load_records(data/"samples", "train").filter(pl.col("task") == SAMPLED[task]).to_dicts()
    return pl.DataFrame([rows[i % len(rows)] | dict(input=t[:27] if task == "ynat7" else t, task=task) for i, t in enumerate(news)])


def build(folder):
    "Records from the mirror and the packaged samples, a 35,000-piece tokenizer learnt from them, and the model shape; made once."
    from koflan.generate import generate
    folder = Path(folder)
    if (folder/"tokenizer"/"tokenizer_config.json").is_file(): return folder
    if not find_mirror(None): raise SystemExit("set KOFLAN_HUB_MIRROR to the folder of the mirror")
    generate("nsmc,klue_ner,korquad_v1", folder/"mirror", splits="train,test")
    generate("klue_ynat,klue_re", folder/"samples", splits="train", mirror="samples")
    texts = pl.concat([load_records(folder/"mirror", o)["input"].unique(maintain_order=True) for o in ("test", "train")])
    learn_tokenizer(texts.head(80_000).to_list(), 35_000).save_pretrained(folder/"tokenizer")
    return folder


def model_of(tokenizer, scoring):
    "KoELECTRA-small-v3's shape with fresh weights: 12 layers, hidden 256, embedding 128, 4 heads, dropout 0.1."
    return tiny_electra(tokenizer, 256, 12, 4, scoring=scoring, embedding_size=128)


def peak(): return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1])/1024
def machine():
    import torch
    has = torch.cpu.get_capabilities()
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{has.get('cpu_name', '?')}, {os.cpu_count()} cores, amx_bf16 {bool(has.get('amx_bf16'))}, avx512_bf16 {bool(has.get('avx512_bf16'))}{gpu}, torch {torch.__version__}, load {os.getloadavg()[0]:.1f}"


CLOCKS = dict(wall="perf_counter", cpu="process_time")

def command(doc, ways, **numbers):
    "The command line: --tasks, --ways, the numbers, --rounds, --clock, --data and, for one measurement in a process of its own, --one."
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--ways", default=",".join(ways))
    for name, value in (numbers | dict(rounds=2)).items(): parser.add_argument(f"--{name}", type=type(value), default=value)
    parser.add_argument("--clock", default="wall", choices=list(CLOCKS))
    parser.add_argument("--data", type=Path, default=Path("/tmp/koflan-benchmark"))
    parser.add_argument("--one", help=argparse.SUPPRESS)
    return parser.parse_args()


def rounds(args, key):
    "For each task (its name, the best of what each way printed); the ways take turns, each in a fresh process."
    build(args.data)
    print(machine())
    given = [f"--{k}={v}" for k, v in vars(args).items() if k not in ("tasks", "ways", "rounds", "one")]
    for task in args.tasks.split(","):
        best = {}
        for way in args.ways.split(",")*args.rounds:
            done = subprocess.run([sys.executable, sys.argv[0], "--one", f"{way}:{task}", *given], capture_output=True, text=True)
            if done.returncode: print(f"{way:<14}{done.stderr.strip().splitlines()[-1][:100]}"); continue
            got = json.loads(done.stdout.strip().splitlines()[-1])
            if way not in best or got[key] > best[way][key]: best[way] = got
        yield task, best
