"""What PyTorch makes of small models on a GPU, batch 1: the rivals of syn1's figures there.

usage: torch_decode.py [--works NAME,NAME,..] [--runs N] [--no-compile] [--no-tune]

Needs an NVIDIA GPU, torch and (for two arms) transformers. Weights are random and of a public model's shape. Standard
output is one JSON list with an entry for each arm, standard error the same as a table, line by line as it is measured:

  {"work": "gpt2-f16", "name": "PyTorch CUDA graph (bmm)", "tokens_per_second": 1587.0, "runs": 7,
   "spread": [1570.1, 1590.3], "read_gb_per_second": 395.1, "same_ids": 128, "of_ids": 128, "device": "NVIDIA H200"}

A decode has "tokens_per_second", a prefill "ms", the bandwidth "gb_per_second": the median of the runs, and "spread" is the
lowest and the highest of them in the same unit. An arm that cannot run has "refused" in their place. "same_ids" counts the
ids before the first that differs from the eager arm's; arms that add in another order may leave it at a near tie. Toys have
"max_error" instead, against a forward pass in f64.

  bandwidth        torch.sum and copy_ of a buffer much larger than the cache
  gpt2-f16         GPT-2 124M, 128 tokens from a prompt of 16
  gpt2-f16-1000    the same, 32 tokens around position 1,000
  gpt2-f32         GPT-2 124M in f32 without TF32, 128 tokens from a prompt of 16
  llama-1b-f16     Llama 3.2 1B's shape, 64 tokens from a prompt of 16 (RoPE without Llama 3's scaling, a table anyhow)
  llama-1b-int8    the same with a scale for each row: torch._weight_int8pack_mm; compiled, a product that converts
  llama-1b-int4    the same with a scale and a zero for each 32 weights: torch._weight_int4pack_mm, bf16 activations
  toy-32, toy-128  4 layers of that width, 2 heads, FFN 4 times as wide, f32; 64 given rows, one after another
  prefill          512 tokens of GPT-2 124M f16, to the logits of the last

Every decode but transformers' own is decode-only: the KV cache holds the prompt. The hand-written arms keep a static KV
cache, the token, its position and the attention's mask on the device and never wait for it, so launches alone bind the
eager one. CUDA graphs hold 16 tokens each. "Compiled" is torch.compile of the forward pass, captured in such a
graph; "autotuned" is its mode max-autotune, which also makes kernels of its own for products of one row."""
from __future__ import annotations

import argparse
import functools
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

DEVICE = "cuda"
PROMPT = 16
TOKENS_PER_GRAPH = 16
GROUP = 32
EPS = 1e-5


@dataclass(frozen=True)
class Shape:
    """Dimensions of a decoder. Without a vocabulary it takes and gives rows."""
    layers: int
    width: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocab: int
    # Llama's parts: RMSNorm, RoPE, SwiGLU. Else GPT-2's: LayerNorm, learned positions, GELU.
    llama: bool = False
    # GPT-2's biases and gains.
    affine: bool = False


GPT2 = Shape(12, 768, 12, 12, 64, 3072, 50257, affine=True)
LLAMA_1B = Shape(16, 2048, 32, 8, 64, 8192, 128256, llama=True)


