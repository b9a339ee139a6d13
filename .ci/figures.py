"""The picture of the landing page, from a record and from a model's scores.

    koflan_demo --output_dir DIR && python .ci/figures.py measure DIR   # scores of the demo's model -> nbs/images/landing.json
    python .ci/figures.py draw [--check]                                # the pictures, from that file alone

The demo's model has learnt from the packaged samples, and the record of the picture is among them: it shows what a model does, not how well.
"""
import argparse
import json
import sys
from html import escape
from math import exp
from pathlib import Path

IMAGES = Path(__file__).resolve().parent.parent/"nbs"/"images"
TASK = "klue_ynat"
INK, FAINT, RIGHT, WRONG = "#eef4f1", "#9fb3ab", "#5fd497", "#ff9d8a"
WORDS = {
    "ko": dict(titles=("데이터셋의 행", "지시문 레코드", "보상 모델의 순위"), right="맞는 답", wrong="틀린 답", lang="ko",
               title="데이터셋의 행이 맞는 답과 틀린 답이 있는 레코드가 되고, 보상 모델이 답의 순위를 매긴다", gloss={},
               model="koflan_demo가 내장 예문 {records:,}건으로 배운 모델(파라미터 {parameters:,}개)이 그 가운데 하나에 매긴 점수. 막대는 softmax"),
    "en": dict(titles=("A row of a dataset", "An instruction record", "Answers, ranked"), right="right", wrong="wrong", lang="en",
               title="A dataset row becomes a record with right and wrong answers, and a reward model ranks the answers",
               model="Scores of koflan_demo's model ({parameters:,} parameters, learnt from {records:,} samples) for one of them. Bars: softmax",
               gloss={"종이 신문이라면 이 기사를 무슨 면에서 찾을 수 있을까?": "In which section of a printed newspaper would this article be?",
                      "국내 연구진 먼지보다 작은 수중 로봇 개발…혈관 속 약물 전달에 성큼": "Researchers build a swimming robot smaller than dust, a step towards drugs delivered inside blood vessels",
                      "IT·과학면": "IT & science", "경제면": "economy", "사회면": "society", "생활·문화면": "culture", "국제면": "world", "스포츠면": "sports", "정치면": "politics"}),
}


def first(name):
    "The first packaged row of a task, and the record made of it."
    from koflan.tasks import find_tasks
    task = find_tasks(name)[0](mirror="samples")
    return {k: v for k, v in task.source.read("train", "samples").row(0, named=True).items() if not k.startswith("_")}, next(task.generate("train"))


def measure(folder):
    "Ask the demo's model, and write down what it said."
    from koflan.build.manifest import load_records
    from koflan.reward import RewardModel
    from koflan.core.schema import write_json
    model, (row, record) = RewardModel.from_pretrained(f"{folder}/checkpoint/demo", device="cpu", max_length=128), first(TASK)
    ranks = [dict(answer=o.answer, score=round(o.score, 2)) for o in model.rank(record["instruction"], record["input"], record["positives"] + record["negatives"])]
    about = dict(parameters=sum(o.numel() for o in model.model.parameters()), records=len(load_records(f"{folder}/data", "train")))
    write_json(dict(row=row, record=record, ranks=ranks, model=about), IMAGES/"landing.json")


def width(text): return sum(1 if ord(o) > 0x1100 else .62 for o in text)


def wrap(text, room):
    "Lines of words, none wider than `room` em."
    lines = [""]
    for word in text.split():
        if lines[-1] and width(f"{lines[-1]} {word}") > room: lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines


