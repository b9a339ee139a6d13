"Training from outside: killed and resumed, two processes as one, the options, what a run leaves behind. Small models, fp32, CPU."
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import command

SMALL = ["--from_scratch", "--hidden_size", 32, "--vocab_size", 400, "--max_length", 96, "--use_cpu", "--precision", "fp32", "--report_to", "none", "--token_cache", "none", "--seed", 3]
ENV = dict(OMP_NUM_THREADS="1")


def train(data, out, *args, ok=True): return command("koflan.reward_trainer", "--do_train", "--dataset", data, "--output_dir", out, *SMALL, *args, ok=ok, **ENV)


def losses(out): return {o["step"]: (o["loss"], o["pairwise"]) for o in json.loads((Path(out)/"trainer_state.json").read_text())["log_history"] if "loss" in o}


def close(one, two, eps=1e-5):
    assert one.keys() == two.keys() and len(one) > 3
    for step in one: assert max(abs(a - b) for a, b in zip(one[step], two[step])) <= eps, (step, one[step], two[step])


@pytest.mark.parametrize("scoring, dropout", [("pair", .1), ("packed", 0.)])
def test_killed_and_resumed(scoring, dropout, data, tmp_path):
    "Kill -9 in mid-epoch, resume: the loss at each later step is the uninterrupted run's."
    args = ["--scoring", scoring, "--dropout", dropout, "--per_device_train_batch_size", 8, "--max_steps", 18, "--logging_steps", 1, "--save_steps", 4]
    train(data, tmp_path/"whole", *args)
    killed = subprocess.Popen([sys.executable, "-m", "koflan.reward_trainer", "--do_train", "--dataset", str(data), "--output_dir", str(tmp_path/"killed"), *map(str, SMALL + args)],
                              env=os.environ | dict(HF_HUB_OFFLINE="1") | ENV, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end = time.time() + 240
    while not (tmp_path/"killed"/"checkpoint-8"/"trainer_state.json").is_file() and killed.poll() is None and time.time() < end: time.sleep(.01)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL and not (tmp_path/"killed"/"trainer_state.json").exists()
    done = train(data, tmp_path/"killed", *args)
    assert "resuming from" in done.stderr
    close(losses(tmp_path/"whole"), losses(tmp_path/"killed"))


@pytest.mark.parametrize("scoring", ["pair", "packed"])
def test_two_processes_are_one(scoring, data, tmp_path):
    "The loss curve of one process at the same global batch, and the same metrics by task to the last digit of the counts."
    args = ["--scoring", scoring, "--max_steps", 5, "--logging_steps", 1, "--save_strategy", "no", "--do_eval"]
    train(data, tmp_path/"one", *args, "--per_device_train_batch_size", 8)
    train(data, tmp_path/"accumulated", *args, "--per_device_train_batch_size", 2, "--gradient_accumulation_steps", 4)
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    done = subprocess.run([*launch, "-m", "koflan.reward_trainer", "--do_train", "--dataset", str(data), "--output_dir", str(tmp_path/"two"), *map(str, SMALL + args), "--per_device_train_batch_size", "4", "--ddp_backend", "gloo"],
                          env=os.environ | dict(HF_HUB_OFFLINE="1", ACCELERATE_USE_CPU="1") | ENV, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = (json.loads((tmp_path/o/"all_results.json").read_text()) for o in ("one", "two"))
    close(losses(tmp_path/"one"), losses(tmp_path/"accumulated"))
    close(losses(tmp_path/"one"), losses(tmp_path/"two"))
    counted = [k for k in one if k.endswith(("_accuracy", "_pairwise"))]
    assert len(counted) == 8 and {k: one[k] for k in counted} == {k: two[k] for k in counted}


def test_options(data, tmp_path):
    "Held back records, task weights, listwise loss with centring, early stopping, best checkpoint, TensorBoard, threshold and card in one run."
    args = [o for o in SMALL if o != "none"]
    for o in ("--report_to", "--token_cache"): args.remove(o)
    done = command("koflan.reward_trainer", "--do_train", "--do_eval", "--dataset", data, "--output_dir", tmp_path/"run", *args, "--token_cache", tmp_path/"tokens", "--report_to", "tensorboard", "--scoring", "packed",
                   "--loss", "listwise", "--center_weight", .01, "--margin", .1, "--num_negatives", 2, "--task_weights", "unsmile=2", "--valid_fraction", .3, "--early_stopping_patience", 1, "--warmup_steps", 2,
                   "--eval_strategy", "steps", "--save_strategy", "steps", "--eval_steps", 2, "--save_steps", 2, "--save_total_limit", 2, "--logging_steps", 2, "--num_train_epochs", 20, "--learning_rate", 1e-4, **ENV)
    state = json.loads((tmp_path/"run"/"trainer_state.json").read_text())
    logs = state["log_history"]
    best = max(o["eval_accuracy"] for o in logs if "eval_accuracy" in o)
    assert state["best_metric"] == best and state["best_model_checkpoint"]
    assert {"nsmc_pairwise", "unsmile_loss", "pairwise"} <= {k for o in logs for k in o}
    assert list((tmp_path/"run").rglob("events.out.tfevents.*")) and len(list((tmp_path/"tokens").glob("*.npz"))) == 3
    assert isinstance(json.loads((tmp_path/"run"/"config.json").read_text())["koflan_threshold"], float) and "threshold of classify_multi" in done.stderr
    card = (tmp_path/"run"/"README.md").read_text(encoding="utf-8")
    for part in ("e9t/nsmc", "| macro |", "--loss listwise", "--task_weights unsmile=2", "koflan", "pipeline_tag: text-ranking"): assert part in card, part


@pytest.mark.parametrize("args, says", [
    (["--task_weights", "nsmc"], '--task_weights is \'nsmc\'; want "nsmc=2,unsmile=0.5"'),
    (["--task_weights", "nsmd=2"], "unknown task 'nsmd'; did you mean 'nsmc'?"),
    (["--valid_fraction", 1.5], "--valid_fraction is 1.5"),
    (["--early_stopping_patience", 2], "--load_best_model_at_end requires the save and eval strategy to match"),
])
def test_bad_options(args, says, data, tmp_path):
    done = train(data, tmp_path/"out", *args, ok=False)
    assert done.returncode == 2 and "Traceback" not in done.stderr and says in done.stderr


def prompts():
    words = "굳 재밌다 돈이 아깝다 최고의 영화 지루하다 정말 별로 강추 배우 연기 음악".split()
    text = lambda i, n: " ".join(words[(i*7 + k*k) % len(words)] for k in range(n))
    return [("이 리뷰는 긍정인가요?", text(i, 1 + i % 23), [text(i + k, 1 + k % 4) + f" {k}" for k in range(2 + i % 5)]) for i in range(100)]


@pytest.fixture(scope="module")
def tokenizer():
    from koflan.reward import learn_tokenizer
    return learn_tokenizer([t for q, x, answers in prompts() for t in (q, x, *answers)], 300)


@pytest.mark.parametrize("scoring", ["pair", "packed"])
def test_scores_depend_on_nothing_else(scoring, tokenizer):
    "Batch size, order of prompts and answers, the set of other answers, and padding change no fp32 score by 1e-4; bf16 stays within 2e-2."
    from koflan.reward import RewardModel, tiny_electra
    model = RewardModel(tiny_electra(tokenizer, 64, 3, 2, scoring=scoring), tokenizer)
    ask, texts, answers = map(list, zip(*prompts()))
    flat = lambda scores: [x for o in scores for x in o]
    same = lambda a, b, eps=1e-4: max(abs(x - y) for x, y in zip(a, b, strict=True)) < eps
    scores = model.score(ask, texts, answers)
    assert same(flat(scores), flat(model.score(ask[::-1], texts[::-1], answers[::-1])[::-1]))
    assert same(flat(scores), flat([o[::-1] for o in model.score(ask, texts, [o[::-1] for o in answers])]))
    assert same([o[-1] for o in scores[:20]], [model.score(q, x, [a[-1]])[0] for q, x, a in list(zip(ask, texts, answers))[:20]])
    pieces = [p for q, x, a in zip(ask, texts, answers) for p in model.scorer.pieces(*model.encoder.ids([x, q]), model.encoder.ids(a))]
    for tokens in (64, 700, 100_000): assert same(flat(scores), model.score_pieces(pieces, tokens=tokens).tolist())
    half = RewardModel(model.model, tokenizer, precision="bf16").score(ask, texts, answers)
    assert same(flat(scores), flat(half), 2e-2)


def test_bf16_ranks_as_fp32(data, tmp_path):
    "A trained model: the same order of answers for 99 of 100 prompts, scores within 2e-2."
    from koflan.reward import RewardModel
    from koflan.manifest import load_records
    from koflan.task import find_tasks
    train(data, tmp_path/"run", "--scoring", "packed", "--num_train_epochs", 12, "--learning_rate", 2e-3, "--save_strategy", "no")
    tasks = find_tasks(",".join(load_records(data, "train")["task"].unique()))
    rows = [o for cls in tasks for seed in range(6) for split in ("train", "test") for o in cls(mirror="samples", seed=seed).generate(split)] # the same texts, asked in other words
    ask = [[o["instruction"] for o in rows], [o["input"] for o in rows], [o["positives"] + o["negatives"] for o in rows]]
    full, half = (RewardModel.from_pretrained(tmp_path/"run", device="cpu", precision=o).score(*ask) for o in ("fp32", "bf16"))
    order = lambda scores: sorted(range(len(scores)), key=lambda i: -scores[i])
    assert len(rows) > 500 and sum(order(a) == order(b) for a, b in zip(full, half)) >= .99*len(rows)
    assert full != half and max(abs(x - y) for a, b in zip(full, half) for x, y in zip(a, b)) < 2e-2


@pytest.mark.parametrize("scoring", ["pair", "packed"])
def test_long_inputs_keep_instruction_and_answer(scoring, tokenizer):
    "Of an input of 20,000 characters only the left is cut; every token of instruction and answers stays."
    from koflan.reward import RewardModel, tiny_electra
    model = RewardModel(tiny_electra(tokenizer, 32, scoring=scoring), tokenizer)
    long, ask, answers = "돈이 아깝다 " * 2857 + "최고", "이 리뷰는 긍정인가요?", ["정말 최고의 영화", "지루하다"]
    assert len(long) >= 20_000
    text, question, *given = model.encoder.ids([long, ask, *answers])
    after = model.encoder.after
    for piece in model.scorer.pieces(text, question, given):
        prompt = piece.prompt if scoring == "packed" else piece.input_ids
        end = len(piece.prompt) if scoring == "packed" else piece.token_type_ids.index(1)
        between = model.encoder.between
        assert prompt[:end][-len(question) - len(between):] == question + between
        kept = prompt[len(model.encoder.before):end - len(question) - len(between) - 1]
        assert len(kept) > 300 and kept == text[-len(kept):] # the right end of the input
    replies = piece.answers if scoring == "packed" else [p.input_ids[p.token_type_ids.index(1):] for p in model.scorer.pieces(text, question, given)]
    assert replies == [o + (after if scoring == "pair" else []) for o in given]
    assert model.score(ask, long, answers) != model.score(ask, long + " 강추", answers)


def test_the_cuda_path_can_be_built(tokenizer):
    "Without a GPU the model still moves to another device, and the batches follow it."
    import torch
    from koflan.reward import RewardModel, precision_for, tiny_electra
    device = "cuda" if torch.cuda.is_available() else "meta"
    model = RewardModel(tiny_electra(tokenizer, 32, scoring="packed").to(device), tokenizer, precision="auto")
    assert model.device.type == device and model.precision == precision_for(device)
    batch = model.scorer.collate(model.scorer.pieces([7], [8], [[9], [10, 11]]))
    assert model.scorer.forward(model.model, {k: v.to(device) for k, v in batch.items()}).shape == (2,)


def stop(number, data, out, args, seen):
    "A run that is told to stop once `seen` is there; its exit code and what it said."
    line = [sys.executable, "-m", "koflan.reward_trainer", "--do_train", "--do_eval", "--dataset", str(data), "--output_dir", str(out)]
    run = subprocess.Popen([*line, *map(str, SMALL + args)], env=os.environ | dict(HF_HUB_OFFLINE="1") | ENV,
                           stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    end = time.time() + 240
    while not seen.exists() and run.poll() is None and time.time() < end: time.sleep(.01)
    run.send_signal(number)
    said, _ = run.communicate(timeout=240)
    return run.returncode, said


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopped_and_resumed(number, code, data, tmp_path):
    "Ctrl-C and SIGTERM save the step that runs; the same command goes on, and ends with the weights of a run that was never stopped."
    from safetensors.numpy import load_file
    args = ["--dropout", .1, "--per_device_train_batch_size", 8, "--num_train_epochs", 6, "--logging_steps", 1, "--save_steps", 4,
            "--eval_strategy", "epoch", "--load_best_model_at_end", "False"]
    train(data, tmp_path/"whole", *args)
    run = tmp_path/"run"
    ended, said = stop(number, data, run, args, run/"checkpoint-4"/"trainer_state.json")
    last = max((int(o.name.split("-")[1]), o) for o in run.glob("checkpoint-*"))[1]
    assert ended == code and "Traceback" not in said, said
    assert f"the last checkpoint is {last}; the same command goes on from there" in said and "macro" not in said
    assert {o.name for o in run.iterdir()} == {o.name for o in run.glob("checkpoint-*")} # no model that looks finished
    as_model = command("koflan.evaluate", "--model_name_or_path", run, "--dataset", data, ok=False)
    assert as_model.returncode == 2 and f"checkpoint {run}: unfinished run; the last checkpoint is {last}" in as_model.stderr
    done = train(data, run, *args)
    assert f"resuming from {last}" in done.stderr
    assert f"to evaluate it: koflan_evaluate --model_name_or_path {run} --dataset {data}\n" in done.stdout
    close(losses(tmp_path/"whole"), losses(run))
    one, two = (load_file(tmp_path/o/"model.safetensors") for o in ("whole", "run"))
    assert one.keys() == two.keys() and max(abs(one[k] - two[k]).max() for k in one) <= 1e-5


def test_nothing_of_the_machine_is_saved(data, tmp_path):
    "No file of a run names a folder of this machine, and none is a pickle that nobody reads."
    base, run = tmp_path/"me"/"base", tmp_path/"me"/"run"
    train(data, base, "--num_train_epochs", 1, "--save_strategy", "no")
    start = [o for o in SMALL if o not in ("--from_scratch",)]
    args = ["--do_train", "--do_eval", "--model_name_or_path", base, "--dataset", data, "--output_dir", run, "--max_steps", 4, "--save_steps", 2,
            "--eval_strategy", "steps", "--eval_steps", 2, "--load_best_model_at_end"]
    command("koflan.reward_trainer", *start, *args, **ENV)
    held = [o for o in run.rglob("*") if o.is_file()]
    assert {"README.md", "config.json", "trainer_state.json", "checkpoint-2", "checkpoint-4"} <= {o.name for o in run.iterdir()}
    for file in held:
        for o in (tmp_path, data, Path.home(), sys.prefix): assert str(o).encode() not in file.read_bytes(), (file, o)
    assert not [o for o in held if o.name == "training_args.bin"] and not list(base.rglob("*.bin"))
    card = (run/"README.md").read_text(encoding="utf-8")
    assert "--model_name_or_path base" in card and "--dataset data" in card and "--output_dir run" in card and "base_model" not in card
    assert json.loads((run/"config.json").read_text())["koflan_trained_on"].startswith("data: kobest_copa, nsmc, unsmile (")
    moved = run.rename(tmp_path/"moved") # and goes on elsewhere, with its best checkpoint
    again = command("koflan.reward_trainer", *start, *[moved if o == run else o for o in args], **ENV)
    assert "resuming from" in again.stderr and "Could not locate" not in again.stderr


def test_a_pickle_in_a_checkpoint_does_not_run(data, tmp_path):
    "Neither as weights, which are refused, nor as the state of a run that goes on."
    import torch
    ran = tmp_path/"ran"
    args = ["--max_steps", 4, "--save_steps", 2, "--per_device_train_batch_size", 8]
    train(data, tmp_path/"run", *args)
    for o in ("optimizer.pt", "scheduler.pt", "rng_state.pth"): torch.save(Touch(ran), tmp_path/"run"/"checkpoint-2"/o)
    done = train(data, tmp_path/"run", *args, "--resume_from_checkpoint", tmp_path/"run"/"checkpoint-2", ok=False)
    assert done.returncode == 2 and "Traceback" not in done.stderr and "its state cannot be read" in done.stderr, done.stderr[-2000:]
    (tmp_path/"run"/"model.safetensors").unlink()
    torch.save(Touch(ran), tmp_path/"run"/"pytorch_model.bin")
    for more, says in (([], "pytorch_model.bin can hold code"), (["--allow_pickle"], "its model cannot be read")):
        done = command("koflan.evaluate", "--model_name_or_path", tmp_path/"run", "--dataset", data, *more, ok=False)
        assert done.returncode == 2 and says in done.stderr and "Traceback" not in done.stderr
    assert not ran.exists()


class Touch:
    "A pickle that makes a file when it is loaded without care."
    def __init__(self, path): self.path = path
    def __reduce__(self): return Path.touch, (self.path,)
