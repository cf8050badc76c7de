"""cuDNN's seconds for the largest convolutions of benches/conv-shapes.csv, a line of JSON a pass as they come.

    cudnn.py CSV [--device cuda:0] [--count N] [--batch N] [--seconds N]

Cases and passes have the names of `engine bench`. Tensors are channels_last; cuDNN chooses its algorithm by timing
(torch.backends.cudnn.benchmark). The layers come in the order of their arithmetic in a step, `--count` of them, and no
layer is begun after `--seconds`.
"""
import argparse
import json
import statistics
import time
from pathlib import Path

import torch
import torch.nn.functional as F

from product import seconds

FIELDS = ("system,network,op,cin,cout,kh,kw,stride,pad_h,pad_w,h,w,layers,forward_uses,input_gradient_uses,"
          "weight_gradient_uses,layer").split(",")


class Layer:
    def __init__(self, line, batch):
        row = dict(zip(FIELDS, line.split(",")))
        for name in FIELDS[3:16]:
            setattr(self, name, int(row[name]))
        self.frozen = row["network"] in ("inception", "resnet")
        self.op, self.batch = row["op"] + "_frozen" * (self.frozen and row["op"] == "conv2d"), batch or (12 if row["system"] == "mirrorgan" else 20)
        up = 2 if self.op == "upsample2x_conv3x3" else 1
        side = lambda size, window, pad: (up * size + 2 * pad - window) // self.stride + 1
        pixels = side(self.h, self.kh, self.pad_h) * side(self.w, self.kw, self.pad_w)
        self.flops = 2 * self.batch * pixels * self.cout * self.cin * self.kh * self.kw
        self.uses = {"forward": self.forward_uses, "input gradient": self.input_gradient_uses,
                     "weight gradient": self.weight_gradient_uses}
        self.work = self.flops * self.layers * sum(self.uses.values())
        self.name = (f"{self.op} {row['network']} {row['layer']} {self.kh}x{self.kw}/{self.stride} {self.cin}>{self.cout} "
                     f"at {self.h}x{self.w} batch {self.batch}")

    def passes(self, device, dtype, memory_format=torch.channels_last):
        """Name and function of each pass that a step uses."""
        last = dict(device=device, dtype=dtype, memory_format=memory_format)
        draw = lambda *shape: torch.rand(*shape).sub_(0.5).to(**last)
        x, w = draw(self.batch, self.cin, self.h, self.w), draw(self.cout, self.cin, self.kh, self.kw)
        up = (lambda x: F.interpolate(x, scale_factor=2)) if self.op == "upsample2x_conv3x3" else (lambda x: x)
        forward = lambda x, w: F.conv2d(up(x), w, None, self.stride, (self.pad_h, self.pad_w))
        dy = torch.rand_like(forward(x, w))
        x_leaf, w_leaf = x.clone().requires_grad_(), w.clone().requires_grad_()
        y_of_x, y_of_w = forward(x_leaf, w), forward(x, w_leaf)
        all_passes = {
            "forward": lambda: forward(x, w),
            "input gradient": lambda: torch.autograd.grad(y_of_x, x_leaf, dy, retain_graph=True),
            "weight gradient": lambda: torch.autograd.grad(y_of_w, w_leaf, dy, retain_graph=True),
        }
        return [(name, run) for name, run in all_passes.items() if self.uses[name]]


def layers_of(csv, batch):
    """All convolutions of the list, those with the most arithmetic in a step first."""
    lines = [l for l in csv.read_text().splitlines() if l and not l.startswith(("#", "system,"))]
    layers = [l for l in (Layer(line, batch) for line in lines) if l.op != "linear"]
    return sorted(layers, key=lambda l: -l.work)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("csv", type=Path)
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--count", type=int, default=32)
    parser.add_argument("--batch", type=int, help="of every layer, in place of the published ones")
    parser.add_argument("--seconds", type=float, default=60)
    args = parser.parse_args()
    until, device = time.monotonic() + args.seconds, torch.device(args.device)
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = True
    for layer in layers_of(args.csv, args.batch)[:args.count]:
        for precision, dtype in (("tf32", torch.float32), ("bf16", torch.bfloat16)):
            if time.monotonic() > until:
                return
            row = {"case": layer.name, "precision": precision}
            try:
                for name, run in layer.passes(device, dtype):
                    once = max(seconds(device, run, 1), seconds(device, run, 1), 1e-6)
                    repeats = max(1, min(50, round(5e-3 / once)))
                    took = statistics.median(seconds(device, run, repeats) for _ in range(5))
                    print(json.dumps(row | {"pass": name, "seconds": took, "gflop_per_second": layer.flops / took / 1e9}), flush=True)
            except torch.OutOfMemoryError as error:
                print(json.dumps(row | {"left_out": str(error).splitlines()[0]}), flush=True)


if __name__ == "__main__":
    main()