def toy(width: int) -> Shape:
    return Shape(4, width, 2, 2, width // 2, 4 * width, 0)


class Dense(nn.Module):
    """x W^T + b."""

    def __init__(self, weight: Tensor, bias: Tensor | None):
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        if self.bias is not None and torch.compiler.is_compiling():
            # With a bias inside the product, the compiler leaves it to cuBLAS.
            return F.linear(x, self.weight) + self.bias
        return F.linear(x, self.weight, self.bias)


class Int8(nn.Module):
    """Weights as int8 with a scale for each row."""

    def __init__(self, weight: Tensor, bias: None):
        super().__init__()
        scale = weight.float().abs().amax(1, keepdim=True) / 127
        self.register_buffer("weight", (weight.float() / scale).round().to(torch.int8))
        self.register_buffer("scale", scale.squeeze(1).to(weight.dtype))

    def forward(self, x: Tensor) -> Tensor:
        if torch.compiler.is_compiling():
            return F.linear(x, self.weight.to(x.dtype)) * self.scale
        return torch._weight_int8pack_mm(x, self.weight, self.scale)


class Int4(nn.Module):
    """Weights as 4 bits with a scale and a zero for each GROUP of them, in the layout of PyTorch's kernel."""

    def __init__(self, weight: Tensor, bias: None):
        super().__init__()
        rows, cols = weight.shape
        groups = weight.float().reshape(rows, cols // GROUP, GROUP)
        low, high = groups.amin(2), groups.amax(2)
        scale = ((high - low) / 15).clamp(min=1e-8)
        steps = ((groups - low[..., None]) / scale[..., None]).round().clamp(0, 15).to(torch.uint8).reshape(rows, cols)
        # The kernel computes (step - 8) * scale + zero.
        lines = torch.stack([scale, low + 8 * scale], 2).transpose(0, 1).contiguous().to(torch.bfloat16)
        self.register_buffer("lines", lines)
        self.register_buffer("weight", torch._convert_weight_to_int4pack(steps[:, ::2] << 4 | steps[:, 1::2], 8))

    def forward(self, x: Tensor) -> Tensor:
        return torch._weight_int4pack_mm(x, self.weight, GROUP, self.lines)


class Norm(nn.Module):
    def __init__(self, shape: Shape, gain: Tensor | None, bias: Tensor | None):
        super().__init__()
        self.llama, self.width = shape.llama, (shape.width,)
        self.register_buffer("gain", gain)
        self.register_buffer("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        if self.llama:
            return F.rms_norm(x, self.width, self.gain, EPS)
        return F.layer_norm(x, self.width, self.gain, self.bias, EPS)


class Block(nn.Module):
    """One layer with its static KV cache of [kv_heads, context, head_dim]."""

    def __init__(self, shape: Shape, draw: Draw, context: int, form: type[nn.Module], attention: str):
        super().__init__()
        self.shape, self.attention = shape, attention
        q, kv = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
        self.norm1, self.norm2 = draw.norm(), draw.norm()
        self.qkv = form(*draw.linear(q + 2 * kv, shape.width))
        self.out = form(*draw.linear(shape.width, q))
        self.up = form(*draw.linear(shape.ffn * (2 if shape.llama else 1), shape.width))
        self.down = form(*draw.linear(shape.width, shape.ffn))
        cache = (shape.kv_heads, context, shape.head_dim)
        self.register_buffer("k", torch.zeros(cache, dtype=draw.dtype, device=DEVICE))
        self.register_buffer("v", torch.zeros(cache, dtype=draw.dtype, device=DEVICE))

    def forward(self, x: Tensor, pos: Tensor, turn: tuple[Tensor, Tensor] | None, mask: Tensor | None) -> Tensor:
        shape = self.shape
        qkv = self.qkv(self.norm1(x)).view(x.shape[0], -1, shape.head_dim)
        if turn is None:
            q, k, v = qkv.split([shape.heads, shape.kv_heads, shape.kv_heads], 1)
        else:
            qk, v = qkv.split([shape.heads + shape.kv_heads, shape.kv_heads], 1)
            cos, sin = turn
            turned = torch.addcmul(qk * cos, qk.roll(shape.head_dim // 2, -1), sin)
            q, k = turned.split([shape.heads, shape.kv_heads], 1)
        k, v = k.transpose(0, 1), v.transpose(0, 1)
        self.k.index_copy_(1, pos, k)
        self.v.index_copy_(1, pos, v)
        x = x + self.out(self.attend(q, k, v, mask))
        up = self.up(self.norm2(x))
        if shape.llama:
            gate, up = up.chunk(2, 1)
            up = F.silu(gate) * up
        else:
            up = F.gelu(up, approximate="tanh")
        return x + self.down(up)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """[rows, heads * head_dim]: of a whole prompt without a mask, else of one row over the cache."""
        shape, grouped = self.shape, self.shape.heads != self.shape.kv_heads
        if mask is None:
            o = F.scaled_dot_product_attention(q.transpose(0, 1)[None], k[None], v[None], is_causal=True,
                                               enable_gqa=grouped)
            return o[0].transpose(0, 1).reshape(q.shape[0], -1)
        if self.attention == "sdpa":
            o = F.scaled_dot_product_attention(q.transpose(0, 1)[None], self.k[None], self.v[None],
                                               attn_mask=mask[None, None], enable_gqa=grouped)
            return o.reshape(1, -1)
        q = q.reshape(shape.kv_heads, -1, shape.head_dim)
        scores = torch.bmm(q * shape.head_dim ** -0.5, self.k.transpose(1, 2)) + mask
        return torch.bmm(scores.softmax(-1), self.v).view(1, -1)


class Decoder(nn.Module):
    """A decoder with the token loop's state on the device."""

    def __init__(self, shape: Shape, dtype: torch.dtype, context: int, form: type[nn.Module] = Dense,
                 attention: str = "sdpa"):
        super().__init__()
        draw = Draw(shape, dtype)
        self.shape, self.context = shape, context
        if shape.vocab:
            table = draw.normal(shape.vocab, shape.width, deviation=0.05)
            self.register_buffer("table", table)
            self.head = form(table, None)
            self.norm = draw.norm()
        else:
            self.register_buffer("table", draw.uniform(context, shape.width))
            self.register_buffer("rows", torch.zeros_like(self.table))
        self.register_buffer("places", draw.normal(context, shape.width, deviation=0.02) if shape.affine else None)
        self.blocks = nn.ModuleList(Block(shape, draw, context, form, attention) for _ in range(shape.layers))
        if shape.llama:
            half = shape.head_dim // 2
            speeds = 500000.0 ** (-torch.arange(half, device=DEVICE).double() / half)
            angles = torch.arange(context, device=DEVICE).double()[:, None] * speeds
            self.register_buffer("cos", angles.cos().repeat(1, 2).to(dtype))
            self.register_buffer("sin", torch.cat([-angles.sin(), angles.sin()], 1).to(dtype))
        hidden = torch.full((context, context), float("-inf"), dtype=dtype, device=DEVICE).triu(1)
        self.register_buffer("masks", hidden)
        self.register_buffer("token", torch.zeros(1, dtype=torch.long, device=DEVICE))
        self.register_buffer("pos", torch.zeros(1, dtype=torch.long, device=DEVICE))
        self.register_buffer("ids", torch.zeros(context, dtype=torch.long, device=DEVICE))
        linears = [part for part in self.modules() if isinstance(part, form)]
        self.bytes = sum(buffer.nbytes for part in linears for buffer in part.buffers())

    def forward(self, tokens: Tensor, pos: Tensor, mask: Tensor | None) -> Tensor:
        """The last row's logits; without a vocabulary the row itself."""
        x = F.embedding(tokens, self.table)
        if self.places is not None:
            x = x + F.embedding(pos, self.places)
        turn = None
        if self.shape.llama:
            turn = F.embedding(pos, self.cos)[:, None], F.embedding(pos, self.sin)[:, None]
        for block in self.blocks:
            x = block(x, pos, turn, mask)
        return self.head(self.norm(x[-1:])) if self.shape.vocab else x

    def prefill(self, prompt: Tensor) -> None:
        logits = self.forward(prompt, torch.arange(len(prompt), device=DEVICE), None)
        self.first = (logits.argmax(-1), len(prompt))

    def begin(self) -> None:
        """Back to behind the prompt; what the KV cache holds further on is masked."""
        token, pos = self.first if self.shape.vocab else (0, 0)
        self.token.copy_(token) if self.shape.vocab else self.token.fill_(token)
        self.pos.fill_(pos)

    def step(self, forward: Callable[..., Tensor]) -> None:
        """One token, without waiting for the device."""
        made = forward(self.token, self.pos, self.masks.index_select(0, self.pos))
        if self.shape.vocab:
            torch.argmax(made, -1, out=self.token)
            self.ids.index_copy_(0, self.pos, self.token)
        else:
            self.rows.index_copy_(0, self.pos, made)
            self.token.add_(1)
        self.pos.add_(1)


class Draw:
    """Random weights, the same for each shape and type."""

    def __init__(self, shape: Shape, dtype: torch.dtype):
        self.shape, self.dtype = shape, dtype
        self.generator = torch.Generator(DEVICE).manual_seed(1)

    def normal(self, *size: int, deviation: float, mean: float = 0.0) -> Tensor:
        drawn = torch.randn(size, generator=self.generator, device=DEVICE)
        return drawn.mul_(deviation).add_(mean).to(self.dtype)

    def uniform(self, *size: int) -> Tensor:
        return torch.rand(size, generator=self.generator, device=DEVICE).mul_(0.1).sub_(0.05).to(self.dtype)

    def linear(self, rows: int, cols: int) -> tuple[Tensor, Tensor | None]:
        # Large enough that no layer hides behind the residual stream.
        deviation = 0.03 if self.shape.vocab else (2 / self.shape.width) ** 0.5
        weight = self.normal(rows, cols, deviation=deviation)
        return weight, self.normal(rows, deviation=0.02) if self.shape.affine else None

    def norm(self) -> Norm:
        shape = self.shape
        gain = self.normal(shape.width, deviation=0.1, mean=1.0) if shape.vocab else None
        return Norm(shape, gain, self.normal(shape.width, deviation=0.02) if shape.affine else None)


def transformers_gpt2(model: Decoder):
    """The same weights in transformers' GPT-2."""
    from transformers import GPT2Config, GPT2LMHeadModel
    config = GPT2Config(bos_token_id=None, eos_token_id=None)
    with torch.device(DEVICE):
        other = GPT2LMHeadModel(config).to(model.table.dtype).eval()
    weights = {"wte.weight": model.table, "ln_f.weight": model.norm.gain, "ln_f.bias": model.norm.bias}
    # transformers' positions go to 1,024, whatever the context here.
    places = torch.zeros(config.n_positions, GPT2.width, dtype=model.table.dtype, device=DEVICE)
    places[:model.context] = model.places
    weights["wpe.weight"] = places
    for n, block in enumerate(model.blocks):
        for name, norm in [("ln_1", block.norm1), ("ln_2", block.norm2)]:
            weights |= {f"h.{n}.{name}.weight": norm.gain, f"h.{n}.{name}.bias": norm.bias}
        for name, dense in [("attn.c_attn", block.qkv), ("attn.c_proj", block.out), ("mlp.c_fc", block.up),
                            ("mlp.c_proj", block.down)]:
            weights |= {f"h.{n}.{name}.weight": dense.weight.t(), f"h.{n}.{name}.bias": dense.bias}
    missing, unexpected = other.transformer.load_state_dict(weights, strict=False)
    if unexpected or any(not name.endswith("attn.bias") for name in missing):
        raise RuntimeError(f"transformers' GPT-2 has other weights: {missing} missing, {unexpected} unknown")
    other.tie_weights()
    return other


class Results:
    """Entries of the JSON list; each is shown as soon as it is there."""

    def __init__(self, runs: int):
        self.runs, self.entries = runs, []

    def add(self, work: str, name: str, values: list[float], unit: str, **more) -> None:
        found = {unit: statistics.median(values), "runs": len(values), "spread": [min(values), max(values)]}
        self.entry(work, name, found | more)
        spread = f"{min(values):,.2f} to {max(values):,.2f}"
        shown = ", ".join(f"{key} {value:.4g}" for key, value in more.items())
        print(f"{work:16}{name:36}{found[unit]:>12,.2f} {unit:18}{spread:24}{shown}", file=sys.stderr, flush=True)

    def refused(self, work: str, name: str, error: Exception) -> None:
        said = f"{type(error).__name__}: {error}".splitlines()[0]
        self.entry(work, name, {"refused": said})
        print(f"{work:16}{name:36}{'refused':>12} {said}", file=sys.stderr, flush=True)

    def entry(self, work: str, name: str, found: dict) -> None:
        self.entries.append({"work": work, "name": name} | found | {"device": torch.cuda.get_device_name()})

    def seconds(self, work: Callable[[], object], before: Callable[[], object] = lambda: None) -> list[float]:
        """Seconds of each run; one more before them warms up."""
        times = []
        for _ in range(self.runs + 1):
            before()
            torch.cuda.synchronize()
            begun = time.perf_counter()
            work()
            torch.cuda.synchronize()
            times.append(time.perf_counter() - begun)
        return times[1:]


def captured(model: Decoder, forward: Callable[..., Tensor], steps: int) -> torch.cuda.CUDAGraph:
    """A graph of so many tokens, each fed to the next."""
    step = functools.partial(model.step, forward)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        model.begin()
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(steps):
            step()
    return graph


def compiled(forward: Callable[..., Tensor], tuned: bool) -> Callable[..., Tensor]:
    torch._dynamo.reset()
    mode = "max-autotune-no-cudagraphs" if tuned else "default"
    return torch.compile(forward, fullgraph=True, dynamic=False, mode=mode)


def compiled_arms(args: argparse.Namespace) -> list[tuple[str, bool]]:
    plain, tuned = ("PyTorch compiled graph", False), ("PyTorch compiled graph, autotuned", True)
    return [] if args.no_compile else [plain] if args.no_tune else [plain, tuned]


def decode(args: argparse.Namespace, results: Results, work: str, shape: Shape, dtype: torch.dtype, prompt: int,
           tokens: int, form: type[nn.Module] = Dense, beside_transformers: bool = False) -> None:
    context = prompt + tokens
    ids = (torch.arange(prompt, device=DEVICE) * 37 + 11) % max(shape.vocab, 1)
    reference: list[int] = []

    def ready(attention: str) -> Decoder:
        model = Decoder(shape, dtype, context, form, attention)
        if shape.vocab:
            model.prefill(ids)
        return model

    def arm(name: str, model: Decoder, run: Callable[[], object]) -> None:
        paces = [tokens / seconds for seconds in results.seconds(run, model.begin)]
        more = {"read_gb_per_second": model.bytes * statistics.median(paces) / 1e9}
        if shape.vocab:
            found = [int(model.first[0]), *model.ids[prompt:].tolist()][:tokens]
            reference.extend([] if reference else found)
            more |= {"same_ids": same(found, reference), "of_ids": tokens}
        else:
            more |= {"max_error": float((model.rows.double() - exact_rows(model)).abs().max())}
        results.add(work, name, paces, "tokens_per_second", **more)

    def graph_arm(name: str, model: Decoder, forward: Callable[..., Tensor]) -> None:
        graph = captured(model, forward, TOKENS_PER_GRAPH)
        arm(name, model, lambda: [graph.replay() for _ in range(tokens // TOKENS_PER_GRAPH)])

    def attempt(name: str, arm: Callable[[], None]) -> None:
        try:
            arm()
        except Exception as error:  # What cannot run is a result, too.
            results.refused(work, name, error)

    def eager() -> None:
        model = ready("sdpa")
        arm("PyTorch eager", model, lambda: [model.step(model.forward) for _ in range(tokens)])
        if beside_transformers:
            attempt("transformers generate", lambda: generate(model))

    def generate(model: Decoder) -> None:
        other = transformers_gpt2(model)
        made = {}

        def run() -> None:
            made["ids"] = other.generate(ids[None], attention_mask=torch.ones_like(ids[None]), do_sample=False,
                                         max_new_tokens=tokens, eos_token_id=None, pad_token_id=0)

        paces = [tokens / seconds for seconds in results.seconds(run)]
        found = made["ids"][0, prompt:].tolist()
        if len(found) != tokens:
            raise RuntimeError(f"{len(found)} tokens in place of {tokens}")
        results.add(work, "transformers generate", paces, "tokens_per_second",
                    read_gb_per_second=model.bytes * statistics.median(paces) / 1e9,
                    same_ids=same(found, reference), of_ids=tokens)

    def graph(attention: str) -> None:
        model = ready(attention)
        graph_arm(f"PyTorch CUDA graph ({attention})", model, model.forward)

    def compiled_graph(name: str, tuned: bool) -> None:
        model = ready("bmm")
        graph_arm(name, model, compiled(model.forward, tuned))

    attempt("PyTorch eager", eager)
    for attention in ["sdpa", "bmm"]:
        attempt(f"PyTorch CUDA graph ({attention})", functools.partial(graph, attention))
    for name, tuned in compiled_arms(args):
        attempt(name, functools.partial(compiled_graph, name, tuned))


def same(found: list[int], reference: list[int]) -> int:
    differs = (n for n, (a, b) in enumerate(zip(found, reference)) if a != b)
    return next(differs, min(len(found), len(reference)))


def exact_rows(model: Decoder) -> Tensor:
    """What a toy should give: all rows at once in f64, from the definition."""
    shape, x = model.shape, model.table.double()
    hidden = torch.full((len(x), len(x)), float("-inf"), dtype=torch.double, device=DEVICE).triu(1)

    def normed(x: Tensor) -> Tensor:
        centred = x - x.mean(1, keepdim=True)
        return centred / (centred.square().mean(1, keepdim=True) + EPS).sqrt()

    for block in model.blocks:
        qkv = normed(x) @ block.qkv.weight.double().t()
        q, k, v = (part.reshape(len(x), shape.heads, -1).transpose(0, 1) for part in qkv.chunk(3, 1))
        scores = (q @ k.transpose(1, 2) / shape.head_dim ** 0.5 + hidden).softmax(-1)
        x = x + (scores @ v).transpose(0, 1).reshape(len(x), -1) @ block.out.weight.double().t()
        up = normed(x) @ block.up.weight.double().t()
        up = 0.5 * up * (1 + ((2 / torch.pi) ** 0.5 * (up + 0.044715 * up ** 3)).tanh())
        x = x + up @ block.down.weight.double().t()
    return x


def prefill(args: argparse.Namespace, results: Results, rows: int = 512) -> None:
    model = Decoder(GPT2, torch.float16, rows)
    ids = (torch.arange(rows, device=DEVICE) * 37 + 11) % GPT2.vocab
    pos = torch.arange(rows, device=DEVICE)
    expected = model(ids, pos, None).float()

    def arm(name: str, forward: Callable[[], Tensor]) -> None:
        try:
            times = [1e3 * seconds for seconds in results.seconds(forward)]
            error = float((forward().float().reshape(-1) - expected.reshape(-1)).abs().max())
            results.add("prefill", name, times, "ms", tokens_per_second=rows / statistics.median(times) * 1e3,
                        largest_difference_of_a_logit=error)
        except Exception as error:  # What cannot run is a result, too.
            results.refused("prefill", name, error)

    def through_graph(forward: Callable[..., Tensor]) -> Callable[[], Tensor]:
        for _ in range(3):
            forward(ids, pos, None)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            made = forward(ids, pos, None)
        return lambda: (graph.replay(), made)[1]

    arm("PyTorch eager (sdpa)", lambda: model(ids, pos, None))
    try:
        other = transformers_gpt2(model)
        arm("transformers eager", lambda: other(ids[None], use_cache=True, logits_to_keep=1).logits)
    except Exception as error:
        results.refused("prefill", "transformers eager", error)
    arm("PyTorch CUDA graph (sdpa)", through_graph(model.forward))
    for name, tuned in compiled_arms(args):
        try:
            forward = through_graph(compiled(model.forward, tuned))
        except Exception as error:
            results.refused("prefill", name, error)
            continue
        arm(name, forward)


def bandwidth(results: Results, elements: int = 1 << 30) -> None:
    buffer, other = (torch.ones(elements, device=DEVICE) for _ in range(2))
    for name, work, moved in [("torch.sum of 4 GiB", buffer.sum, buffer.nbytes),
                              ("copy_ of 4 GiB, read and written", lambda: other.copy_(buffer), 2 * buffer.nbytes)]:
        repeats = 10
        times = results.seconds(lambda: [work() for _ in range(repeats)])
        results.add("bandwidth", name, [moved * repeats / seconds / 1e9 for seconds in times], "gb_per_second")


def works(args: argparse.Namespace, results: Results) -> Iterator[tuple[str, Callable[[], None]]]:
    def on(work: str, *rest, **more) -> tuple[str, Callable[[], None]]:
        return work, lambda: decode(args, results, work, *rest, **more)

    half, full = torch.float16, torch.float32
    yield "bandwidth", lambda: bandwidth(results)
    yield on("gpt2-f16", GPT2, half, PROMPT, 128, beside_transformers=True)
    yield on("gpt2-f16-1000", GPT2, half, 984, 32, beside_transformers=True)
    yield on("gpt2-f32", GPT2, full, PROMPT, 128)
    yield "prefill", lambda: prefill(args, results)
    yield on("llama-1b-f16", LLAMA_1B, half, PROMPT, 64)
    yield on("llama-1b-int8", LLAMA_1B, half, PROMPT, 64, form=Int8)
    yield on("llama-1b-int4", LLAMA_1B, torch.bfloat16, PROMPT, 64, form=Int4)
    yield on("toy-32", toy(32), full, 0, 64)
    yield on("toy-128", toy(128), full, 0, 64)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--works", type=lambda names: names.split(","), help="of those above; default: all")
    parser.add_argument("--runs", type=int, default=7, help="runs of each arm; medians are printed")
    parser.add_argument("--no-compile", action="store_true", help="leave out the compiled arms (slow to begin)")
    parser.add_argument("--no-tune", action="store_true", help="leave out the autotuned ones")
    args = parser.parse_args()
    torch.set_grad_enabled(False)
    results = Results(args.runs)
    listed = dict(works(args, results))
    unknown = set(args.works or []) - set(listed)
    if unknown:
        parser.error(f"there is no work {', '.join(sorted(unknown))}: {', '.join(listed)}")
    print(f"torch {torch.__version__} on {torch.cuda.get_device_name()}, medians of {args.runs} runs", file=sys.stderr)
    for name in args.works or listed:
        listed[name]()
        torch.cuda.empty_cache()
    print(json.dumps(results.entries, indent=1))


if __name__ == "__main__":
    main()
