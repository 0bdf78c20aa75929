"""Writes packing.json: what trl.pack_dataset makes of rows of random lengths. Run: python packing.py"""

import json
import pathlib
import random

import datasets
import trl


def case(rng, strategy, length, rows, longest, shortest=0):
    lengths = [rng.randint(shortest, longest) for _ in range(rows)]
    start, ids = 0, []
    for n in lengths:  # every token is a number of its own, so that rows tell where it came from
        ids.append(list(range(start, start + n)))
        start += n
    packed = trl.pack_dataset(datasets.Dataset.from_dict({"input_ids": ids}), length, strategy)
    out = {"strategy": strategy, "length": length, "lengths": lengths}
    out["first"] = [row[0] for row in packed["input_ids"]]
    out["sums"] = [sum((i + 1) * t for i, t in enumerate(row)) for row in packed["input_ids"]]
    out["rows"] = [len(row) for row in packed["input_ids"]]
    if strategy != "wrapped":
        out["seq_lengths"] = list(packed["seq_lengths"])
    return out


rng = random.Random(7)
cases = [case(rng, s, n, rows, longest) for s in ("bfd", "bfd_split", "wrapped") for n, rows, longest in ((8, 30, 12), (33, 60, 40), (64, 200, 70))]
cases.append(case(rng, "bfd", 16, 2100, 12, 1))  # more than one group of 1000
cases.append(case(rng, "wrapped", 50, 1500, 9, 1))
cases.append(case(rng, "bfd", 16, 1300, 12))  # groups count empty rows
fixture = {"versions": {"trl": trl.__version__, "datasets": datasets.__version__}, "cases": cases}
pathlib.Path(__file__).with_name("packing.json").write_text(json.dumps(fixture, separators=(",", ":")) + "\n")
