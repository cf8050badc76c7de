"""The most memory of the device that a program took, by cuMemGetInfo: memory.py [--seconds N] NAME COMMAND...

The driver is asked every few milliseconds from this process. What was in use before the program began is not counted;
the program's context, code and pools are. The program waits for its turns on standard input, as tools/compare's sides
do, and is given two. One line of JSON, with the last line of the program's own in it.
"""
import argparse
import ctypes
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time

EVERY = 0.005


class Device:
    def __init__(self):
        self.driver = ctypes.CDLL("libcuda.so.1")
        context = ctypes.c_void_p()
        self.call("cuInit", 0)
        self.call("cuDevicePrimaryCtxRetain", ctypes.byref(context), 0)
        self.call("cuCtxSetCurrent", context)

    def call(self, name, *arguments):
        error = getattr(self.driver, name)(*arguments)
        if error:
            sys.exit(f"{name}: error {error} of the driver")

    def used(self):
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self.call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        return total.value - free.value


def last_json(lines):
    rows = [line for line in lines if line.startswith("{")]
    return json.loads(rows[-1]) if rows else {}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("name")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    args = parser.parse_args()
    device = Device()
    before = peak = device.used()
    until, row = time.monotonic() + args.seconds, {"name": args.name}
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(args.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True,
                                   start_new_session=True)
        signal.signal(signal.SIGTERM, lambda *_: (os.killpg(process.pid, signal.SIGKILL), sys.exit("stopped")))
        said = []
        # All turns are asked for at once; the program ends when it has read them.
        talk = threading.Thread(target=lambda: said.extend(process.communicate("turn\nturn\n")[0].splitlines()))
        talk.start()
        while talk.is_alive() and time.monotonic() < until:
            peak = max(peak, device.used())
            time.sleep(EVERY)
        if talk.is_alive():
            row["left_out"] = f"not done after {args.seconds:.0f} s"
            os.killpg(process.pid, signal.SIGKILL)
        talk.join()
        errors.seek(0)
        if process.returncode and "left_out" not in row:
            row["left_out"] = (errors.read().strip().splitlines() or ["ended"])[-1][:300]
    if "left_out" not in row:
        row |= {"device_mb": (peak - before) / 2**20, "own": {k: v for k, v in last_json(said).items() if k.endswith("_mb")}}
    print(json.dumps(row))


main()
