"The command line from outside: same bytes, clear errors, killed and resumed."
import json
import os
import re
import signal
import subprocess
import time

import pytest
from blocks import TINY, Terminal
from conftest import PYTHON, command, files, records, user_environ


def generate(out, *args, **kw): return command("koflan.generate", "--hub_mirror", "samples", "--output_dir", out, *args, **kw)


def test_same_bytes_for_any_number_of_processes(tmp_path):
    generate(tmp_path/"one", "--tasks", "nsmc,k*_re,unsmile", "--max_instance_per_task", 10)
    once = files(tmp_path/"one")
    generate(tmp_path/"four", "--tasks", "nsmc,k*_re,unsmile", "--max_instance_per_task", 10, "--num_proc", 4)
    generate(tmp_path/"one", "--tasks", "nsmc,k*_re,unsmile", "--max_instance_per_task", 10)
    assert files(tmp_path/"four") == once == files(tmp_path/"one")
    for split in ("train", "test"):
        rows = records(tmp_path/"one"/split/"nsmc.jsonl")
        assert len({json.dumps({k: r[k] for k in ("instruction", "input", "positives", "negatives")}) for r in rows}) == len(rows) == min(10, 8 if split == "test" else 10)
    generate(tmp_path/"other", "--tasks", "nsmc", "--max_instance_per_task", 10, "--seed", 7)
    assert files(tmp_path/"other")["train/nsmc.jsonl"] != once["train/nsmc.jsonl"]


