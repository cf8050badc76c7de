#!/usr/bin/env python3
"""Writes tests/fixtures/metrics: what torch-fidelity and NumPy make of pseudo-random features, and statistics files as
pytorch-fid and clean-fid write them. Needs torch, torch-fidelity 0.4 and NumPy.

    python tools/reference/make_metrics.py
"""

import json
import pathlib

import numpy as np
import torch
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric

OUT = pathlib.Path(__file__).resolve().parents[2] / "tests/fixtures/metrics"
WIDTH = 48


def mixed(x):
    """A finalizer of 32 bits; tests/metrics.rs has the same."""
    x = np.asarray(x, dtype=np.uint64)
    mask = np.uint64(0xFFFFFFFF)
    x = ((x ^ (x >> np.uint64(16))) * np.uint64(0x7FEB352D)) & mask
    x = ((x ^ (x >> np.uint64(15))) * np.uint64(0x846CA68B)) & mask
    return x ^ (x >> np.uint64(16))


def features(seed, count, scale, shift):
    """Sums of four uniform numbers, nearly normal, as f32."""
    index = np.arange(count * WIDTH, dtype=np.uint64).reshape(count, WIDTH) * np.uint64(4)
    parts = [mixed(index + np.uint64(k) + np.uint64(seed << 24)) / 2.0**32 for k in range(4)]
    return ((parts[0] + parts[1] + parts[2] + parts[3] - 2.0) * scale + shift).astype(np.float32)


def main():
    x, y = features(1, 300, 2.0, 0.0), features(2, 260, 2.3, 0.1)
    tx, ty = torch.from_numpy(x).double(), torch.from_numpy(y).double()
    stats = [fid_features_to_statistics(t) for t in (tx, ty)]
    values = {
        "x[7,5],y[7,5]": [float(x[7, 5]), float(y[7, 5])],
        "fid": fid_statistics_to_metric(stats[0], stats[1], False),
        "kid_first260_1subset": kid_features_to_metric(
            tx[:260], ty, kid_subsets=1, kid_subset_size=260, verbose=False
        ),
        "prc_k3": prc_features_to_metric(tx, ty, prc_neighborhood=3, verbose=False),
        "prc_k5": prc_features_to_metric(tx, ty, prc_neighborhood=5, verbose=False),
        "isc_7splits_logits=2x": isc_features_to_metric(2 * tx, 7, False),
    }
    (OUT / "random.json").write_text(json.dumps(values, indent=1) + "\n")
    mean, covariance = x[:, :6].astype(np.float64).mean(0), np.cov(x[:, :6].astype(np.float64), rowvar=False)
    np.savez_compressed(OUT / "deflated.npz", mu=mean, sigma=covariance)
    np.savez(OUT / "stored_f32_fortran.npz", mu=mean.astype("f4"), sigma=np.asfortranarray(covariance.astype("f4")))
    np.savez(OUT / "other_members.npz", mean=mean, cov=covariance)


if __name__ == "__main__":
    main()
