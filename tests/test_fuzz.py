"Random source rows through every family: records keep the rules, nothing is lost uncounted, and neither cuts nor order change a byte. Gold is what a slow row-by-row reference says."
import json
import re

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from koflan.core.answers import SHAPES
from koflan.core.chance import Chance, mix
from koflan.core.korean import normal_form, tidy
from koflan.core.prompts import Ask, Prompts
from koflan.core.schema import problems
from koflan.authoring.shapes import BorrowTask, ChoiceTask, LabelTask, MultiLabelTask, SpanTask
from koflan.core.parts import table_part
from koflan.core.sources import HubSource
from koflan.authoring.task import REGISTRY, tally


class Table(HubSource):
    "A source that is handed its rows; those of test come the other way round."
    frame = None
    def open_part(self, mirror, config, split): return table_part(self.frame[::-1] if split == "test" else self.frame)


WORDS = dict(슬픔=["슬픔", "슬퍼요"], 기쁨=["기쁨", "기뻐요"], 화남=["화남", "화나요"])


class Label(LabelTask):
    kind, name, cluster = "multiclass", "_fuzz_label", "sentiment"
    source = Table("fuzz/label", columns=("text", "word", "label"), names=dict(label=tuple(WORDS)))
    prompts = Prompts(Ask("글쓴이의 기분은?", "기분을 고르세요. 보기: {options}", "'{word}'{word:이라는/라는} 말은 어떤 기분인가요?", answers=WORDS),
                      Ask("보기에서 고르세요: {options}", answers={k: [o[0] + "!"] for k, o in WORDS.items()}, input="낱말: {word}\n글: {text}"), input="{text}")


class Flags(MultiLabelTask):
    name, cluster, flags, none = "_fuzz_flags", "hate", ("슬픔", "기쁨"), "화남"
    source = Table("fuzz/flags", columns=("text", "슬픔", "기쁨"))
    prompts = Prompts(Ask("모두 고르세요.", "{text:이/가} 담은 것은? {options}", answers=WORDS), input="글: {text}")


class Numbers(MultiLabelTask):
    name, cluster, label = "_fuzz_numbers", "hate", "label"
    source = Table("fuzz/numbers", columns=("text", "label"), names=dict(label=tuple(WORDS)))
    prompts = Prompts(Ask("모두 고르세요.", "고르세요: {options}", answers=WORDS), input="{text}")


class Choice(ChoiceTask):
    name, cluster, choices, gold, gold_from = "_fuzz_choice", "exam", ("A", "B", "C"), "answer", 1
    source = Table("fuzz/choice", columns=("text", "form", "A", "B", "C", "answer"))
    prompts = Prompts(Ask("맞는 것을 고르세요.", "다음 가운데 답은? {options}", when=dict(form="물음")), Ask("알맞은 말은?", when=dict(form="빈칸")), input="{text}")


class Span(SpanTask):
    name, cluster, window, most = "_fuzz_span", "mrc", 4, 2
    source = Table("fuzz/span", columns=("context", "question", "answers"))
    prompts = Prompts(Ask("글을 읽고 답하세요. {question}", "{question} 보기: {options}"), input="{context}")


class Borrow(BorrowTask):
    name, cluster, window, most = "_fuzz_borrow", "dialogue", 5, 2
    source = Table("fuzz/borrow", columns=("question", "answer", "label"), names=dict(label=("a", "b")))
    prompts = Prompts(Ask("이 말에 어울리는 대답은?", "대답을 고르세요: {options}"), input="{question}")


for o in (Label, Flags, Numbers, Choice, Span, Borrow): REGISTRY.pop(o.name)

ODD = ["", " ", "\t\n ", "{", "}", "{text}", "{word:은/는}", "{{a}}", '"', "\\", "\\n", "a\\\"b", "\0", "가\0나", "\x01\x1f\x7f", "\x85", "\u2028줄", "\u200b", "\ufeff", "각", "각", "가!", "가 ", "가", "나", "가나",
       "🇰🇷", "👩‍👩‍👧‍👦", "\ue000", "\U0010ffff", "null", "NaN", "1", "[]", "<b>", "'", "…", "ﬁ", "Ａ", "ㅋㅋ", "‮"]
TEXT = st.none() | st.sampled_from(ODD) | st.text("가나 .!", max_size=3) | st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
SOME = st.sampled_from(ODD) | st.text("가나다", min_size=1, max_size=3)
LABEL = st.sampled_from([None, -1, 0, 1, 2])
WORD = st.text("가나다라마바", min_size=1, max_size=2)

def mostly(fine, odd): return st.integers(0, 7).flatmap(lambda o: fine if o else odd)

