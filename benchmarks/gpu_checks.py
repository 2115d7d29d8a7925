"""What must hold on a GPU before anything is timed: losses against float64, ranks, sharding, compiled towers. Run by gpu.py."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing
from gpu_losses import DEVICE, NAMES, inputs, ours, over_ring
from gpu_steps import TINY, Batch, build
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.nn.functional import softplus

from lightning_clip.losses import losses, sigmoid_contrastive_loss, softmax_contrastive_loss
from lightning_clip.losses.exchange import Gather
from lightning_clip.strategies.sharding import shard_model

Found = tuple[str, float, float]


def checks_of_losses(count: int) -> list[Found]:
    """What was checked, its figure and its limit."""
    _one_rank()  # a ring is one of ranks
    found = []
    for name in NAMES:
        for dtype, limit in ((torch.float32, 5e-6), (torch.float16, 2e-3), (torch.bfloat16, 8e-3)):
            for way in ("", " on a ring of one rank"):
                values = inputs(count, 256, dtype)
                loss_error, error = _errors(name, values, over_ring(name, values) if way else losses.build(name)(*values))
                what = f"{name}{way}, {str(dtype)[6:]}, {count:,} pairs"
                found.append((f"{what}: loss against float64", loss_error, 2e-6))
                found.append((f"{what}: gradients against float64", error, limit))
        if DEVICE == "cuda":
            found.append((f"{name}: waits for the device in forward and backward", _waits(name, count), 0.0))
            found.append((f"{name}: a captured graph against the plain step", _captured(name, count), 0.0))
    return found


def _errors(name: str, values: list[Tensor], loss: Tensor) -> tuple[float, float]:
    """Relative error of the loss, and the largest of the gradients of both features and the scale."""
    loss.backward()
    images, texts, scale, bias = (value.detach().double().requires_grad_() for value in values)
    logits = scale * images @ texts.T
    diagonal = torch.eye(len(images), dtype=torch.bool, device=DEVICE)
    if name == "softmax":
        others, pair = logits.masked_fill(diagonal, -torch.inf), logits.diagonal()
        expected = 0.5 * sum(softplus(others.logsumexp(dim=axis) - pair, threshold=100) for axis in (0, 1)).mean()  # type: ignore[union-attr]
    else:
        expected = softplus(torch.where(diagonal, -1, 1) * (logits + bias), threshold=100).sum() / len(images)
    expected.backward()
    pairs = zip(values[:3], (images, texts, scale), strict=True)
    worst = max(float((one.grad.double() - other.grad).norm() / other.grad.norm()) for one, other in pairs)  # type: ignore[union-attr]
    return float(((loss - expected) / expected).abs().detach()), worst


def _waits(name: str, count: int) -> float:
    """0 where nothing in a step waits for the device."""
    step = ours(name, inputs(count, 256, torch.float32), True)
    step()
    return _sync(step)


def _sync(step: Callable[[], object]) -> float:
    """1 where a call waits for the device, else 0."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    except RuntimeError as error:
        print(error)
        return 1.0
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return 0.0


def _captured(name: str, count: int) -> float:
    """The largest difference of a gradient between a replayed CUDA graph and the step as it is."""
    values, loss, graph = inputs(count, 256, torch.bfloat16), losses.build(name), torch.cuda.CUDAGraph()
    plain = torch.autograd.grad(loss(*values), values[:3])
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        captured = torch.autograd.grad(loss(*values), values[:3])
    graph.replay()
    return max(float((one.float() - other.float()).abs().max()) for one, other in zip(plain, captured, strict=True))


def checks_of_steps() -> list[Found]:
    """A small model of two towers: compiled, sharded over one rank, and without waiting for the device."""
    size = TINY[0]
    batch = Batch.of(size)
    plain = _gradients(batch, {})
    found = [
        (
            "towers compiled block by block against plain ones, float32",
            _furthest(_gradients(batch, {"compile": True}), plain),
            5e-5,
        ),
        ("FSDP2 on one rank against the plain model, float32", _sharded(batch, plain), 5e-5),
        ("captions packed against padded ones, bfloat16", _packed(batch), 2e-2),
        ("DDP on one rank against the plain model, float32", _replicated(batch, plain), 5e-5),
    ]
    for execution in ({}, {"compile": True}):
        found.append((f"a step under bfloat16, {execution}: waits for the device", _step_waits(batch, execution), 0.0))
    return found


