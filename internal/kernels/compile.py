"""Compiles every *.cu beside this file to PTX with NVRTC; compile.sh calls it with the library's path.

The first line of each result records the SHA-256 of the source followed by all *.cuh; a test compares it.
"""

import ctypes
import hashlib
import os
import pathlib
import sys

here = pathlib.Path(__file__).parent
nvrtc = ctypes.CDLL(sys.argv[1])
nvrtc.nvrtcGetErrorString.restype = ctypes.c_char_p
OPTIONS = [b"--std=c++17", b"--include-path=" + os.fsencode(here)]


def check(code):
    if code:
        sys.exit(f"NVRTC: {nvrtc.nvrtcGetErrorString(code).decode()}")


def text_of(program, what):
    """what is "PTX" or "ProgramLog"."""
    size = ctypes.c_size_t()
    check(getattr(nvrtc, f"nvrtcGet{what}Size")(program, ctypes.byref(size)))
    text = ctypes.create_string_buffer(size.value)
    check(getattr(nvrtc, f"nvrtcGet{what}")(program, text))
    return text.value.decode()


def compile(source):
    program = ctypes.c_void_p()
    check(nvrtc.nvrtcCreateProgram(ctypes.byref(program), source.read_bytes(), source.name.encode(), 0, None, None))
    capability = b"89" if source.name.startswith("fp8_") else b"80"
    options = [b"--gpu-architecture=compute_" + capability, *OPTIONS]
    code = nvrtc.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
    log = text_of(program, "ProgramLog").strip()
    if log:
        print(log, file=sys.stderr)
    check(code)
    ptx = text_of(program, "PTX")
    check(nvrtc.nvrtcDestroyProgram(ctypes.byref(program)))
    return ptx


def shortened(ptx):
    """Without comments and blank lines: the text travels with every program that uses the kernel."""
    lines = [line.split("//")[0].rstrip() for line in ptx.splitlines()]
    return "".join(line + "\n" for line in lines if line)


for source in sorted(here.glob("*.cu")):
    sha = hashlib.sha256(source.read_bytes())
    for part in sorted(here.glob("*.cuh")):
        sha.update(part.read_bytes())
    result = source.with_suffix(".ptx")
    temporary = result.with_suffix(".tmp")
    temporary.write_text(f"// {source.name} {sha.hexdigest()}\n{shortened(compile(source))}")
    temporary.replace(result)
    print(f"{result.name}: {result.stat().st_size} bytes", file=sys.stderr)
