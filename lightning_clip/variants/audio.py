"""Sound and its descriptions (CLAP, Elizalde et al. 2022, arXiv 2206.04769): a spectrogram tower over waveforms."""

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from lightning_clip.encoders import Tower, towers

__all__ = ["Spectrogram"]


@towers.register("spectrogram")
class Spectrogram(Tower):
    """A waveform's power spectrogram on a log scale, convolutions over time, and the mean over what is sound.
    Train it with `towers: {audio: spectrogram}` and `objective: {name: pairs, between: [audio, text]}`.

    Args:
        width: of the features.
        window: samples in one frame, a power of two; frames begin every quarter of it.
        depth: number of convolutions.

    Examples:
        >>> tower = Spectrogram(width=16, window=64)
        >>> tower(*tower.collate([torch.randn(400), torch.randn(1, 800)])).shape
        torch.Size([2, 16])
    """

    column = "audio"
    hann: Tensor

    def __init__(self, width: int = 256, window: int = 512, depth: int = 2) -> None:
        super().__init__(output_dim=width)
        self.width, self.window, self.depth = width, window, depth
        self.register_buffer("hann", torch.hann_window(window), persistent=False)
        widths = [window // 2 + 1, *[width] * depth]
        self.layers = nn.ModuleList(nn.Conv1d(a, b, 5, padding=2) for a, b in pairwise(widths))

    @staticmethod
    def collate(values: list[Any]) -> tuple[Tensor, Tensor]:
        """Waveforms (S,) or (channels, S) -> samples float32 (B, longest S), padded with silence, and lengths int64 (B,)."""
        waves = [torch.as_tensor(value, dtype=torch.float32) for value in values]
        waves = [wave.mean(dim=0) if wave.ndim == 2 else wave for wave in waves]
        return nn.utils.rnn.pad_sequence(waves, batch_first=True), torch.tensor([len(wave) for wave in waves])

    def forward(self, samples: Tensor, lengths: Tensor) -> Tensor:
        """Samples (B, S) and how many of them are sound (B,) -> (B, width)."""
        step = self.window // 4
        padded = nn.functional.pad(samples, (0, self.window))
        power = torch.stft(padded, self.window, step, window=self.hann, center=False, return_complex=True).abs().square()
        hidden = (power + 1e-6).log()  # (B, S) -> (B, W/2 + 1, T)
        place = torch.arange(hidden.shape[2], device=samples.device) * step
        sound = (place[None, :] < lengths[:, None]).unsqueeze(1)  # (B, 1, T)
        for layer in self.layers:
            hidden = nn.functional.gelu(layer(hidden * sound))  # -> (B, width, T)
        return (hidden * sound).sum(dim=2) / sound.sum(dim=2)  # -> (B, width)
