"""The bytes of every data file of every task, as sums, so that a change of the inside can be told from a change of the data.

    python tests/frozen.py check             # the packaged samples, against tests/frozen.json
    KOFLAN_HUB_MIRROR=DIR python tests/frozen.py check    # and the rows of a mirror
    python tests/frozen.py write             # new sums, for a commit that changes data on purpose and says so

One sum a task and way of building: sha256 over the names and sha256 of its files.
"""
import json
import os
import sys
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory

from koflan.generate import generate
from koflan.tasks import find_tasks

SUMS = Path(__file__).with_name("frozen.json")
WAYS = {
    "plain": {},
    "seed": dict(seed=1),
    "parquet": dict(format="parquet", seed=1),
    "cap": dict(cap=20),
    "shards": dict(max_shard_rows=7, cap=20),
    "allow": dict(allow_no_input=True, allow_no_negative=True),
    "dedup": dict(dedup="all", seed=1),
    "mixing": dict(dedup="task", mixing="proportional", mixing_rate_max=50, total=500),
    "holdout": dict(holdout="cluster:nli,task:nsmc", cap=20),
    "processes": dict(num_proc=2, shard_rows=2000),
    "all at once": dict(num_proc=2, shard_rows=2000, dedup="all", mixing="proportional", total=900, seed=1, format="parquet"),
}


def sums(mirror, **how):
    "Task -> sum of its files."
    with TemporaryDirectory() as out:
        there = mirror == "samples" or [o for o in find_tasks("*") if (Path(mirror)/o.source.repo).is_dir()]
        entries, failed, _ = generate("*" if there is True else there, out, mirror=mirror, progress=False, **how)
        assert not failed, failed
    files = {}
    for e in entries: files.setdefault(e["recipe"]["task"], []).append((e["file"], e["sha256"], e["rows"], e["kept"], e["dropped"]))
    return {k: sha256(json.dumps(sorted(v, key=str), sort_keys=True).encode()).hexdigest()[:16] for k, v in sorted(files.items())}


def main(what, *places):
    held = json.loads(SUMS.read_text()) if SUMS.is_file() else {}
    wrong = 0
    for place in places or ("samples", *(["mirror"] if os.environ.get("KOFLAN_HUB_MIRROR") else [])):
        for name, how in WAYS.items():
            got, key = sums("samples" if place == "samples" else os.environ["KOFLAN_HUB_MIRROR"], **how), f"{place}: {name}"
            differ = [k for k in {**held.get(key, {}), **got} if held.get(key, {}).get(k) != got.get(k)]
            wrong += len(differ)
            if what == "write": held[key] = got
            print(f"{key}: {len(got)} tasks, {len(differ)} differ{': ' + ', '.join(differ[:12]) if differ else ''}", flush=True)
    if what == "write": SUMS.write_text(json.dumps(held, indent=0, sort_keys=True) + "\n")
    elif wrong: raise SystemExit(1)


if __name__ == "__main__": main(*sys.argv[1:])
