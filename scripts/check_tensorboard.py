"""Reads event files with TensorBoard's own reader and compares them with the run's log.

    python check_tensorboard.py OUTPUT_DIR      # of a run with ReportTo "tensorboard", with tensorboard installed
"""

import json
import math
import pathlib
import sys

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

out = pathlib.Path(sys.argv[1])
history = json.loads((out / "trainer_state.json").read_text())["log_history"]
(folder,) = [p for p in (out / "runs").iterdir() if p.is_dir()]
events = EventAccumulator(str(folder), purge_orphaned_data=True).Reload()
compared = 0
for tag in events.Tags()["scalars"]:
    group, name = tag.split("/", 1)
    name = name if group == "train" else f"{group}_{name}"
    got = [(e.step, e.value) for e in events.Scalars(tag)]
    want = [(line["step"], line[name]) for line in history if name in line]
    if len(got) != len(want):
        sys.exit(f"{tag}: {len(got)} values, the log has {len(want)}: {got} {want}")
    for (step, value), (at, expected) in zip(got, want):
        if step != at or not math.isclose(value, expected, rel_tol=1e-6, abs_tol=1e-30):
            sys.exit(f"{tag}: {value} at step {step}, the log has {expected} at {at}")
        compared += 1
missing = {k if not k.startswith("eval_") else k for line in history for k in line} - {"step"} - {
    t.split("/", 1)[1] if t.startswith("train/") else "eval_" + t.split("/", 1)[1] for t in events.Tags()["scalars"]
}
if missing:
    sys.exit(f"not in the event files: {sorted(missing)}")
if "args/text_summary" not in events.Tags()["tensors"]:
    sys.exit("the settings are not there as text")
print(f"{compared} values of {len(events.Tags()['scalars'])} metrics are those of the log")
