"""Several weights into one: adapters merged, WiSE-FT, soups."""

from lightning_clip.merging.merged import merged

__all__ = ["merged"]
