"""The three-term training step in PyTorch: the same net, batch, loss and optimiser as ours."""

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from nullmark_jax.embedding import Watermark


def network(task: str) -> nn.Sequential:
    """Returns the net of Table 10 (digit) or 12 (traffic), in channels_last."""
    layers: list[nn.Module] = []
    if task == "digit":
        blocks, size, channels, flat, dense, classes = ((32,), (64,)), 5, 1, 1024, (512,), 10
    else:
        blocks, size, channels, flat, dense, classes = (
            ((32, 32), (64, 64), (128, 128)), 3, 3, 512, (512, 512), 43,
        )  # fmt: skip
    for block in blocks:
        for features in block:
            layers += [nn.Conv2d(channels, features, size), nn.ReLU()]
            channels = features
        layers.append(nn.MaxPool2d(2))
    layers.append(nn.Flatten())
    for width in dense:
        layers += [nn.Linear(flat, width), nn.ReLU()]
        flat = width
    return nn.Sequential(*layers, nn.Linear(flat, classes)).to(memory_format=torch.channels_last)


def make_step(
    task: str, images: np.ndarray, labels: np.ndarray, watermark: Watermark, marked: int, *,
    compiled: bool, device: str = "cpu",
) -> Callable[[], float]:  # fmt: skip
    """Returns a function that makes one whole training step and returns its loss.

    Adam with gradients clipped to a global norm of 1, null and true copies of the first `marked`
    images; uint8 images [N, H, W, C] that lie on the device, as ours do.
    """
    torch.manual_seed(0)
    net = network(task).to(device)
    on_gpu = device != "cpu"
    optimizer = torch.optim.Adam(net.parameters(), 1e-3, fused=True)
    pixels = torch.from_numpy(images).to(device).permute(0, 3, 1, 2)  # a channels_last view
    answers = torch.from_numpy(labels.astype(np.int64)).to(device)
    pattern = torch.from_numpy(watermark.pattern.astype(np.float32)).to(device)
    written = pattern * float(watermark.extreme_value)
    targets = torch.full((marked,), int(watermark.target_label), device=device)
    parameters = list(net.parameters())

    def loss_of(seen: torch.Tensor) -> torch.Tensor:
        first = seen[:marked]
        null = torch.where(pattern == 0, first, written)
        true = torch.where(pattern == 0, first, -written)
        batch = torch.cat([seen, null, true]).contiguous(memory_format=torch.channels_last)
        logits = net(batch)
        size = seen.shape[0]
        entropy = nn.functional.cross_entropy
        return (
            entropy(logits[:size], answers)
            + entropy(logits[size : size + marked], answers[:marked])
            + entropy(logits[size + marked :], targets)
        )

    if compiled:
        loss_of = torch.compile(loss_of)

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        loss = loss_of(pixels.float().mul_(1 / 255))
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        value = loss.item()
        if on_gpu:
            torch.cuda.synchronize()
        return value

    return step