FLAG = st.sampled_from([None, 0, 1])
ROWS = {
    Label: (dict(text=TEXT, word=TEXT, label=LABEL), dict(text=pl.String, word=pl.String, label=pl.Int64)),
    Flags: (dict(text=TEXT, 슬픔=FLAG, 기쁨=FLAG), dict(text=pl.String, 슬픔=pl.Int8, 기쁨=pl.Int64)),
    Numbers: (dict(text=TEXT, label=st.none() | st.lists(st.sampled_from([0, 1, 2]), max_size=3)), dict(text=pl.String, label=pl.List(pl.Int64))),
    Choice: (dict(text=TEXT, form=mostly(st.sampled_from(["물음", "빈칸"]), st.sampled_from(["물음 ", None, "딴것"])), **dict.fromkeys("ABC", mostly(WORD, TEXT)), answer=mostly(st.sampled_from([1, 2, 3]), st.none())),
             dict(text=pl.String, form=pl.String, A=pl.String, B=pl.String, C=pl.String, answer=pl.Int32)),
    Span: (dict(context=st.sampled_from(["지문 하나", "지문 하나 ", "지문 둘", "", None]), question=TEXT, answers=st.none() | st.fixed_dictionaries(dict(text=st.none() | mostly(st.lists(WORD, min_size=1, max_size=2), st.lists(SOME | TEXT, max_size=2))))),
           dict(context=pl.String, question=pl.String, answers=pl.Struct(dict(text=pl.List(pl.String))))),
    Borrow: (dict(question=SOME | TEXT, answer=SOME | TEXT, label=st.sampled_from([None, 0, 1])), dict(question=pl.String, answer=pl.String, label=pl.Int64)),
}


def given_rows(cls):
    "Hypothesis, the same on every run: rows of a family, where to cut them, and an order."
    columns, schema = ROWS[cls]
    rows = st.lists(st.fixed_dictionaries(columns), max_size=10).map(lambda o: pl.DataFrame(o, schema=schema))
    def wrap(test):
        test = given(rows=rows, cuts=st.lists(st.integers(0, 10), max_size=2), order=st.integers(0, 99))(test)
        return settings(max_examples=100, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))(test)
    return wrap


def task_of(cls, rows):
    cls.source.frame = rows
    return cls(mirror="samples", seed=3)


def key(record): return int(record["id"].rsplit("-", 1)[1])


def checked(cls, rows, cuts, order, **allow):
    "The records of the rows, after every promise that all families make."
    task = task_of(cls, rows)
    read = task.source.read("train", "samples")
    built = task.convert(read, "train", **allow)
    got = built.records.to_dicts()
    for r in got: assert problems(r, cls.kind, **allow) == [], r
    assert built.rows == len(rows) == len(got) + sum(built.dropped.values()) and all(built.dropped.values())
    assert [key(r) for r in got] == built.numbers.tolist() == sorted(set(built.numbers.tolist()))
    assert [json.loads(o) for o in built.records.write_ndjson().split("\n")[:-1]] == got
    edges = sorted({0, len(rows), *(min(o, len(rows)) for o in cuts)})
    pieces = [read[a:b] for a, b in zip(edges, edges[1:])]
    lent = task.lend(iter(pieces), "train") if pieces else None
    same(built, [task.convert(o, "train", lent=lent, **allow) for o in pieces], got)
    same(built, [p for a, b in zip(edges, edges[1:]) for p in task.stream("train", a, b, chunk=3 + order % 5, **allow)], got)
    mixed = task.convert(read[np.random.default_rng(order).permutation(len(read))], "train", **allow)
    assert sorted(mixed.records.to_dicts(), key=key) == got and mixed.dropped == built.dropped
    return task, read.to_dicts(), {key(r): r for r in got}


def same(built, parts, got):
    assert [r for p in parts for r in p.records.to_dicts()] == got
    assert tally(p.dropped for p in parts) == tally([built.dropped]) and sum(p.rows for p in parts) == built.rows


