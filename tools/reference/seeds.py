"""Finds inputs of a golden that lie away from the kinks of LeakyReLU.

    python tools/reference/seeds.py gan_step_mirror|discriminator2_cub FIRST LAST

For each seed: the largest relative difference of any gradient in float32 from float64, over a few runs whose images are
nudged by float32's own rounding. A seed is good where that is 1e-4 or less: the tests allow 1e-3.
"""
import sys

import torch

import make_goldens as M

RUNS, ROUNDING = 2, 2e-7


def computed(name, seed, dtype, nudge):
    M.DTYPE, M.SEEDS[name] = dtype, seed
    torch.set_default_dtype(dtype)
    if name == "gan_step_mirror":
        return M.gan_step(name, True, iterations=1, nudge=nudge)
    return M.discriminator(name, 2, 64, 256, 2, nudge)


def error(ours, exact):
    """Of the gradients, as tests/golden.rs judges them."""
    worst = (0.0, '')
    for key, right in exact.items():
        if not key.startswith("grad.") or key.endswith((".norm", ".mean", ".at")):
            continue
        scale = right.double().norm()
        if key.endswith(".values"):
            whole = key.removesuffix("values")
            scale = torch.maximum(scale, exact[whole + "norm"].squeeze() * (right.numel() / COUNTS[whole]) ** 0.5)
        floor = 1e-7 * right.numel() ** 0.5
        worst = max(worst, (((ours[key].double() - right.double()).norm() / scale.clamp(min=floor)).item(), key))
    return worst


COUNTS = {}


class Counted(M.Golden):
    def put(self, name, t, limit=4096):
        COUNTS[f"{name}."] = t.numel()
        super().put(name, t, limit)


def main(name, first, last):
    M.Golden = Counted
    for seed in range(int(first), int(last) + 1):
        exact = computed(name, seed, torch.float64, lambda image: image)
        worst = []
        for run in range(RUNS):
            noise = torch.Generator().manual_seed(run)
            nudge = lambda x: x + run * ROUNDING * torch.randn(x.shape, generator=noise)
            worst.append(error(computed(name, seed, torch.float32, nudge), exact))
        print(name, seed, " ".join(f"{w[0]:.1e} {w[1]}" for w in worst), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
