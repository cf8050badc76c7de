"""PyTorch's side of tools/compare: one way of running the step or the generator, warm and waiting for its turns.

    peer.py step|infer|inception_v3|resnet152|damsm|text_encoder|adam VARIANT [--device cuda:0] [--batch N] [--repeats N] [--widths GF,DF] [--outputs FILE]
    peer.py reference|ceilings|layers ..

A variant is a list of words: f32, tf32 or bf16 (autocast; for `infer` the weights themselves), and any of `last`
(channels_last), `fused` or `foreach` (one kernel for Adam, or one for all weights), `compile` (torch.compile), `frozen` (weights are constants of what is compiled),
`graph` (the whole in one CUDA graph). When
all is warm a line is printed; every line of standard input asks for a turn of so many repeats, answered by a line of
JSON; at its end follows the peak of memory. `reference` is the generator in f64, for the errors of the others; `layers` times convolutions one by one,
beside ncnn's too where it is installed.
"""
import argparse
import fcntl
import json
import statistics
import sys
import tempfile
import time
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

ROOT = Path(__file__).resolve().parent.parent.parent
CONVOLUTIONS = ROOT / "benches/conv-shapes.csv"
sys.path.append(str(ROOT / "tools/gpu_parts"))

import losses as L
import models as R
import shapes as S
import weights as W
from cudnn import layers_of
from product import seconds


# Of the text encoder's vocabulary.
WORDS = 5450


