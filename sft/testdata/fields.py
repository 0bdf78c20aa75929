"""Writes fields.json: the fields of TRL's SFTConfig with their defaults. Run: python fields.py"""

import dataclasses
import json
import pathlib

import transformers
import trl


def default(f):
    value = f.default if f.default is not dataclasses.MISSING else f.default_factory()
    return getattr(value, "value", value)


fields = {f.name: default(f) for f in dataclasses.fields(trl.SFTConfig)}
fixture = {"versions": {m.__name__: m.__version__ for m in (trl, transformers)}, "fields": fields}
path = pathlib.Path(__file__).with_name("fields.json")
path.write_text(json.dumps(fixture, indent=1) + "\n")