@pytest.mark.parametrize("args, code, says", [
    (["koflan.generate", "--tasks", "nsmd"], 2, "unknown task 'nsmd'; did you mean 'nsmc'?"),
    (["koflan.generate", "--tasks", "kobset_*"], 2, "did you mean 'kobest_*'?"),
    (["koflan.generate", "--tasks", "nsmc", "--splits", "dev"], 2, "unknown split 'dev'"),
    (["koflan.generate", "--tasks", "nsmc", "--hub_mirror", "/nowhere"], 2, "mirror /nowhere: not a readable folder"),
    (["koflan.generate", "--tasks", "nsmc", "--hub_mirror", "samples", "--max_instance_per_task", "0"], 2, "want 1 or more"),
    (["koflan.generate", "--tasks", "nsmc", "--format", "csv"], 2, "unknown format 'csv'; there is: jsonl, parquet"),
    (["koflan.generate", "--tasks", "nsmc", "--dedup", "al"], 2, "did you mean 'all'?"),
    (["koflan.generate", "--tasks", "nsmc", "--total", "5"], 2, "total is of no use without --mixing proportional"),
    (["koflan.generate", "--tasks", "nsmc", "--mixing", "proportional", "--weights", "/no/such.yml"], 2, "/no/such.yml: not readable"),
    (["koflan.generate", "--tasks", "nsmc", "--max_shard_rows", "0"], 2, "max_shard_rows is 0; want 1 or more"),
    (["koflan.generate", "--tasks", "nsmc", "--engine", "spark"], 2, "unknown engine 'spark'; there is: local, ray"),
    (["koflan.generate", "--tasks", "nsmc", "--output_dir", "nonsense://x"], 2, "nonsense://x: Protocol not known"),
    (["koflan.tasks", "nsmd"], 2, "unknown task 'nsmd'"),
    (["koflan.evaluate", "--model_name_or_path", "/no/checkpoint", "--dataset", "DATA"], 2, "checkpoint /no/checkpoint: no such folder"),
    (["koflan.evaluate", "--model_name_or_path", "x/y", "--dataset", "/no/data"], 2, "dataset /no/data: no such folder"),
    (["koflan.reward_trainer", "--do_train", "--from_scratch", "--dataset", "NO_POSITIVES", "--output_dir", "OUT"], 2, "no column 'positives'"),
    (["koflan.reward_trainer", "--do_train", "--model_name_or_path", "/no/checkpoint", "--dataset", "DATA", "--output_dir", "OUT"], 2, "checkpoint /no/checkpoint"),
    (["koflan.reward_trainer", "--do_train", "--nonsense", "1", "--output_dir", "OUT"], 2, "--nonsense"),
    (["koflan.push_to_hub", "/no/data", "me/data"], 2, "/no/data: no such folder"),
    (["koflan.push_to_hub", "DATA", "me/data", "--public"], 2, "the sources of unsmile forbid publishing"),
])
def test_bad_input(args, code, says, data, tmp_path):
    "One clear line, an exit code, and nothing left behind."
    (tmp_path/"bare").mkdir()
    (tmp_path/"bare"/"train.jsonl").write_text('{"instruction": "?", "input": "", "negatives": []}\n')
    names = dict(DATA=data, NO_POSITIVES=tmp_path/"bare", OUT=tmp_path/"out")
    (tmp_path/"cwd").mkdir()
    done = command(*(names.get(o, o) for o in args), cwd=tmp_path/"cwd", ok=False)
    assert done.returncode == code, done.stderr
    line, = [o for o in done.stderr.splitlines() if says in o]
    assert "Traceback" not in done.stderr and len(line) < 400
    assert not list((tmp_path/"cwd").rglob("*")) and not (tmp_path/"out").exists()


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_nobody_reads_what_is_printed(unbuffered):
    process = subprocess.Popen([PYTHON, "-m", "koflan.tasks"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=user_environ(PYTHONUNBUFFERED=unbuffered))
    process.stdout.close()
    assert (process.stderr.read(), process.wait()) == ("koflan_tasks: Broken pipe\n", 1)


def test_a_broken_source_leaves_the_others(tmp_path):
    repo = tmp_path/"hub"/"e9t"/"nsmc"/"data"
    repo.mkdir(parents=True)
    (repo/"train-00000-of-00001.parquet").write_bytes(b"PAR1 not a parquet file")
    done = command("koflan.generate", "--tasks", "nsmc,apeach", "--splits", "train", "--hub_mirror", tmp_path/"hub", "--output_dir", tmp_path/"data", ok=False)
    assert done.returncode == 1 and "nsmc train failed" in done.stderr and "apeach train failed" in done.stderr
    assert [o.name for o in (tmp_path/"data").rglob("*") if o.is_file()] == ["lock"]


HELP = "from koflan.__main__ import koflan; koflan(['train_reward', '--help'])"


def test_light_imports():
    for line in ("import koflan.tasks", "from koflan.__main__ import koflan; koflan([])", HELP):
        done = subprocess.run([PYTHON, "-X", "importtime", "-c", line], capture_output=True, text=True, check=True, env=user_environ())
        loaded = {o.rsplit("|", 1)[-1].strip() for o in done.stderr.splitlines()}
        assert "koflan" in loaded and not loaded & {"torch", "transformers", "datasets"}, line


def test_load_dataset_reads_the_folder(data, tmp_path):
    import datasets
    held = datasets.load_dataset(str(data), cache_dir=str(tmp_path))
    assert {"train", "test"} <= set(held)
    assert held["train"].features["negatives"] == datasets.List(datasets.Value("string"))
    assert held["train"].num_rows == sum(len(records(o)) for o in (data/"train").glob("*.jsonl"))


def test_push_dry_run(data):
    done = command("koflan.push_to_hub", data, "me/data", "--dry_run")
    assert "dataset me/data, private" in done.stdout and "train/nsmc.jsonl" in done.stdout and "configs:" in done.stdout


def train_args(data, out, checkpoint=None):
    start = ["--model_name_or_path", checkpoint] if checkpoint else ["--from_scratch", "--hidden_size", "32", "--vocab_size", "800"]
    return ["koflan.reward_trainer", "--do_train", "--do_eval", "--project", "ko-flan", "--run_name", "test", *start, "--dataset", data, "--logging_steps", "500",
            "--per_device_train_batch_size", "8", "--num_train_epochs", "2", "--save_strategy", "epoch", "--evaluation_strategy", "epoch", "--output_dir", out]


def test_packed_training(data, tmp_path):
    command(*train_args(data, tmp_path)) # --from_scratch is packed unless told otherwise
    done = command("koflan.evaluate", "--model_name_or_path", tmp_path/"test", "--dataset", data, "--output_csv", tmp_path/"e.csv")
    assert "macro" in done.stdout and json.loads((tmp_path/"test"/"config.json").read_text())["koflan_scoring"] == "packed"


def test_train_killed_and_resumed(data, tmp_path):
    "The command of the design, from a local checkpoint; killed after its first epoch, then run again."
    command(*train_args(data, tmp_path/"first"), "--scoring", "pair")
    args = [str(o) for o in train_args(data, tmp_path/"second", tmp_path/"first"/"test")]
    run = subprocess.Popen([PYTHON, "-m", *args], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True, env=user_environ())
    until = time.time() + 120
    while not list((tmp_path/"second"/"test").glob("checkpoint-*/trainer_state.json")) and run.poll() is None and time.time() < until: time.sleep(.002)
    assert run.poll() is None, "it ended before it could be killed"
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    done = command(*args)
    assert "resuming from" in done.stderr and "checkpoint-" in done.stderr
    state = json.loads((tmp_path/"second"/"test"/"trainer_state.json").read_text())
    assert state["epoch"] == 2 and len([o for o in state["log_history"] if "eval_loss" in o]) == 2
    assert {"nsmc", "kobest_copa", "unsmile", "macro"} <= {o.split()[0] for o in done.stdout.splitlines() if o.strip()}
    check_checkpoint(tmp_path/"second"/"test", data)


def check_checkpoint(folder, data):
    "Evaluates, and gives the pipeline's scores."
    from transformers import pipeline

    from koflan.model.encode import prompt_text
    from koflan.reward import RewardModel
    command("koflan.evaluate", "--model_name_or_path", folder, "--dataset", data, "--output_csv", folder/"e.csv")
    assert (folder/"e.csv").read_text().count("\n") == 5
    model, pipe = RewardModel.from_pretrained(folder, device="cpu", precision="fp32"), pipeline("text-classification", str(folder), device="cpu")
    for r in records(data/"test"/"nsmc.jsonl"):
        ours = model.score(r["instruction"], r["input"], r["positives"])[0]
        theirs = pipe({"text": prompt_text(r["instruction"], r["input"]), "text_pair": r["positives"][0]})["score"]
        assert abs(ours - theirs) < 1e-4


NAMES = ("generate", "tasks", "new_task", "verify", "contamination", "evaluate", "push_to_hub", "demo", "reward_trainer",
         "model.shrink", "model.distil")


def test_commands_answer_help():
    for name in NAMES:
        said = command(f"koflan.{name}", "--help").stdout
        assert said.startswith("usage: koflan_") and not re.search(r"--\w+-\w", said), said


SHOWN = """koflan
koflan generate --tasks nsmc --max_instance_per_task 3 --hub_mirror samples --output_dir other
koflan_demo --tasks nsmc --epochs 1 --output_dir shown
koflan_generate --tasks "nsmc,apeach" --max_instance_per_task 10 --hub_mirror samples
python -m koflan.reward_trainer --do_train --do_eval --project ko-flan --run_name test --model_name_or_path tiny \
  --dataset data --logging_steps 500 --per_device_train_batch_size 8 --num_train_epochs 1 \
  --save_strategy epoch --evaluation_strategy epoch --output_dir ./checkpoint
koflan_train_reward --help
koflan_evaluate --model_name_or_path checkpoint/test --dataset data --output_csv out.csv
koflan_push_to_hub data/ iknow-lab/koflan-test-110k-0725 --dry_run
koflan_tasks "nsmc,apeach" --verbose
koflan_verify data --hub_mirror samples --num_proc 1
koflan_contamination data --min_chars 5
koflan_new_task book_mood --source books.csv --label mood --output_dir mine"""
BOOKS = "(echo text,mood; for i in $(seq 20); do echo \"good $i,good\"; echo \"bad $i,bad\"; done) > books.csv"


def with_hyphens(text): return re.sub(r"--\w+", lambda o: o[0].replace("_", "-"), text)


@pytest.mark.parametrize("spelled", [str, with_hyphens])
def test_the_commands_of_the_design(spelled, tmp_path):
    "As console scripts, the options written with `_` and with `-`."
    terminal = Terminal(tmp_path)
    terminal.python(TINY)
    terminal.bash(BOOKS)
    terminal.bash(spelled(SHOWN))
    made = {o.name for o in terminal.cwd.iterdir()}
    assert {"data", "other", "shown", "checkpoint", "out.csv", "mine"} <= made


EVERY_OPTION = """
from importlib import import_module
from koflan.__main__ import COMMANDS
from koflan.core.commands import command_parser, underscored
from koflan.reward_trainer import HfArgumentParser, RewardArguments
for name, module in COMMANDS.items():
    f = getattr(import_module(module), f"koflan_{name}")
    parser = command_parser(f) if hasattr(f, "main") else HfArgumentParser(RewardArguments)
    needed = ["x" for o in parser._actions if o.required]
    for o in parser._actions:
        if not o.option_strings or o.dest == "help": continue
        value = [] if o.nargs == 0 else [str(not o.default)] if o.nargs == "?" else [[*o.choices][-1]] if o.choices else ["1"]
        try: (o.type or str)(*value)
        except (TypeError, ValueError): continue # nothing that a command line can say, as a ParallelismConfig
        ways = [o.option_strings[0], "--" + o.option_strings[0][2:].replace("_", "-")]
        one, other = (parser.parse_args([*needed, *underscored([way, *value])]) for way in ways)
        assert one == other and (value or vars(one)[o.dest] is o.const), (name, o.dest)
        print(name, o.dest)
"""


def test_every_option_with_both_spellings():
    done = subprocess.run([PYTHON, "-c", EVERY_OPTION], env=user_environ(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    seen = [o.split() for o in done.stdout.splitlines()]
    assert {o for o, _ in seen} == {o.rpartition(".")[2].replace("reward_trainer", "train_reward") for o in NAMES} and len(seen) > 150, len(seen)
    assert ["generate", "max_instance_per_task"] in seen and ["train_reward", "model_name_or_path"] in seen


@pytest.mark.parametrize("args, says", [
    (["generat"], "koflan: unknown command 'generat'; did you mean 'generate'?"),
    (["generate", "--max-instance-per-tusk", "3"], "koflan_generate: unknown argument '--max_instance_per_tusk'; did you mean '--max_instance_per_task'?"),
    (["generate", "--seed", "x"], "koflan_generate: argument --seed: invalid int value: 'x'"),
    (["push_to_hub", "data"], "koflan_push_to_hub: the following arguments are required: repo"),
    (["tasks", "nsmc", "apeach"], "koflan_tasks: unknown argument 'apeach'; there is: -h, --help, --verbose, --markdown"),
])
def test_bad_usage_is_one_line(args, says):
    done = command("koflan", *args, ok=False)
    assert (done.returncode, done.stderr, done.stdout) == (2, says + "\n", "")