@contextmanager
def alone():
    """While algorithms are chosen by timing them, no other peer uses the device."""
    with open(Path(tempfile.gettempdir()) / "mirrorgan-engine-peers.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


class Frozen(torch.nn.Module):
    """`f(values, *inputs)` as a network whose parameters are the values."""

    def __init__(self, f, values):
        super().__init__()
        self.f, self.names = f, list(values)
        self.values = torch.nn.ParameterList(torch.nn.Parameter(v, requires_grad=False) for v in values.values())

    def forward(self, *inputs):
        return self.f(dict(zip(self.names, self.values)), *inputs)


class Work:
    """Weights and inputs by formula, as the engine's `step` bench has them."""

    def __init__(self, args, words):
        self.args, self.device, self.words = args, torch.device(args.device), words
        self.gpu = self.device.type == "cuda"
        self.place = torch.channels_last if "last" in words else torch.contiguous_format
        self.gf, self.df = args.widths
        self.batch = b = args.batch
        self.sentence, self.captions = self.tensor(W.tensor("sentence", (b, 256))), self.tensor(W.tensor("words", (b, 256, 18)))
        self.z, self.eps = self.tensor(W.normal("z", (b, 100))), self.tensor(W.normal("eps", (b, 100)))
        lengths = torch.tensor([(18, 11, 7, 5)[i % 4] for i in range(b)])
        self.mask = (torch.arange(18)[None] >= lengths[:, None]).to(self.device)
        self.g = self.params("netG", S.generator(self.gf))
        self.image, self.dtype = None, torch.float32

    def tensor(self, array):
        t = torch.from_numpy(array).to(self.device)
        return t.to(memory_format=self.place) if t.dim() == 4 else t

    def params(self, prefix, shapes):
        return {k: self.tensor(W.fill(prefix, k, v)) for k, v in shapes.items()}

    def compiled(self, f, values=None):
        """`f`, compiled if this variant is; `f(values, *inputs)` with its values frozen into it, if it is `frozen`."""
        if "frozen" in self.words and values is not None:
            torch._inductor.config.freezing = True
            module = torch.compile(Frozen(f, values).eval())
            return lambda _, *inputs: module(*inputs)
        return torch.compile(f) if "compile" in self.words else f

    def graphed(self, f):
        """`f` recorded once it is warm: later calls replay it."""
        if "graph" not in self.words:
            return f
        if not self.gpu:
            sys.exit("CUDA graphs need a GPU")
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                f()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            f()
        return graph.replay


def generator_alone(w):
    half = "bf16" in w.words
    cast = lambda t: t.bfloat16() if half and t.is_floating_point() else t
    g = {k: cast(v) for k, v in w.g.items()}
    inputs = [cast(t) for t in (w.z, w.sentence, w.captions)] + [w.mask, cast(w.eps)]
    paint = w.compiled(lambda g, *inputs: R.generator(R.Net(g), *inputs)[0], g)

    # Weights are frozen under no_grad alone.
    @(torch.no_grad if "frozen" in w.words else torch.inference_mode)()
    def run():
        images = paint(g, *inputs)
        if w.image is None:
            w.image = images[2]

    return run


def step(w):
    args = w.args
    d = [w.params(f"netD{i}", S.discriminator(i, w.df)) for i in range(3)]
    real = [w.tensor(W.tensor(f"real{i}", (w.batch, 3, 64 << i, 64 << i))) for i in range(3)]
    learn = lambda p: [v.requires_grad_() for k, v in p.items() if v.dtype == torch.float32 and "running" not in k]
    fused = {"fused": True} if "fused" in w.words else {}
    capturable = {"capturable": True} if "graph" in w.words else {}
    learnt = [learn(p) for p in d]
    adam = lambda params: torch.optim.Adam(params, 2e-4, (0.5, 0.999), **fused, **capturable)
    opt_g, opt_d = adam(learn(w.g)), [adam(p) for p in learnt]
    paint = w.compiled(lambda g, *inputs: R.generator(R.Net(g, True), *inputs))
    judge = w.compiled(lambda d, real, fake, s: L.discriminator_loss(R.Net(d, True), real, fake, s))
    please = w.compiled(lambda d, fake, s: L.adversarial_loss(R.Net(d, True), fake, s))
    # Casts of weights are not kept where a graph is recorded: they would belong to its memory.
    mixed = lambda: torch.autocast(w.device.type, torch.bfloat16, cache_enabled="graph" not in w.words) if "bf16" in w.words else nullcontext()

    def run():
        with mixed():
            images, _, mu, logvar = paint(w.g, w.z, w.sentence, w.captions, w.mask, w.eps)
        for i in range(3):
            with mixed():
                loss = judge(d[i], real[i], images[i].detach(), w.sentence)
            opt_d[i].zero_grad(set_to_none=True)
            loss.backward()
            opt_d[i].step()
            opt_d[i].zero_grad(set_to_none=True)
        # What is not asked for is not computed: the discriminators' weights have no part in the generator's step.
        for v in sum(learnt, []):
            v.requires_grad_(False)
        with mixed():
            total = sum(please(d[i], images[i], w.sentence) for i in range(3)) + L.kl_loss(mu, logvar)
        opt_g.zero_grad(set_to_none=True)
        total.backward()
        opt_g.step()
        for v in sum(learnt, []):
            v.requires_grad_(True)
        if w.image is None:
            w.image = images[2].detach().clone()

    return run


def published(w, kind):
    """A published encoder: its frozen trunk, and its heads' weights."""
    make, prefix, strip, heads = ENCODERS[kind]
    module = make()
    module.load_state_dict({k: torch.from_numpy(W.fill(prefix, strip + k, tuple(v.shape))) for k, v in module.state_dict().items()})
    module = module.to(w.device, w.dtype, memory_format=w.place).requires_grad_(False)
    return module, {k: v.to(w.dtype) for k, v in w.params(prefix, heads()).items()}


def encoder(w):
    """A frozen published encoder: its features, and the gradient of the images."""
    kind = w.args.task if w.args.task in ENCODERS else w.args.variant
    module, p = published(w, kind)
    image = w.tensor(W.tensor("image256", (w.batch, 3, 256, 256))).to(w.dtype)

    def run():
        x = image.detach().requires_grad_()
        if kind == "inception_v3":
            features, code = R.image_encoder(R.Net(p), module, x)
            (features.sum() + code.sum()).backward()
        else:
            features = R.caption_cnn(R.Net(p), module, x)
            features.sum().backward()
            features = features[:, :, None, None]
        w.image = features.detach()

    return run


class Captions:
    """STEM's bidirectional LSTM over 5,450 words, and a batch of captions for it, longest first."""

    def __init__(self, w):
        p = w.params("text_encoder", S.text_encoder(WORDS))
        self.lengths = sorted(((18, 11, 7, 5)[i % 4] for i in range(w.batch)), reverse=True)
        self.ids = torch.zeros(w.batch, 18, dtype=torch.long)
        for i, n in enumerate(self.lengths):
            self.ids[i, :n] = torch.from_numpy((W.uniform01(f"caption{i}", n) * (WORDS - 1) + 1).astype(np.int64))
        self.embedding = torch.nn.Embedding.from_pretrained(p["encoder.weight"], freeze=False)
        self.rnn = torch.nn.LSTM(300, 128, 1, batch_first=True, bidirectional=True)
        self.rnn.load_state_dict({k: p[f"rnn.{k}"] for k in self.rnn.state_dict()})
        for module in (self.embedding, self.rnn):
            module.to(w.device, w.dtype)

    def parameters(self):
        return [*self.embedding.parameters(), *self.rnn.parameters()]

    def encode(self):
        packed = pack_padded_sequence(self.embedding(self.ids), self.lengths, batch_first=True)
        out, (h, _) = self.rnn(packed)
        return pad_packed_sequence(out, batch_first=True)[0].transpose(1, 2), h.transpose(0, 1).reshape(h.shape[1], -1)


def text_encoder(w):
    text = Captions(w)

    def run():
        for p in text.parameters():
            p.grad = None
        words, sentence = text.encode()
        (words.sum() + sentence.sum()).backward()
        w.image = words.detach()[:, :, None]

    return run


def damsm(w):
    """A step of DAMSM as published, without dropout and clipping: Inception-v3's statistics adapt, its weights are frozen."""
    text, (module, p) = Captions(w), published(w, "inception_v3")
    module.train()
    for v in p.values():
        v.requires_grad_()
    images, classes = w.tensor(W.tensor("image256", (w.batch, 3, 256, 256))).to(w.dtype), torch.arange(w.batch)
    optimizer = torch.optim.Adam([*text.parameters(), *p.values()], 2e-3, (0.5, 0.999))

    def run():
        words, sentence = text.encode()
        regions, code = R.image_encoder(R.Net(p), module, images)
        (w0, w1), (s0, s1) = L.damsm_loss(regions, code, words, sentence, text.lengths, classes)
        optimizer.zero_grad(set_to_none=True)
        (w0 + w1 + s0 + s1).backward()
        optimizer.step()
        if w.image is None:
            w.image = regions.detach().clone()

    return run


def adam(w):
    """A step of the weights of the discriminator of 256² images, whose gradients are a hundredth of the weights as they began."""
    d = {k: v.to(w.dtype) for k, v in w.params("netD2", S.discriminator(2, w.df)).items() if "running" not in k and v.is_floating_point()}
    for v in d.values():
        v.requires_grad_().grad = 0.01 * v.detach().clone()
    fused = {"fused": True} if "fused" in w.words else {"foreach": True} if "foreach" in w.words else {}
    optimizer = torch.optim.Adam(d.values(), 2e-4, (0.5, 0.999), **fused)

    def run():
        optimizer.step()
        if w.image is None:
            w.image = d["img_code_s16.0.weight"].detach().clone()

    return run


# The tasks that are no encoder.
TASKS = {"step": step, "infer": generator_alone, "text_encoder": text_encoder, "damsm": damsm, "adam": adam}


# How torchvision makes each, the prefix of its formula weights, what its keys begin with there, and its heads.
ENCODERS = {
    "inception_v3": (R.inception_module, "image_encoder", "", lambda: S.image_encoder_heads(256)),
    "resnet152": (R.resnet_module, "caption_cnn", "resnet.", lambda: S.caption_cnn_heads(256)),
}


def timed(w, run, repeats):
    """Mean seconds of the repeats."""
    if w.gpu:
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(repeats):
            run()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1e3 / repeats
    begin = time.perf_counter()
    for _ in range(repeats):
        run()
    return (time.perf_counter() - begin) / repeats


def save(file, image):
    if file:
        image = image.detach().permute(0, 2, 3, 1)
        image = image.double() if image.dtype == torch.float64 else image.float()
        save_file({"image": np.ascontiguousarray(image.cpu().numpy())}, file)


def peak_of_process():
    """The most memory that this process ever held, in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:"))


def turns(args):
    words = args.variant.split()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = "tf32" in words or "bf16" in words
    w = Work(args, words)
    run = TASKS.get(args.task, encoder)(w)
    warm_up = 10 if w.gpu else 1
    if "compile" in words:
        run()  # compiles, beside the others; algorithms are chosen below
    with alone():
        torch.backends.cudnn.benchmark = True
        run()
        save(args.outputs, w.image)
        run = w.graphed(run)
        timed(w, run, warm_up)
    print(json.dumps({"ready": True}), flush=True)
    for _ in sys.stdin:
        print(json.dumps({"seconds": [timed(w, run, args.repeats)]}), flush=True)
    if w.gpu:
        peaks = {"peak_mb": torch.cuda.max_memory_allocated() / 2**20, "reserved_mb": torch.cuda.max_memory_reserved() / 2**20}
    else:
        peaks = {"peak_mb": peak_of_process()}
    print(json.dumps(peaks), flush=True)


def reference(args):
    """In f64: the generator's pictures, in training as the step begins, in evaluation for `infer`; an encoder's features."""
    w = Work(args, [])
    if args.variant not in ("step", "infer"):
        w.dtype = torch.float64
        TASKS.get(args.variant, encoder)(w)()
        save(args.outputs, w.image)
        return print(json.dumps({"done": True}))
    wide = lambda t: t.double() if t.is_floating_point() else t
    inputs = [wide(t) for t in (w.z, w.sentence, w.captions)] + [w.mask, wide(w.eps)]
    with torch.no_grad():
        images = R.generator(R.Net({k: wide(v) for k, v in w.g.items()}, args.variant == "step"), *inputs)[0]
    save(args.outputs, images[2])
    print(json.dumps({"done": True}))


def ceilings(args):
    """What PyTorch's copy and matrix product reach here: bytes (read and written) and operations a second."""
    n, size = (8192, 256 << 20) if args.device.startswith("cuda") else (512, 1 << 20)
    w = argparse.Namespace(gpu=args.device.startswith("cuda"))
    best = lambda run, repeats: statistics.median(timed(w, run, repeats) for _ in range(7))
    a = torch.rand(size // 4, device=args.device)
    b = torch.empty_like(a)
    found = {"device": torch.cuda.get_device_name(args.device) if w.gpu else "cpu", "torch": torch.__version__,
             "copy_gb_per_second": 2 * size / best(lambda: b.copy_(a), 5) / 1e9}
    for name, kind in (("tf32", torch.float32), ("bf16", torch.bfloat16)):
        torch.backends.cuda.matmul.allow_tf32 = True
        x, y = (torch.rand(n, n, device=args.device).sub_(0.5).to(kind) for _ in range(2))
        x @ y
        found[f"{name}_gflop_per_second"] = 2 * n**3 / best(lambda: x @ y, 3) / 1e9
    print(json.dumps(found))


def ncnn_forward(layer):
    """A 3x3 layer's forward pass in ncnn, whose filters are transformed beforehand; nothing for other layers, or without ncnn."""
    try:
        import ncnn
    except ImportError:
        return None
    if (layer.op.removesuffix("_frozen"), layer.kh, layer.kw, layer.stride) != ("conv2d", 3, 3, 1):
        return None
    x, w = np.random.rand(layer.cin, layer.h, layer.w) - 0.5, np.random.rand(layer.cout, layer.cin, 3, 3) - 0.5
    x, w = x.astype(np.float32), w.astype(np.float32)
    net = ncnn.Net()
    net.opt.num_threads = torch.get_num_threads()
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = net.opt.use_bf16_storage = False
    with tempfile.TemporaryDirectory() as folder:
        layers, weights = Path(folder) / "layer.param", Path(folder) / "layer.bin"
        layers.write_text("7767517\n2 2\nInput x 0 1 x\n"
                          f"Convolution y 1 1 x y 0={layer.cout} 1=3 4={layer.pad_w} 14={layer.pad_h} 6={w.size}\n")
        weights.write_bytes(bytes(4) + w.tobytes())
        net.load_param(str(layers))
        net.load_model(str(weights))
    image = ncnn.Mat(x)

    def run():
        # It knows no batches.
        for _ in range(layer.batch):
            extractor = net.create_extractor()
            extractor.input("x", image)
            _, y = extractor.extract("y")
        return y

    wanted = torch.nn.functional.conv2d(torch.from_numpy(x)[None], torch.from_numpy(w), None, 1, (layer.pad_h, layer.pad_w))[0]
    error = float((torch.from_numpy(np.array(run())) - wanted).norm() / wanted.norm())
    if not error < 1e-4:
        sys.exit(f"ncnn's {layer.name} is {error:.1e} from PyTorch's")
    return run


def packed_forward(layer):
    """A frozen layer's forward pass in oneDNN with filters that are packed beforehand, as torch.compile freezes them."""
    x = torch.rand(layer.batch, layer.cin, layer.h, layer.w).sub_(0.5).to(memory_format=torch.channels_last)
    w = torch.rand(layer.cout, layer.cin, layer.kh, layer.kw).sub_(0.5)
    geometry = ((layer.pad_h, layer.pad_w), (layer.stride,) * 2, (1, 1), 1)
    packed = torch._C._nn.mkldnn_reorder_conv2d_weight(w.to_mkldnn(), *geometry, x.shape)
    run = lambda: torch.ops.mkldnn._convolution_pointwise(x, packed, None, *geometry, "none", [], "")
    wanted = torch.nn.functional.conv2d(x, w, None, layer.stride, (layer.pad_h, layer.pad_w))
    if not (error := float((run() - wanted).norm() / wanted.norm())) < 1e-4:
        sys.exit(f"oneDNN's packed {layer.name} is {error:.1e} from PyTorch's")
    return run


def layers(args):
    """Seconds of each pass of the layers whose numbers come on standard input, in the faster memory format, those of frozen layers forward also
    packed; where ncnn can be imported, also of its 3x3 forward passes."""
    device = torch.device(args.device)
    known = layers_of(CONVOLUTIONS, args.batch)
    for line in sys.stdin:
        best, layer = {}, known[int(line)]
        passes = [each for place in (torch.contiguous_format, torch.channels_last) for each in layer.passes(device, torch.float32, place)]
        if args.device == "cpu" and layer.frozen:
            passes.append(("forward", packed_forward(layer)))
        if args.device == "cpu" and (run := ncnn_forward(layer)):
            passes.append(("forward, ncnn", run))
        for name, run in passes:
            once = max(min(seconds(device, run, 1) for _ in range(2)), 1e-6)
            repeats = max(1, min(50, round(2e-2 / once)))
            took = statistics.median(seconds(device, run, repeats) for _ in range(5))
            best[name] = min(took, best.get(name, took))
        print(json.dumps(best), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=[*TASKS, *ENCODERS, "layers", "reference", "ceilings"])
    parser.add_argument("variant", nargs="?", default="")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--widths", type=lambda text: [int(n) for n in text.split(",")], default=[32, 64])
    parser.add_argument("--outputs")
    args = parser.parse_args()
    {"layers": layers, "reference": reference, "ceilings": ceilings}.get(args.task, turns)(args)


if __name__ == "__main__":
    main()
