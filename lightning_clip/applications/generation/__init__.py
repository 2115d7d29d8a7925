"""Generation guided by words: a model of image-text pairs as the critic of pictures that are made step by step."""

from lightning_clip.applications.generation.ascent import Imagined, imagine
from lightning_clip.applications.generation.canvases import Canvas, Fourier, Generated, Resolutions, canvases
from lightning_clip.applications.generation.critic import Critic
from lightning_clip.applications.generation.diffusion import guided

__all__ = ["Canvas", "Critic", "Fourier", "Generated", "Imagined", "Resolutions", "canvases", "guided", "imagine"]
