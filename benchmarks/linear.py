"""Is every task linear in its rows? Times for n, 2n and 4n rows, side by side in one run.

    KOFLAN_HUB_MIRROR=DIR python benchmarks/linear.py [--tasks "*"] [--rows 20000]

Tasks whose source is not in the mirror use their packaged samples, repeated. A ratio near 4 between the last and the first
column is linear; the smallest of three runs is shown.
"""
import argparse
import time

import polars as pl

from koflan.core.parts import SourceError
from koflan.tasks import find_tasks


def rows_of(cls):
    "(rows of the largest split that there is, its name, where it came from)."
    for mirror in (None, "samples"):
        if mirror is None and cls.source.place() != "mirror": continue
        for split in ("train", "test", "validation"):
            try: return cls.source.read(split, mirror), split, mirror or "mirror"
            except SourceError: continue


def grown(df, n):
    "n rows: the rows again and again, numbered anew."
    times = -(-n // len(df))
    return pl.concat([df] * times).head(n).drop("_row").with_row_index("_row")


def seconds(task, df, split):
    best = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        task.convert(df, split)
        best = min(best, time.perf_counter() - start)
    return best


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", default="*")
    parser.add_argument("--rows", type=int, default=20_000)
    args = parser.parse_args()
    print(f"{'task':<20}{'rows':<9}{'n':>8}{'t(n)':>9}{'t(2n)':>9}{'t(4n)':>9}{'t(4n)/t(n)':>12}{'rows/s':>10}")
    for cls in find_tasks(args.tasks):
        df, split, place = rows_of(cls)
        t = [seconds(cls(), grown(df, k * args.rows), split) for k in (1, 2, 4)]
        print(f"{cls.name:<20}{place:<9}{args.rows:>8,}{t[0]:>9.3f}{t[1]:>9.3f}{t[2]:>9.3f}{t[2]/t[0]:>12.2f}{4*args.rows/t[2]:>10,.0f}", flush=True)


if __name__ == "__main__": main()
