"""Writes the fixtures of package dataset. Run: python make.py"""

import datetime
import json
import pathlib
import tempfile

import datasets
import numpy
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, IterableDataset, interleave_datasets, load_dataset

HERE = pathlib.Path(__file__).parent


def rows(n, start=0):
    return Dataset.from_dict({"n": list(range(start, start + n))})


def stream(n, start=0):
    return rows(n, start).to_iterable_dataset()


def numbers(ds):
    return [r["n"] for r in ds]


def shuffles():
    out = [{"rows": n, "seed": s, "want": numbers(rows(n).shuffle(seed=s))} for n, s in ((1, 0), (17, 42), (50, 7), (64, 2**40))]
    for n, s, size in ((17, 42, 5), (30, 1, 8), (9, 3, 100), (12, 3, 1), (20, 9, 3)):
        out.append({"rows": n, "seed": s, "buffer": size, "want": numbers(stream(n).shuffle(seed=s, buffer_size=size))})
    return out


def splits():
    out = []
    for n, options in (
        (20, {}),
        (112, {"test_size": 0.1, "seed": 42}),
        (112, {"test_size": 0.1, "seed": 42, "shuffle": False}),
        (33, {"test_size": 5, "seed": 3}),
        (33, {"train_size": 0.5, "seed": 3}),
        (33, {"train_size": 7, "test_size": 0.2, "seed": 3}),
        (11, {"train_size": 0.3, "test_size": 0.3, "seed": 1}),
    ):
        options.setdefault("seed", 0)
        both = rows(n).train_test_split(**options)
        out.append({"rows": n, "options": options, "train": numbers(both["train"]), "test": numbers(both["test"])})
    return out


def interleaves():
    out = []
    for lengths in ((3, 4, 5), (5, 3, 4), (1, 9), (6,), (20, 7, 13)):
        for strategy in ("first_exhausted", "all_exhausted", "all_exhausted_without_replacement"):
            for p in (None, [1.0], [0.8, 0.2], [0.5, 0.3, 0.2]):
                if p is not None and len(p) != len(lengths):
                    continue
                for streaming in (False, True):
                    make = stream if streaming else rows
                    sets = [make(n, 100 * i) for i, n in enumerate(lengths)]
                    mixed = interleave_datasets(sets, probabilities=p, seed=11, stopping_strategy=strategy)
                    out.append({"lengths": lengths, "strategy": strategy, "p": p, "streaming": streaming, "want": numbers(mixed)})
    return out


TEXTS = ["a\nb\n\nc\n", "no end", "x\r\ny\rz\n\n\n\nlast\n\n", "\n\n\n", "para one\nstill\n\npara two\n\n\n\npara three ☃", "a\n\nb\n", "\n\na\n\n"]


def texts(folder):
    out = []
    for i, text in enumerate(TEXTS):
        path = folder / f"text{i}.txt"
        path.write_bytes(text.encode())
        for by in ("line", "paragraph", "document"):
            ds = load_dataset("text", data_files=str(path), sample_by=by, split="train", cache_dir=str(folder / "cache"))
            out.append({"text": text, "by": by, "want": list(ds["text"])})
    return out


