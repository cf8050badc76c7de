"""Milliseconds of a training step, from the times in TensorBoard's event files.

    steps.py NAME LOGS FROM TO PRECISION
    steps.py --bench FILE STEPS PRECISION

The losses of a step are read from the device before they are logged, so the time between two rows is that of the work.
One line of JSON for each phase that logged both steps. With --bench: from what the `step` bench printed.
"""
import json
import struct
import sys
from pathlib import Path


def records(data):
    at = 0
    while at + 12 <= len(data):
        size = struct.unpack_from("<Q", data, at)[0]
        yield data[at + 12:at + 12 + size]
        at += 16 + size


def varint(data, at):
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at


def event(data):
    """Time, step and the bytes of the summary."""
    at, time, step, summary = 0, None, None, b""
    while at < len(data):
        key, at = varint(data, at)
        if key & 7 == 0:
            value, at = varint(data, at)
            step = value if key >> 3 == 2 else step
        elif key & 7 == 1:
            time = struct.unpack_from("<d", data, at)[0] if key >> 3 == 1 else time
            at += 8
        else:
            size, at = varint(data, at)
            summary = data[at:at + size] if key >> 3 == 5 else summary
            at += size
    return time, step, summary


def row(phase, precision, seconds, steps):
    print(json.dumps({"phase": phase, "precision": precision, "ms": round(seconds * 1e3, 3), "steps": steps}))


def main():
    if sys.argv[1] == "--bench":
        seconds = json.loads(Path(sys.argv[2]).read_text())["seconds"]
        return row("bench step", sys.argv[4], sum(seconds) / len(seconds), int(sys.argv[3]))
    name, logs, begin, end, precision = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), sys.argv[5]
    for folder in sorted({file.parent for file in logs.rglob("events.out.tfevents.*")}):
        times = {}
        for file in sorted(folder.glob("events.out.tfevents.*")):
            for time, step, summary in map(event, records(file.read_bytes())):
                if step is not None and summary:
                    times.setdefault(step, time)
        if begin in times and end in times:
            row(f"{name} {folder.relative_to(logs)}", precision, (times[end] - times[begin]) / (end - begin), end - begin)


main()