class Panel:
    "A box that grows downwards as lines are written into it."
    def __init__(self, x, y, w, title, number, gloss):
        self.x, self.y, self.w, self.at, self.out, self.gloss = x, y, w, y + 38, [], gloss
        self.out.append(f'<circle cx="{x + 26}" cy="{y + 32}" r="11" fill="{RIGHT}"/>')
        self.text(number, dx=26, size=14, color="#10201a", bold=True, anchor="middle", step=0)
        self.text(title, dx=46, size=16, bold=True, step=32)

    def text(self, text, dx=18, size=15, color=INK, bold=False, anchor="start", step=22):
        extra = f' font-weight="{"600" if bold else "400"}"' + (f' text-anchor="{anchor}"' if anchor != "start" else "")
        self.out.append(f'<text x="{self.x + dx}" y="{self.at}" font-size="{size}" fill="{color}"{extra}>{escape(text)}</text>')
        self.at += step

    def field(self, name, values, marks=None, color=INK):
        self.text(name, size=12.5, color=FAINT, step=20)
        for o in values:
            short = self.gloss.get(o, "") if marks else ""
            for line in wrap(" ".join(filter(None, [marks, o, short and f"· {short}"])), (self.w - 38)/15): self.text(line, color=color)
            for line in wrap("" if short else self.gloss.get(o, ""), (self.w - 38)/13): self.text(line, size=13, color=FAINT, step=19 if line else 0)
        self.at += 8

    def bar(self, answer, score, right, share):
        color, y, room = RIGHT if right else WRONG, self.at + 8, self.w - 36
        self.text(" ".join(["○" if right else "×", answer, *([f"· {self.gloss[answer]}"] if answer in self.gloss else [])]), color=color, step=0)
        self.out.append(f'<text x="{self.x + self.w - 18}" y="{self.at}" font-size="15" fill="{INK}" text-anchor="end">{score:+.2f}</text>')
        self.out.append(f'<rect x="{self.x + 18}" y="{y}" width="{room}" height="7" rx="3" fill="#335a4c"/><rect x="{self.x + 18}" y="{y}" width="{max(3, share*room):.1f}" height="7" rx="3" fill="{color}"/>')
        self.at += 38


def panels(said, words, places):
    row, record, ranks, (one, two, three) = said["row"], said["record"], said["ranks"], (Panel(*at, title, str(i + 1), words["gloss"]) for i, (at, title) in enumerate(zip(places, words["titles"])))
    for k, v in row.items(): one.field(k, [str(v)])
    for k in ("instruction", "input"): two.field(k, [record[k]])
    two.field(f"positives · {words['right']}", record["positives"], "○", RIGHT)
    two.field(f"negatives · {words['wrong']}", record["negatives"], "×", WRONG)
    whole = sum(exp(o["score"]) for o in ranks)
    for o in ranks: three.bar(o["answer"], o["score"], o["answer"] in record["positives"], exp(o["score"])/whole)
    three.at += 6
    for line in wrap(words["model"].format(**said["model"]), (three.w - 36)/12.5): three.text(line, size=12.5, color=FAINT, step=18)
    return one, two, three


def picture(said, words, narrow):
    "The three panels side by side, or one below the other for a phone."
    w, gap, y, places = (372, 34, 12, []) if narrow else (290, 34, 12, [])
    for i in range(3):
        places.append((12, y, w) if narrow else (12 + i*(w + gap), y, w))
        if narrow: y = panels(said, words, [*places, *[(12, 0, w)]*(2 - i)])[i].at + gap - 4
    made = panels(said, words, places)
    low = max(o.at for o in made) - 4
    boxes = "".join(f'<rect x="{o.x}" y="{o.y}" width="{o.w}" height="{(o.at - 4 if narrow else low) - o.y}" rx="12" fill="#1b3029" stroke="#335a4c"/>' for o in made)
    arrow = lambda o: f"M{o.x + w/2 - 9} {o.at + 6}l9 9 9-9" if narrow else f"M{o.x + w + 12} {(low + 12)/2 - 10}l10 10-10 10"
    arrows = "".join(f'<path d="{arrow(o)}" fill="none" stroke="{RIGHT}" stroke-width="3" stroke-linecap="round"/>' for o in made[:2])
    wide, high = 2*12 + (w if narrow else 3*w + 2*gap), low + 12
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {high}" width="{wide}" height="{high}" role="img" lang="{words["lang"]}" '
            f"font-family='system-ui, \"Apple SD Gothic Neo\", \"Malgun Gothic\", \"Noto Sans KR\", NanumGothic, sans-serif'>\n<title>{escape(words['title'])}</title>\n"
            f'<rect width="{wide}" height="{high}" rx="16" fill="#10201a"/>\n{boxes}{arrows}\n' + "\n".join("\n".join(o.out) for o in made) + "\n</svg>\n")


def draw(check=False):
    "Write the pictures, or say whether they are what the scores say."
    said = json.loads((IMAGES/"landing.json").read_text(encoding="utf-8"))
    for lang, words in WORDS.items():
        for narrow in (False, True):
            path, text = IMAGES/f"landing-{lang}{'-narrow' if narrow else ''}.svg", picture(said, words, narrow)
            if not check: path.write_text(text, encoding="utf-8")
            elif path.read_text(encoding="utf-8") != text: sys.exit(f"{path.name} is not in step: run python .ci/figures.py draw")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["measure", "draw"])
    parser.add_argument("args", nargs="*", help="measure: the folder of koflan_demo")
    parser.add_argument("--check", action="store_true", help="draw: compare, write nothing")
    args = parser.parse_args()
    measure(*args.args) if args.what == "measure" else draw(args.check)