def _packed(batch: Batch) -> float:
    """The relative difference of text features; 0 where the device packs none."""
    model, _ = build(TINY[0], {})
    tokens = batch.tokens.to(DEVICE)
    with torch.no_grad(), torch.autocast(DEVICE, torch.bfloat16):
        if not model.text_encoder.packs(tokens):
            print(f"captions are not packed on {DEVICE}")
            return 0.0
        found = model.encode_text(tokens, tokens > 0, batch.lengths)
        model.text_chunks = 1
        expected = model.encode_text(tokens, tokens > 0, batch.lengths)
    return float((found - expected).norm() / expected.norm())


def _gradients(batch: Batch, execution: dict[str, bool]) -> dict[str, Tensor]:
    model, _ = build(TINY[0], execution, torch.float32)
    return _backward(model, model, batch)


def _backward(model: nn.Module, called: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """Gradients of the model by name after a pass through what wraps it."""
    pixels, tokens = (value.to(DEVICE) for value in batch[:2])
    output = called(pixels, tokens, tokens > 0, batch.lengths)
    softmax_contrastive_loss(output.image_features, output.text_features, output.scale).backward()
    found = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
    return {name: value.full_tensor() if hasattr(value, "full_tensor") else value for name, value in found.items()}


def _furthest(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """The largest relative error of a gradient; of the tower's whole where one is next to nothing."""
    if set(found) != set(expected):
        return float("inf")
    whole = max(float(value.norm()) for value in expected.values())
    return max(float((found[name] - value).norm() / max(float(value.norm()), 1e-3 * whole)) for name, value in expected.items())


def _one_rank() -> None:
    """A process group of this process alone."""
    if not dist.is_initialized():
        store = Path(tempfile.mkdtemp()) / "store"
        backend = "nccl" if DEVICE == "cuda" else "gloo"
        dist.init_process_group(backend, init_method=f"file://{store}", rank=0, world_size=1)


def _sharded(batch: Batch, plain: dict[str, Tensor]) -> float:
    _one_rank()
    model, _ = build(TINY[0], {}, torch.float32)
    shard_model(model, init_device_mesh(DEVICE, (1,)), torch.float32, torch.device(DEVICE), cpu_offload=False)
    return _furthest(_backward(model, model, batch), plain)


def _replicated(batch: Batch, plain: dict[str, Tensor]) -> float:
    _one_rank()
    model, _ = build(TINY[0], {}, torch.float32)
    return _furthest(_backward(model, nn.parallel.DistributedDataParallel(model), batch), plain)


def _step_waits(batch: Batch, execution: dict[str, bool]) -> float:
    """0 where nothing in a whole training step waits for the device: upload, towers, loss, optimizer."""
    if DEVICE == "cpu":
        return 0.0
    _, step = build(TINY[0], execution)
    for _ in range(2):
        step(batch)
    return _sync(lambda: step(batch))


def checks_over_ranks(count: int) -> list[Found]:
    """The losses over two ranks that share the card, which meet over gloo, against one process with all pairs."""
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(_rank, (folder, count), nprocs=2)
        parts = [torch.load(Path(folder) / f"{rank}.pt") for rank in range(2)]
    found = []
    for name in NAMES:
        values = inputs(count, 128, torch.float32)
        loss = losses.build(name)(*values)
        loss.backward()
        whole = torch.stack([part[name][0] for part in parts]).mean()
        found.append((f"{name} over two ranks: loss against one process", float((whole / loss.detach().cpu() - 1).abs()), 2e-6))
        worst = 0.0
        for place in (1, 2):
            gradient = torch.cat([part[name][place] for part in parts]) / 2
            expected = values[place - 1].grad.cpu()  # type: ignore[union-attr]
            worst = max(worst, float((gradient - expected).norm() / expected.norm()))
        found.append((f"{name} over two ranks: gradients against one process", worst, 1e-5))
    return found


def _rank(rank: int, folder: str, count: int) -> None:
    """Ranks of uneven size."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    sizes = [count - count // 3, count // 3]
    found = {}
    for name in NAMES:
        part = slice(sum(sizes[:rank]), sum(sizes[: rank + 1]))
        whole = inputs(count, 128, torch.float32)
        images, texts = (value.detach()[part].clone().requires_grad_() for value in whole[:2])
        exchange = Gather(sizes, rank)
        if name == "softmax":
            loss = softmax_contrastive_loss(images, texts, whole[2], exchange=exchange)
        else:
            loss = sigmoid_contrastive_loss(images, texts, whole[2], whole[3], exchange=exchange)
        loss.backward()
        found[name] = [value.cpu() for value in (loss.detach(), images.grad, texts.grad) if value is not None]
    torch.save(found, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()
