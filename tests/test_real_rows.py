"Every task that the mirror holds, on its real rows; the rules are written here a second time, on purpose."
import json
import re
from collections import Counter

import polars as pl
import pytest
from conftest import command, files, records

pytestmark = pytest.mark.mirror
COUNTS = {"binary": ((1, 1), (1, 1)), "multiclass": ((1, 1), (1, 99)), "multilabel": ((1, 99), (1, 99)), "mrc": ((1, 1), (1, 99)), "choice": ((1, 1), (1, 99))}


def held(mirror):
    from koflan.tasks import find_tasks
    return [cls.name for cls in find_tasks("*") if (mirror/cls.source.repo).is_dir()]


@pytest.fixture(scope="module")
def built(mirror, tmp_path_factory):
    out = tmp_path_factory.mktemp("real")/"data"
    done = command("koflan.generate", "--tasks", "nsmc,apeach,unsmile,korquad_v1,kobest_copa", "--output_dir", out, ok=False, KOFLAN_HUB_MIRROR=str(mirror))
    assert done.returncode == 1 and "korquad_v1 train is not there" in done.stderr # asked for by name, and only its test split is there
    return out


def check_records(rows, kind):
    (pos_low, pos_high), (neg_low, neg_high) = COUNTS[kind]
    for r in rows:
        pos, neg = r["positives"], r["negatives"]
        assert pos_low <= len(pos) <= pos_high and neg_low <= len(neg) <= neg_high, r
        assert not set(pos) & set(neg) and len(set(pos)) == len(pos) and len(set(neg)) == len(neg), r
        assert all(o.strip() for o in (r["instruction"], r["input"], *pos, *neg)), r
        assert not re.search(r"\{[A-Za-z_가-힣]+(:[가-힣/]+)?\}", r["instruction"]), r
    assert len({r["id"] for r in rows}) == len(rows)


def test_every_record(built):
    manifest = json.loads((built/"manifest.json").read_text(encoding="utf-8"))
    assert len(manifest["files"]) == 10
    for e in manifest["files"]:
        rows = records(built/e["file"])
        check_records(rows, e["kind"])
        assert len(rows) == e["kept"] == e["rows"] - sum(e["dropped"].values())


def test_rows_are_the_sources(built, mirror):
    manifest = {e["file"]: e["rows"] for e in json.loads((built/"manifest.json").read_text(encoding="utf-8"))["files"]}
    assert manifest["train/nsmc.jsonl"] == len(pl.read_parquet(mirror/"e9t"/"nsmc"/"data"/"train-*.parquet")) == 150_000
    assert manifest["test/unsmile.jsonl"] == len(pl.read_parquet(mirror/"smilegate-ai"/"kor_unsmile"/"data"/"valid-*.parquet"))
    assert manifest["validation/kobest_copa.jsonl"] == 500


def test_copa_gold_follows_the_label(built, mirror):
    for split in ("train", "validation", "test"):
        source = pl.read_parquet(mirror/"skt"/"kobest_v1"/"copa"/f"{split}-*.parquet").to_dicts()
        for r in records(built/split/"kobest_copa.jsonl"):
            row = source[int(r["id"].rsplit("-", 1)[1])]
            choices = [row["alternative_1"].strip(), row["alternative_2"].strip()]
            assert (r["positives"], r["negatives"]) == ([choices[row["label"]]], [choices[1 - row["label"]]])
            assert row["premise"].strip() in r["input"]


def test_span_negatives_keep_apart(built):
    bare = lambda o: re.sub(r"[\W_]+", "", o.lower())
    for r in records(built/"test"/"korquad_v1.jsonl"):
        right = bare(r["positives"][0])
        assert all(right not in bare(o) and bare(o) not in right for o in r["negatives"]), r


