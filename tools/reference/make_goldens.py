"""Writes tests/golden/*.safetensors: what the systems compute on formula weights and formula inputs.

    python tools/reference/make_goldens.py [OUT_DIR]     from the repository; needs torch, torchvision, numpy, safetensors

All of it is computed in float64 (weights and inputs are the float32 values of the formula) and stored rounded to float32, so
a golden is more exact than what it judges. A tensor `x` is stored whole, or, where large, as a digest: `x.norm` (f64), `x.mean` (f64),
`x.at` (i64 flat C-order indices) and `x.values` (f32 at those indices).
Every input named 'in.NAME' is also weights.tensor('NAME', ...) or weights.normal('NAME', ...); it is stored for convenience
where small.
"""
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

import losses as L
import models as R
import shapes as S
import weights as W

OUT = Path(sys.argv[1] if len(sys.argv) > 1 else "tests/golden")
LENGTHS = [18, 11, 7, 5]
CLASSES = torch.tensor([0, 1, 1, 2])


def exact(array):
    t = torch.from_numpy(array)
    return t.double() if t.dtype == torch.float32 else t


def params(prefix, shapes, grad=False):
    p = {k: exact(W.fill(prefix, k, v)) for k, v in shapes.items()}
    if grad:
        for k, v in p.items():
            v.requires_grad_(v.dtype == torch.float64 and "running" not in k)
    return p


def trunk(prefix, module, strip=""):
    module.load_state_dict({k: exact(W.fill(prefix, strip + k, tuple(v.shape))) for k, v in module.state_dict().items()})
    for q in module.parameters():
        q.requires_grad_(False)
    return module


def captions(n_words, lengths=LENGTHS, width=18):
    ids = torch.zeros(len(lengths), width, dtype=torch.long)
    for i, n in enumerate(lengths):
        ids[i, :n] = torch.from_numpy((W.uniform01(f"caption{i}", n) * (n_words - 1) + 1).astype(np.int64))
    return ids


def inp(name, shape, grad=False, normal=False):
    t = exact((W.normal if normal else W.tensor)(name, shape))
    return t.requires_grad_() if grad else t


class Golden(dict):
    def put(self, name, t, limit=4096):
        t = t.detach().contiguous()
        if t.dtype != torch.float64:
            self[name] = t.clone()
            return
        if t.numel() <= limit:
            self[name] = t.float()
            return
        flat = t.flatten()
        at = torch.from_numpy((W.uniform01(name, 512) * t.numel()).astype(np.int64))
        self[f"{name}.norm"], self[f"{name}.mean"] = flat.norm().reshape(1), flat.mean().reshape(1)
        self[f"{name}.at"], self[f"{name}.values"] = at, flat[at].float()

    def grads(self, prefix, p):
        for k, v in p.items():
            if v.requires_grad and v.grad is not None:
                self.put(f"grad.{prefix}/{k}", v.grad, 64)

    def save(self, name):
        OUT.mkdir(parents=True, exist_ok=True)
        save_file(dict(self), OUT / f"{name}.safetensors")
        print(f"{name}: {len(self)} tensors, {(OUT / f'{name}.safetensors').stat().st_size / 1024:.0f} KiB")


def probe(g, name, t):
    """A scalar that touches every element of t with its own weight."""
    return (t * exact(W.tensor(f"probe.{name}", tuple(t.shape)))).sum()


def text_encoder(kind, gates, n_words=5450):
    g, p = Golden(), params("text_encoder", S.text_encoder(n_words, gates=gates), True)
    ids = captions(n_words)
    words, sentence = R.rnn_encoder(R.Net(p), ids, LENGTHS, kind)
    (probe(g, "words", words) + probe(g, "sentence", sentence)).backward()
    g["in.captions"], g["in.lengths"] = ids, torch.tensor(LENGTHS)
    g.put("words", words, 1 << 20), g.put("sentence", sentence), g.grads("text_encoder", p)
    g.save(f"text_encoder_{kind.lower()}")