CONFIGS = """---
license: mit
configs:
- config_name: en
  data_files:
  - split: train
    path: en/train-*
  - split: test
    path:
    - en/test-0.jsonl
    - en/more/*.jsonl
  default: true
- config_name: ja
  data_files: "ja/**"
- config_name: dir
  data_dir: sub
---
# Card
"""
IN_CONFIGS = ["en/train-1.jsonl", "en/train-0.jsonl", "en/test-0.jsonl", "en/more/x.jsonl", "ja/a/b.jsonl", "ja/c.jsonl", "sub/test.jsonl", "sub/train.jsonl"]
FOLDERS = [
    ("shards", ["data/train-00000-of-00002.jsonl", "data/train-00001-of-00002.jsonl", "data/test-00000-of-00001.jsonl", "other.jsonl"], "", None),
    ("files named after splits", ["train.jsonl", "dev_2.jsonl", "my-test.jsonl", "notes.jsonl", "config.json", ".hidden.jsonl"], "", None),
    ("folders named after splits", ["training/a.jsonl", "training/b/c.jsonl", "eval/x.jsonl", "train.jsonl"], "", None),
    ("no splits", ["b.jsonl", "a.jsonl", "deep/c.jsonl", "trainers.jsonl"], "", None),
    ("two formats", ["a.jsonl", "b.jsonl", "c.csv"], "", None),
    ("configurations", IN_CONFIGS, CONFIGS, None),
    ("configurations, named", IN_CONFIGS, CONFIGS, "ja"),
    ("configurations, folder", IN_CONFIGS, CONFIGS, "dir"),
]


def folders(folder):
    out = []
    for name, files, readme, config in FOLDERS:
        root = folder / name.replace(" ", "_")
        for f in files:
            (root / f).parent.mkdir(parents=True, exist_ok=True)
            (root / f).write_text("file\n" + f + "\n" if f.endswith(".csv") else json.dumps({"file": f}) + "\n")
        if readme:
            (root / "README.md").write_text(readme)
        found = load_dataset(str(root), name=config, cache_dir=str(folder / "cache"))
        out.append({"name": name, "files": files, "readme": readme, "config": config, "want": {s: list(d["file"]) for s, d in found.items()}})
    return out


def fields(folder):
    out = []
    for i, (field, value) in enumerate(
        (
            ("data", {"version": "1", "data": [{"text": "a ☃", "n": 1}, {"text": "b", "n": None}], "more": {"data": 3}}),
            ("rows", {"rows": {"text": ["x", "y", "z"], "ids": [[1, 2], [], [3]]}}),
            ("messages", {"messages": [{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}]}),
        )
    ):
        path = folder / f"field{i}.json"
        path.write_text(json.dumps(value, ensure_ascii=False))
        found = load_dataset("json", data_files=str(path), field=field, split="train", cache_dir=str(folder / "cache"))
        out.append({"text": path.read_text(), "field": field, "want": found.to_list()})
    return out


CSVS = [
    "n,x,flag,text\n1,1.5,True,a\n-2,2e3,FALSE,007b\n+3,.5,true,\n",
    "n,flag,none,word\n1,True,,x\n,NA,null,NA\n3,False,n/a,None\n",
    "zero,space,big,inf\n007, 5,9223372036854775807,inf\n008,6 ,-9223372036854775808,-Infinity\n",
    "text,mixed,hex,under\n1 a,1,0x1f,1_000\n2,b,12,5\n",
    'quoted,long\n"12",1e400\n"13",1e-400\n',
]


def csvs(folder):
    out = []
    for i, text in enumerate(CSVS):
        path = folder / f"types{i}.csv"
        path.write_text(text)
        rows = load_dataset("csv", data_files=str(path), split="train", cache_dir=str(folder / "cache")).to_list()
        # JSON has no infinities, and not all readers tell 1 from 1.0
        out.append({"text": text, "want": [{k: [type(v).__name__, str(v)] for k, v in r.items()} for r in rows]})
    return out


