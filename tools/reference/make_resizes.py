"""Writes tests/golden/resizes.json: what evaluators' own code makes of pictures before their networks see them.

    python tools/reference/make_resizes.py [FILE]     from the repository; needs torch, torchvision, pillow, clean-fid, torch-fidelity

For each picture (made by formula, see `picture`) and each protocol: the SHA-256 of the network's input [299,299,3] as little-endian
float32, and some of its values. pytorch-fid's interpolation is not defined to the bit (its sums may be fused), so it has values alone.
"""
import hashlib
import json
import sys

import numpy as np
import torch
import torch.nn.functional as F
from cleanfid.resize import build_resizer
from PIL import Image
from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x
from torchvision.transforms import functional as T

import weights as W

SIDE = 299
PICTURES = [
    ("noise", 17, 31), ("noise", 299, 299), ("noise", 500, 333), ("noise", 1, 1), ("noise", 64, 64), ("noise", 301, 7),
    ("gray", 40, 23), ("black", 50, 60), ("white", 13, 8), ("checkers", 32, 32), ("checkers", 640, 400),
]


def picture(kind, width, height):
    """[height,width,3] of bytes."""
    shape = (height, width, 3)
    if kind == "noise":
        return (W.uniform01(f"picture{width}x{height}", width * height * 3) * 256).astype(np.uint8).reshape(shape)
    if kind == "gray":
        gray = (W.uniform01(f"picture{width}x{height}", width * height) * 256).astype(np.uint8)
        return np.repeat(gray.reshape(height, width, 1), 3, 2)
    y, x, _ = np.indices(shape)
    return {"black": np.zeros(shape), "white": np.full(shape, 255), "checkers": (x + y) % 2 * 255}[kind].astype(np.uint8)


def t2i(p):
    x = T.to_tensor(Image.fromarray(p).resize((SIDE, SIDE), Image.BILINEAR))
    lines = [(0.229, 0.485), (0.224, 0.456), (0.225, 0.406)]
    return torch.stack([x[i] * (d / 0.5) + (m - 0.5) / 0.5 for i, (d, m) in enumerate(lines)], 2)


def pytorch_fid(p):
    x = F.interpolate(T.to_tensor(p)[None], size=(SIDE, SIDE), mode="bilinear", align_corners=False)
    return (2 * x - 1)[0].permute(1, 2, 0)


def clean(p):
    return (torch.from_numpy(build_resizer("clean")(p)) - 128) / 128


def torch_fidelity(p):
    x = torch.from_numpy(p).permute(2, 0, 1)[None].float()
    x = interpolate_bilinear_2d_like_tensorflow1x(x, size=(SIDE, SIDE), align_corners=False)
    return ((x - 128) / 128)[0].permute(1, 2, 0)


if __name__ == "__main__":
    rows = []
    for kind, width, height in PICTURES:
        p = picture(kind, width, height)
        for protocol in (t2i, pytorch_fid, clean, torch_fidelity):
            x = protocol(p).contiguous().numpy().astype("<f4")
            assert x.shape == (SIDE, SIDE, 3), x.shape
            at = (W.uniform01("resized", 24) * x.size).astype(int)
            row = {"picture": kind, "width": width, "height": height, "protocol": protocol.__name__.replace("_", "-")}
            row |= {"at": at.tolist(), "values": [float(v) for v in x.flatten()[at]]}
            if protocol is not pytorch_fid:
                row["sha256"] = hashlib.sha256(x.tobytes()).hexdigest()
            rows.append(row)
    file = sys.argv[1] if len(sys.argv) > 1 else "tests/golden/resizes.json"
    with open(file, "w") as f:
        f.write("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n")
    print(f"{file}: {len(rows)} rows")