def generator(name, train, gf, nef, batch, **kw):
    g, p = Golden(), params("netG", S.generator(gf, nef, **kw), True)
    stats = {}
    z, eps = inp("z", (batch, 100), normal=True), inp("eps", (batch, 100), normal=True)
    sentence, words = inp("sentence", (batch, nef), True), inp("words", (batch, nef, 18), True)
    mask = captions(100)[:batch] == 0
    images, maps, mu, logvar = R.generator(R.Net(p, train, stats), z, sentence, words, mask, eps)
    loss = sum(probe(g, f"image{i}", x) for i, x in enumerate(images)) + L.kl_loss(mu, logvar)
    loss.backward()
    for i, x in enumerate(images):
        g.put(f"image{i}", x, 16384)
    for i, x in enumerate(maps):
        g.put(f"attention{i}", x)
    g["mask"] = mask
    g.put("mu", mu), g.put("logvar", logvar), g.put("loss", loss.reshape(1))
    g.put("grad.in.sentence", sentence.grad), g.put("grad.in.words", words.grad), g.grads("netG", p)
    for k, v in stats.items():
        g.put(f"stats.netG/{k}", v, 64)
    g.save(f"generator_{name}_{'train' if train else 'eval'}")


def discriminators(df, nef, batch, tag):
    for i in range(3):
        g, p = Golden(), params(f"netD{i}", S.discriminator(i, df, nef), True)
        side = 64 << i
        real, fake, sentence = inp(f"real{i}", (batch, 3, side, side)), inp(f"fake{i}", (batch, 3, side, side), True), inp("sentence", (batch, nef))
        stats = {}
        loss = L.discriminator_loss(R.Net(p, True, stats), real, fake, sentence)
        loss.backward()
        g.put("loss_d", loss.reshape(1)), g.grads(f"netD{i}", p)
        for k, v in stats.items():  # after all the passes of one D step, in the order of discriminator_loss
            g.put(f"stats.netD{i}/{k}", v, 64)
        fake.grad = None
        adv = L.adversarial_loss(R.Net(p, True), fake, sentence)
        adv.backward()
        g.put("loss_g", adv.reshape(1)), g.put("grad.in.fake", fake.grad)
        g.save(f"discriminator{i}_{tag}")


def image_encoder(nef=256):
    g, p = Golden(), params("image_encoder", S.image_encoder_heads(nef), True)
    module = trunk("image_encoder", R.inception_module())
    x = inp("image256", (1, 3, 256, 256), True)
    regions, code = R.image_encoder(R.Net(p), module, x)
    (probe(g, "regions", regions) + probe(g, "code", code)).backward()
    g.put("regions", regions), g.put("code", code), g.put("grad.in.image256", x.grad), g.grads("image_encoder", p)
    g.save("image_encoder")


def stream(n_words=5450, embed=256, hidden=512):
    g = Golden()
    p, q = params("caption_cnn", S.caption_cnn_heads(embed), True), params("caption_rnn", S.caption_rnn(n_words, embed, hidden), True)
    module = trunk("caption_cnn", R.resnet_module(), "resnet.")
    x = inp("image256", (1, 3, 256, 256), True)
    feature = R.caption_cnn(R.Net(p), module, x)
    g.put("feature", feature)
    ids = captions(n_words)
    f4 = inp("feature4", (4, embed), True)
    g.put("logits", R.caption_logits(R.Net(q), f4, ids))
    loss = R.caption_loss(R.Net(q), f4, ids, torch.tensor(LENGTHS))
    loss.backward()
    g["in.captions"], g["in.lengths"] = ids, torch.tensor(LENGTHS)
    g.put("loss", loss.reshape(1)), g.put("grad.in.feature4", f4.grad), g.grads("caption_rnn", q)
    g["greedy"] = R.caption_greedy(R.Net(q), f4)
    R.caption_loss(R.Net(q), feature, ids[:1], torch.tensor(LENGTHS[:1])).backward()
    g.put("grad.in.image256", x.grad)
    g.save("stream")


def matching(nef=256):
    g = Golden()
    regions, words = inp("regions", (4, nef, 17, 17), True), inp("words", (4, nef, 18), True)
    code, sentence = inp("code", (4, nef), True), inp("sentence", (4, nef), True)
    g.put("word_scores", L.word_scores(words, LENGTHS, regions.flatten(2), 4.0, 5.0))
    g.put("sentence_scores", L.sentence_scores(code, sentence))
    (w0, w1), (s0, s1) = L.damsm_loss(regions, code, words, sentence, LENGTHS, CLASSES)
    (w0 + w1 + s0 + s1).backward()
    g["in.lengths"], g["in.classes"] = torch.tensor(LENGTHS), CLASSES
    for name, v in (("w0", w0), ("w1", w1), ("s0", s0), ("s1", s1)):
        g.put(name, v.reshape(1))
    for name, v in (("regions", regions), ("words", words), ("code", code), ("sentence", sentence)):
        g.put(f"grad.in.{name}", v.grad)
    g.save("damsm_loss")