def parquet():
    call = pa.struct([("name", pa.string()), ("arguments", pa.struct([("zone", pa.string()), ("area", pa.float64())]))])
    message = pa.struct([("role", pa.string()), ("content", pa.string()), ("tool_calls", pa.list_(call))])
    schema = pa.schema(
        [
            ("messages", pa.list_(message)),
            ("tools", pa.list_(pa.struct([("z", pa.int32()), ("a", pa.list_(pa.string()))]))),
            ("text", pa.large_string()),
            ("input_ids", pa.list_(pa.int32())),
            ("nested", pa.list_(pa.list_(pa.list_(pa.int64())))),
            ("info", pa.struct([("source", pa.string()), ("tags", pa.list_(pa.struct([("k", pa.string()), ("v", pa.list_(pa.bool_()))])))])),
            ("score", pa.float32()),
            ("flag", pa.bool_()),
            ("big", pa.uint32()),
            ("when", pa.timestamp("ms")),
            ("day", pa.date32()),
            ("raw", pa.binary()),
        ]
    )
    rng = numpy.random.default_rng(5)
    table = []
    for i in range(120):
        pick = lambda *choices: choices[int(rng.integers(len(choices)))]
        calls = pick(None, [], [{"name": "f<&>", "arguments": {"zone": "x", "area": 2.0}}, {"name": None, "arguments": None}])
        table.append(
            {
                "messages": [{"role": "user", "content": f"Q{i} ☃", "tool_calls": None}, {"role": "assistant", "content": pick("A", None), "tool_calls": calls}][: 1 + i % 2],
                "tools": pick(None, [], [{"z": i, "a": ["p", None]}, {"z": None, "a": []}]),
                "text": pick("", None, "t" * (i % 50)),
                "input_ids": pick(None, [], list(range(i % 7))),
                "nested": pick(None, [], [[]], [None, [[1], None, []]], [[[1, None, 3], [4]], [[5]]]),
                "info": pick(None, {"source": None, "tags": None}, {"source": "s", "tags": [{"k": "a", "v": [True, None]}, None, {"k": None, "v": []}]}),
                "score": pick(None, 0.5, -2.0),
                "flag": pick(None, True, False),
                "big": pick(None, 2**32 - 1, 7),
                "when": pick(None, datetime.datetime(2026, 1, 2, 3, 4, 5)),
                "day": pick(None, datetime.date(2025, 12, 31)),
                "raw": pick(None, b"\x00\xff"),
            }
        )
    path = HERE / "rows.parquet"
    pq.write_table(pa.Table.from_pylist(table, schema=schema), path, row_group_size=50, data_page_size=256, write_batch_size=16, compression="zstd")
    columns = pa.Table.from_pylist(table, schema=schema)
    columns = columns.append_column("fixed", pa.array([None if i % 5 == 0 else [i, None] for i in range(len(table))], pa.list_(pa.int16(), 2)))
    columns = columns.append_column("large", pa.array([None if i % 7 == 0 else ["x" * (i % 3)] for i in range(len(table))], pa.large_list(pa.large_string())))
    columns = columns.append_column("never", pa.nulls(len(table)))
    with pa.OSFile(str(HERE / "rows.arrow"), "wb") as f, pa.ipc.new_stream(f, columns.schema) as stream:
        for batch in columns.to_batches(max_chunksize=50):
            stream.write_batch(batch)
    added = [{"fixed": r["fixed"], "large": r["large"], "never": None} for r in columns.select(["fixed", "large"]).to_pylist()]
    (HERE / "added.json").write_text(json.dumps(added, separators=(",", ":")) + "\n")
    read = Dataset.from_parquet(str(path), cache_dir=tempfile.mkdtemp()).to_list()
    for r in read:
        r["when"] = r["when"] and r["when"].isoformat() + "Z"
        r["day"] = r["day"] and r["day"].isoformat() + "T00:00:00Z"
        r["raw"] = r["raw"] and list(r["raw"])
    (HERE / "rows.json").write_text(json.dumps(read, separators=(",", ":"), ensure_ascii=False) + "\n")


parquet()
with tempfile.TemporaryDirectory() as folder:
    folder = pathlib.Path(folder)
    fixture = {
        "versions": {m.__name__: m.__version__ for m in (datasets, numpy, pa)},
        "shuffles": shuffles(),
        "splits": splits(),
        "interleaves": interleaves(),
        "texts": texts(folder),
        "folders": folders(folder),
        "fields": fields(folder),
        "csvs": csvs(folder),
    }
(HERE / "datasets.json").write_text(json.dumps(fixture, separators=(",", ":"), ensure_ascii=False) + "\n")