def test_templates_are_used_evenly(built):
    from koflan.tasks import NSMC
    rows = records(built/"train"/"nsmc.jsonl")
    counts, n = Counter(r["template"] for r in rows), len(NSMC.prompts)
    assert len(counts) == n
    assert sum((c - len(rows)/n)**2 / (len(rows)/n) for c in counts.values()) < 40 # chi-squared, 12 degrees, far beyond 99.9 %


def test_caps_lie_inside_each_other(mirror, tmp_path):
    for cap in (100, 500):
        command("koflan.generate", "--tasks", "nsmc,kobest_copa", "--max_instance_per_task", cap, "--output_dir", tmp_path/str(cap), KOFLAN_HUB_MIRROR=str(mirror))
    for name in ("train/nsmc.jsonl", "test/kobest_copa.jsonl"):
        few, more = ((tmp_path/str(cap)/name).read_text(encoding="utf-8").splitlines() for cap in (100, 500))
        assert len(few) == 100 and len(more) == 500 and set(few) < set(more)


def test_all_tasks_of_the_mirror(mirror, tmp_path):
    "All that it holds is built, by two processes as by one; every record keeps the rules."
    names = ",".join(held(mirror))
    for proc in (1, 2):
        done = command("koflan.generate", "--tasks", names, "--max_instance_per_task", 2000, "--num_proc", proc,
                       "--output_dir", tmp_path/str(proc), ok=False, KOFLAN_HUB_MIRROR=str(mirror))
        said = [o for o in done.stderr.splitlines() if o.startswith("koflan_generate: ")] # asked for by name, and some splits are not in the mirror
        assert done.returncode == 1 and said and all(" is not there: " in o for o in said) and "Traceback" not in done.stderr, done.stderr
    assert files(tmp_path/"1") == files(tmp_path/"2")
    for e in json.loads((tmp_path/"1"/"manifest.json").read_text(encoding="utf-8"))["files"]:
        rows = records(tmp_path/"1"/e["file"])
        check_records(rows, e["kind"])
        assert len(rows) == e["kept"] == e["rows"] - sum(e["dropped"].values())


def test_labels_keep_their_share(mirror):
    "Whatever is dropped is counted; of what is kept, every label has the share that it has at the source."
    from koflan.authoring.shapes import LabelTask
    from koflan.tasks import find_tasks
    seen = 0
    for cls in find_tasks("*"):
        if not issubclass(cls, LabelTask) or not (mirror/cls.source.repo).is_dir(): continue
        for split in cls.source.splits:
            try: rows = cls.source.read(split, str(mirror))
            except Exception: continue # a split that the mirror does not hold
            task = cls(mirror=str(mirror))
            kept = task.convert(rows, split).records
            if cls.label not in rows.columns: continue # a label that the task itself makes (klue_ner)
            label = dict(zip(rows["_row"], rows[cls.label]))
            got, want = Counter(), Counter()
            for r in kept.to_dicts():
                ask = cls.prompts.asks[cls.prompts.ask_of[r["template"]]]
                got[next(k for k, words in ask.answers.items() if r["positives"][0] in words)] += 1
                want[cls.source.names_of(cls.label)[label[int(r["id"].rsplit("-", 1)[1])]]] += 1
            assert got == want and len(kept), cls.name
            seen += 1
    assert seen >= 10


def test_instructions_are_used_evenly(mirror):
    "Chi-squared over the instructions that a row may be asked, far beyond the 99.99 % point."
    from koflan.tasks import find_tasks
    for cls in find_tasks("*"):
        if not (mirror/cls.source.repo).is_dir() or any(ask.when for ask in cls.prompts.asks): continue
        for split in cls.source.splits:
            try: counts = cls(mirror=str(mirror)).build(split).records["template"].value_counts()["count"].to_numpy()
            except Exception: continue # a split that the mirror does not hold
            n, k = counts.sum(), len(cls.prompts)
            if n < 20 * k: continue
            dropped_by_template = any(t.fields for t in cls.prompts) # a filled instruction may be dropped for a brace in the text
            assert len(counts) == k and (((counts - n/k)**2 / (n/k)).sum() < k + 8*(2*k)**.5 or dropped_by_template), (cls.name, split, counts)


