"""Writes events.json: events as TensorBoard's own protobuf classes and record writer write them. Run:
python events.py, with tensorboard installed."""

import base64
import io
import json
import pathlib

import tensorboard
from tensorboard.compat.proto import event_pb2, summary_pb2, tensor_pb2, tensor_shape_pb2, types_pb2
from tensorboard.summary.writer.record_writer import RecordWriter


def record(event):
    out = io.BytesIO()
    RecordWriter(out).write(event.SerializeToString())
    return base64.b64encode(out.getvalue()).decode()


def scalar(tag, value):
    return summary_pb2.Summary.Value(tag=tag, simple_value=value)


text = summary_pb2.Summary.Value(
    tag="args/text_summary",
    tensor=tensor_pb2.TensorProto(
        dtype=types_pb2.DT_STRING,
        tensor_shape=tensor_shape_pb2.TensorShapeProto(dim=[tensor_shape_pb2.TensorShapeProto.Dim(size=1)]),
        string_val=["größer".encode()],
    ),
    metadata=summary_pb2.SummaryMetadata(plugin_data=summary_pb2.SummaryMetadata.PluginData(plugin_name="text")),
)
EVENTS = {
    "version": event_pb2.Event(wall_time=1.5, step=0, file_version="brain.Event:2"),
    "scalars": event_pb2.Event(
        wall_time=1700000000.25,
        step=300,
        summary=summary_pb2.Summary(value=[scalar("train/loss", 2.3841999), scalar("train/learning_rate", 2e-5)]),
    ),
    "start": event_pb2.Event(wall_time=3, step=41, session_log=event_pb2.SessionLog(status=event_pb2.SessionLog.START)),
    "text": event_pb2.Event(wall_time=4, summary=summary_pb2.Summary(value=[text])),
}
fixture = {"versions": {"tensorboard": tensorboard.__version__}, "records": {n: record(e) for n, e in EVENTS.items()}}
path = pathlib.Path(__file__).with_name("events.json")
path.write_text(json.dumps(fixture, indent=1) + "\n")
