"""Writes tests/fixtures/pth/*: state dicts as PyTorch saves them, in both of its formats, for tests/pth.rs.

    python tools/reference/make_pth_fixtures.py [OUT_DIR]      from the repository; needs torch, numpy, safetensors

Each NAME.pth has its tensors beside it as NAME.safetensors, contiguous and as float32 or int64.
"""
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy
import torch
from safetensors.torch import save_file


def numbers(*shape):
    count = 1
    for side in shape:
        count *= side
    return (torch.arange(count, dtype=torch.float32) * 0.25 - 1).reshape(shape)


class Network(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(2, 3, 3)
        self.bn = torch.nn.BatchNorm2d(3)
        self.rnn = torch.nn.LSTM(3, 2, bidirectional=True)


def arranged():
    whole = numbers(4, 6)
    return OrderedDict(
        whole=whole, transposed=whole.t(), row=whole[1], column=whole[:, 2], part=whole[1:3, 2:5], expanded=numbers(3, 1).expand(3, 4),
        zero_d=torch.tensor(2.5), empty=torch.zeros(0, 3), shared=whole,
        half=numbers(5).half(), bfloat16=numbers(5).bfloat16(), double=numbers(5).double(),
        int64=torch.arange(-2, 3), int32=torch.arange(-2, 3, dtype=torch.int32), int16=torch.arange(-2, 3, dtype=torch.int16),
        int8=torch.arange(-2, 3, dtype=torch.int8), uint8=torch.arange(250, 255, dtype=torch.uint8), bool=torch.tensor([True, False, True]),
    )


def with_zip64(whole, out):
    """The same entries with 64-bit sizes, as for those of more than 4 GiB."""
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(out, "w") as target:
        for name in source.namelist():
            with target.open(zipfile.ZipInfo(name), "w", force_zip64=True) as entry:
                entry.write(source.read(name))


def main():
    out = Path(sys.argv[1] if len(sys.argv) > 1 else "tests/fixtures/pth")
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    network = Network().state_dict()
    parameters = OrderedDict((k, torch.nn.Parameter(v) if v.is_floating_point() else v) for k, v in network.items())
    parallel = OrderedDict(("module." + k, v) for k, v in network.items())
    for name, saved, tensors in (
        ("network", network, network),
        ("parameters", parameters, network),
        ("parallel", parallel, network),
        ("wrapped", {"epoch": 600, "netG": network, "loss": [1.5, None]}, network),
        ("arranged", arranged(), arranged()),
    ):
        plain = {k: v.detach().float() if v.is_floating_point() else v.long() for k, v in tensors.items()}
        save_file({k: v.clone().contiguous() for k, v in plain.items()}, out / f"{name}.safetensors")
        torch.save(saved, out / f"{name}.pth")
        torch.save(saved, out / f"{name}_legacy.pth", _use_new_zipfile_serialization=False)
    torch.save({"a": network, "b": network}, out / "several.pth")
    torch.save(Network(), out / "model.pth")
    with_zip64(out / "network.pth", out / "network_zip64.pth")
    beside = {"names": numpy.array(["finch", None, 3], dtype=object), "loss": numpy.float32(1.5), "step": numpy.int64(5), "grid": numpy.eye(2)}
    torch.save({"netG": network, **beside}, out / "numpy.pth")


if __name__ == "__main__":
    main()
