"""Writes streams.json: what NumPy's default_rng and torch's CPU generator draw. Run: python streams.py"""

import hashlib
import json
import pathlib

import numpy as np
import torch


def digest(numbers):
    return hashlib.sha256(",".join(str(int(n)) for n in numbers).encode()).hexdigest()[:16]


cases = []
for seed in (0, 1, 42, 2**31, 2**32 + 5, 2**63 - 1):
    rng = np.random.default_rng(seed)
    case = {"seed": seed, "random": rng.random(5).tolist()}
    case["permutations"] = [rng.permutation(n).tolist() for n in (0, 1, 2, 3, 10)] # an odd number of draws in between
    case["long"] = [[n, digest(rng.permutation(n))] for n in (1000, 12345)]
    p = [0.7, 0.2, 0.1]
    case["choice"] = rng.choice(3, size=40, p=p).tolist()
    case["then"] = rng.random(2).tolist()
    g = torch.Generator()
    g.manual_seed(seed)
    case["randperm"] = torch.randperm(17, generator=g).tolist()
    case["randperms"] = []
    for n in (0, 1, 2, 1000, 70000):
        g.manual_seed(seed)
        case["randperms"].append([n, digest(torch.randperm(n, generator=g))])
    cases.append(case)
versions = {"numpy": np.__version__, "torch": torch.__version__}
pathlib.Path(__file__).with_name("streams.json").write_text(json.dumps({"versions": versions, "cases": cases}, separators=(",", ":")) + "\n")