def gan_step(name, sentence_attention, gf=8, df=8, nef=32, batch=4, iterations=5):
    """GAN iterations on small networks: D0, D1, D2, then G, each with Adam(2e-4, (0.5, 0.999)).

    MirrorGAN: + 20 * caption loss (through a 32-wide stand-in for the captioner's trunk: the mean of image2 over an
    8x8 grid of cells, 3*8*8 -> 32 by `pool.weight`, no nonlinearity). AttnGAN: + 5 * the four DAMSM terms (the same
    grid flattened as 64 regions of 3 -> nef by `region.weight`; code = their mean). Real images, sentences and words
    are the same in each iteration; noise of iteration k is 'z{k}', 'eps{k}'. Gradients of G and parameters after the
    step are those of the first iteration; `loss_*` hold all iterations."""
    g, losses = Golden(), {}
    netG = params("netG", S.generator(gf, nef, sentence_attention=sentence_attention), True)
    netD = [params(f"netD{i}", S.discriminator(i, df, nef), True) for i in range(3)]
    sentence, words = inp("sentence", (batch, nef)), inp("words", (batch, nef, 18))
    real = [inp(f"real{i}", (batch, 3, 64 << i, 64 << i)) for i in range(3)]
    ids = captions(100)
    adam = lambda p: torch.optim.Adam([v for v in p.values() if v.requires_grad], 2e-4, (0.5, 0.999))
    optG, optD = adam(netG), [adam(p) for p in netD]

    def note(key, value):
        losses.setdefault(key, []).append(value.item())
        return value

    for k in range(iterations):
        for v in netG.values():
            v.grad = None
        z, eps = inp(f"z{k}", (batch, 100), normal=True), inp(f"eps{k}", (batch, 100), normal=True)
        images, _, mu, logvar = R.generator(R.Net(netG, True), z, sentence, words, ids == 0, eps)
        for i in range(3):
            note(f"loss_d{i}", L.discriminator_loss(R.Net(netD[i], True), real[i], images[i].detach(), sentence)).backward()
            optD[i].step()
            for v in netD[i].values():
                v.grad = None
        total = note("loss_kl", L.kl_loss(mu, logvar))
        for i in range(3):
            total = total + note(f"loss_g{i}", L.adversarial_loss(R.Net(netD[i], True), images[i], sentence))
        grid = torch.nn.functional.adaptive_avg_pool2d(images[2], 8)
        if sentence_attention:
            q = params("caption_rnn", S.caption_rnn(100, 32, 64))
            feature = grid.flatten(1) @ exact(W.fill("standin", "pool.weight", (32, 192))).t()
            extra = 20.0 * R.caption_loss(R.Net(q), feature, ids, torch.tensor(LENGTHS))
        else:
            regions = torch.einsum("dc,bchw->bdhw", exact(W.fill("standin", "region.weight", (nef, 3))), grid)
            (w0, w1), (s0, s1) = L.damsm_loss(regions, regions.mean((2, 3)), words, sentence, LENGTHS, CLASSES)
            extra = 5.0 * (w0 + w1 + s0 + s1)
        (total + note("loss_semantic", extra)).backward()
        if k == 0:
            g.grads("netG", netG)
        for p in netD:
            for v in p.values():
                v.grad = None
        optG.step()
        if k == 0:
            for prefix, p in [("netG", netG)] + [(f"netD{i}", p) for i, p in enumerate(netD)]:
                for key, v in p.items():
                    if v.requires_grad:
                        g.put(f"after.{prefix}/{key}", v, 64)
    for key, values in losses.items():
        g[key] = torch.tensor(values).float()
    g.save(f"gan_step_{name}")


if __name__ == "__main__":
    torch.set_default_dtype(torch.float64)
    text_encoder("LSTM", 4), text_encoder("GRU", 3)
    for train in (True, False):
        generator("mirror_small", train, 8, 32, 4)
        generator("attn_small", train, 8, 32, 4, sentence_attention=False)
        generator("dcgan_small", train, 8, 32, 4, sentence_attention=False, dcgan=True)
        generator("mirror_cub", train, 32, 256, 2)
    discriminators(8, 32, 4, "small"), discriminators(64, 256, 2, "cub")
    image_encoder(), stream(), matching()
    gan_step("mirror", True), gan_step("attn", False)
