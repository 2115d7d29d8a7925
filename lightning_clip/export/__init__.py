"""Published weights in, your weights out: every format that both sides can hold exactly."""

from lightning_clip.export.pretrained import Pretrained, Source, open_pretrained

__all__ = ["Pretrained", "Source", "open_pretrained"]