def test_inverted_answers_have_the_label_that_is_asked_for(mirror):
    "Of the rows, read again: the right text has the label, the wrong ones have others, and no two of a pair are the same text."
    from koflan.authoring.inverted import InvertedTask
    from koflan.core.korean import normal_form
    from koflan.tasks import find_tasks
    seen = 0
    for cls in find_tasks("*"):
        if not issubclass(cls, InvertedTask) or not (mirror/cls.source.repo).is_dir(): continue
        split = next(o for o in reversed(cls.source.splits) if o != "validation")
        try: rows = cls.source.read(split, str(mirror))
        except Exception: continue # a split that the mirror does not hold
        labels = {}
        for text, label in rows.select(cls.text, cls.of.label).drop_nulls().rows(): labels.setdefault(normal_form(text), set()).add(label)
        source, names = dict(zip(rows["_row"], rows[cls.of.label])), cls.source.names_of(cls.of.label)
        for r in cls(mirror=str(mirror)).build(split, cap=2000).records.to_dicts():
            gold = source[int(r["id"].rsplit("-", 1)[1])]
            assert labels[normal_form(r["positives"][0])] == {gold}
            bad = {gold} | {names.index(o) for o in cls.also.get(names[gold], ())}
            assert not any(labels[normal_form(o)] & bad for o in r["negatives"]), r
            words = cls.prompts.asks[cls.prompts.ask_of[r["template"]]].answers[names[gold]]
            assert any(o in r["instruction"] + r["input"] for o in words), r
        seen += 1
    assert seen >= 12


@pytest.fixture(scope="module")
def few_shot(mirror, tmp_path_factory):
    "All tasks of the mirror with --shots 3, by one process and by two, and without."
    out, names = tmp_path_factory.mktemp("shots"), ",".join(held(mirror))
    for name, *more in (("none",), ("one", "--shots", 3), ("two", "--shots", 3, "--num_proc", 2, "--shard_rows", 3000)):
        command("koflan.generate", "--tasks", names, "--max_instance_per_task", 200, "--output_dir", out/name, *more, ok=False, KOFLAN_HUB_MIRROR=str(mirror))
    return out


def test_shots_are_the_same_for_one_process_and_two(few_shot): assert files(few_shot/"one") == files(few_shot/"two")


def test_no_record_is_among_its_shots(few_shot):
    "Neither its text nor an answer that is a text of its own stands in what was put before it; and most records have examples."
    from koflan.tasks import find_tasks
    bare, with_examples, seen = lambda o: re.sub(r"[\W_]+", "", o.lower()), 0, 0
    prompts = {cls.name: cls.prompts for cls in find_tasks("*")}
    for path in sorted((few_shot/"one").glob("*/*.jsonl")):
        asks = prompts[path.stem].asks
        declared = {o for ask in asks for words in (ask.answers or {}).values() for o in words}
        plain, lines = records(few_shot/"none"/path.parent.name/path.name), Counter()
        for r in plain: lines.update({bare(o) for o in r["input"].split("\n")})
        for a, b in zip(plain, records(path), strict=True):
            assert b["input"].endswith(a["input"]) and {k: v for k, v in a.items() if k != "input"} == {k: v for k, v in b.items() if k != "input"}
            put = b["input"].removesuffix(a["input"])
            assert len(put) < 1520 and put.count("\n답: ") <= 3
            own = [o for o in (*a["input"].split("\n"), *(x for x in a["positives"] + a["negatives"] if x not in declared)) if len(bare(o)) >= 15]
            assert not any(bare(o) in bare(put) for o in own if lines[bare(o)] <= 2), b
            with_examples, seen = with_examples + bool(put), seen + 1
    assert seen > 10_000 and with_examples > .8 * seen, (with_examples, seen)