def reference(task, row, answers):
    "One record the slow way: `answers` gives (right, wrong) for an ask and a wording. None when the row is left out."
    chance, n = Chance(task.seed, task.name, "train"), row["_row"]
    fit = [i for i in range(len(task.prompts)) if task.prompts.asks[task.prompts.ask_of[i]].matches(row)]
    if not fit: return None
    t = fit[int(chance.pick(n, "template", len(fit)))]
    ask = task.prompts.asks[task.prompts.ask_of[t]]
    if (found := answers(ask, int(chance.pick(n, "wording", ask.wordings)))) is None: return None
    right, wrong = found
    words = sorted(right + wrong)
    order = np.argsort(mix(chance.bits(n, "options") + np.arange(len(words), dtype=np.uint64)))
    template = ask.input or task.prompts.input
    both = [o for o in (task.prompts.templates[t], template) if "options" in o.fields]
    ends = all(o.text.endswith("{options}") for o in both)
    shape = SHAPES[int(chance.pick(n, "shape", len(SHAPES) if ends else 2))] if both else "sentence"
    cells = row | dict(options=written([words[i] for i in order], shape, task.between))
    blank = not any(cells[o] for o in template.fields)
    texts = [task.prompts.templates[t].fill(**cells), "" if blank else template.fill(**cells)]
    if shape in SHAPES[2:]: texts = [re.sub(r"[^\S\x1c-\x1f]*\n(- |A\. )", r"\n\1", o, count=1).removeprefix("\n") for o in texts]
    record = dict(zip(("instruction", "input"), texts)) | dict(positives=right, negatives=wrong, task=task.name, id=f"{task.name}-train-{n}", template=t)
    return record if not problems(record, task.kind) else None


def written(words, shape, between):
    "Answers in a list."
    if shape == "circled": return " ".join(f"{chr(ord('①') + i)} {o}" for i, o in enumerate(words))
    if shape == "bullets": return "".join(f"\n- {o}" for o in words)
    if shape == "letters": return "".join(f"\n{chr(ord('A') + i)}. {o}" for i, o in enumerate(words))
    return between.join(words)


def compare(task, rows, got, answers):
    want = {row["_row"]: r for row in rows if (r := reference(task, row, lambda ask, w, row=row: answers(row, ask, w))) is not None}
    assert got == want


def test_the_seam_tidies():
    "What the references below read is what they would make of the raw rows themselves."
    rows = pl.DataFrame(dict(text=ODD, word=ODD, label=[None] * len(ODD)), schema=ROWS[Label][1])
    assert task_of(Label, rows).source.read("train", "samples")["text"].to_list() == [tidy(o) for o in ODD]


@given_rows(Label)
def test_label(rows, cuts, order):
    task, read, got = checked(Label, rows, cuts, order)
    def answers(row, ask, w):
        if row["label"] is None: return None
        words = [ask.answers[o][w] for o in WORDS]
        return [words.pop(row["label"])], words
    compare(task, read, got, answers)


@pytest.mark.parametrize("cls", [Flags, Numbers])
def test_multilabel(cls):
    @given_rows(cls)
    def run(rows, cuts, order):
        task, read, got = checked(cls, rows, cuts, order)
        def answers(row, ask, w):
            if cls is Flags: on = {o for o in Flags.flags if row[o]} or {"화남"}
            else: on = {[*WORDS][o] for o in row["label"] or []}
            return ([ask.answers[o][w] for o in WORDS if o in on], [ask.answers[o][w] for o in WORDS if o not in on]) if 0 < len(on) < 3 else None
        compare(task, read, got, answers)
    run()


@given_rows(Choice)
def test_choice(rows, cuts, order):
    task, read, got = checked(Choice, rows, cuts, order)
    def answers(row, ask, w):
        words = [row[o] for o in "ABC"]
        if row["answer"] is None or None in words: return None
        return [words.pop(row["answer"] - 1)], words
    compare(task, read, got, answers)


@given_rows(Span)
def test_span(rows, cuts, order):
    "Right is the row's first answer; wrong are first answers to other questions on the same paragraph, that neither hold nor stand in a right one."
    task, read, got = checked(Span, rows, cuts, order, allow_no_negative=True)
    found = {row["_row"]: [tidy(o) for o in (row["answers"] or {}).get("text") or [] if o is not None] for row in read}
    for n, r in got.items():
        assert r["positives"] == found[n][:1] and r["input"] == read[n]["context"]
        others = {found[o["_row"]][0] for o in read if o["_row"] != n and o["context"] == read[n]["context"] and found[o["_row"]]}
        assert set(r["negatives"]) <= others and len(r["negatives"]) <= Span.most
        assert not any(a in b or b in a for a in map(normal_form, r["negatives"]) for b in map(normal_form, found[n]))


@given_rows(Borrow)
def test_borrow(rows, cuts, order):
    "Wrong answers are replies of the same group that were never given to the same question."
    task, read, got = checked(Borrow, rows, cuts, order, allow_no_negative=True)
    given = {(normal_form(o["question"]), normal_form(o["answer"])) for o in read if o["question"] is not None and o["answer"] is not None}
    for n, r in got.items():
        assert r["positives"] == [read[n]["answer"]] and len(r["negatives"]) <= Borrow.most
        for o in r["negatives"]:
            assert (normal_form(r["input"]), normal_form(o)) not in given
            assert any(x["answer"] == o and x["label"] == read[n]["label"] for x in read)
