"""From tar to batch beside open_clip's way: shuffled, decoded, cropped to 224, tokenized; one core, interleaved.

Both read the same shards in one process without workers. Ours: `ShardSource` in a drawn order through `ClipDataModule`'s loader
(uint8 out; for float out the batch is normalised on the CPU as the model would on its device). Theirs: `webdataset` with a
shuffle buffer, PIL, `open_clip.image_transform(224, is_train=True)`, `SimpleTokenizer`, batched. Photographs are smooth noise
of several scales at JPEG quality 90, or Flickr8k's enlarged under fine noise where `LIGHTNING_CLIP_DATA` names the folder;
captions are Flickr8k's or made up. The quality is that of our evaluation transform beside Pillow's resize (bicubic,
antialiased) and crop of the same file, in decibels, averaged over the photographs. Training decodes JPEGs at a half, a
quarter or an eighth where the crop then keeps `scaled_decoding` times the pixels of the result; of Flickr8k's pictures, the
share is printed whose pixels are within 40 dB of the whole decode of the same crop, over results of 14 to 56 pixels.

    python benchmarks/loading.py
"""

from __future__ import annotations

import argparse
import io
import os
import random
import statistics
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from captions import flickr8k_captions
from open_clip.tokenizer import SimpleTokenizer
from open_clip.transform import image_transform
from PIL import Image
from report import Row, machine, write_section

from lightning_clip import ClipDataModule, ClipModule
from lightning_clip.data import ClipTokenizer
from lightning_clip.data.decoding import decode
from lightning_clip.data.image_steps import Cropped
from lightning_clip.data.transforms import ImageTransformSettings, decode_for, evaluation_transform, training_transform

BATCH = 64
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def flickr8k_photographs(count: int) -> list[Image.Image]:
    """Real photographs of 144 pixels, or none where the data is absent."""
    folder = Path(os.environ.get("LIGHTNING_CLIP_DATA", "")) / "flickr8k"
    if not (folder / "captions.jsonl").is_file():
        return []
    from lightning_clip.data import TableSource

    source = TableSource(str(folder / "captions.jsonl"), "images_144.tar", caption_column="en")
    return [Image.open(io.BytesIO(source[number * 7].image)).convert("RGB") for number in range(count)]  # type: ignore[arg-type]


def photograph(size: tuple[int, int], rng: np.random.Generator, base: Image.Image | None) -> bytes:
    """A picture with the detail, and so the file size, of a photograph of that size."""
    width, height = size
    pixels = np.zeros((height, width, 3))
    if base is not None:
        pixels += np.asarray(base.resize(size, Image.Resampling.BICUBIC), dtype=np.float64)
    scales = (2, 4) if base is not None else (2, 4, 8, 16, 32, 64, 128)
    for scale in scales:
        noise = rng.integers(0, 255, (max(2, height // scale), max(2, width // scale), 3), dtype=np.uint8)
        layer = np.asarray(Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC), dtype=np.float64) - 127
        pixels += layer * (scale**0.5 * 0.06 if base is not None else scale**0.6 * 0.08)
    if base is None:
        pixels += 127
    buffer = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def write_shards(folder: Path, size: tuple[int, int], count: int) -> list[str]:
    rng, bases = np.random.default_rng(0), flickr8k_photographs(count)
    captions = flickr8k_captions() or [f"a picture of {number} things in the park ." for number in range(count)]
    paths = []
    for shard in range(2):
        path = folder / f"{shard}.tar"
        with tarfile.open(path, "w") as archive:
            for number in range(shard * count // 2, (shard + 1) * count // 2):
                image = photograph(size, rng, bases[number] if bases else None)
                for name, content in (("jpg", image), ("txt", captions[number * 35 % len(captions)].encode())):
                    info = tarfile.TarInfo(f"{number:06d}.{name}")
                    info.size = len(content)
                    archive.addfile(info, io.BytesIO(content))
        paths.append(str(path))
    return paths


def theirs(paths: list[str], target: int = 224, repeats: bool = False) -> Any:
    """open_clip's preprocessing and tokenizer in a webdataset pipeline, as its training script builds it."""
    import webdataset

    transform, tokenizer = image_transform(target, is_train=True, mean=MEAN, std=STD), SimpleTokenizer()
    return webdataset.DataPipeline(
        webdataset.ResampledShards(paths) if repeats else webdataset.SimpleShardList(paths),
        webdataset.split_by_worker,
        webdataset.tarfile_to_samples(),
        webdataset.shuffle(1000, initial=100),
        webdataset.decode("pilrgb"),
        webdataset.rename(image="jpg;png;jpeg;webp", text="txt"),
        webdataset.map_dict(image=transform, text=lambda text: tokenizer(text)[0]),
        webdataset.to_tuple("image", "text"),
        webdataset.batched(BATCH, partial=False),
    )


def ours(data: ClipDataModule, epoch: int, normalise: bool) -> Iterator[Any]:
    loader = data.train_dataloader()
    loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
    mean, std = (torch.tensor(value).view(1, 3, 1, 1) * 255 for value in (MEAN, STD))
    for batch in loader:
        yield (batch.image.float().sub_(mean).div_(std), batch.tokens) if normalise else batch


def quality(paths: list[str]) -> float:
    """Decibels of our evaluation pixels beside Pillow's."""
    transform = evaluation_transform(224, ImageTransformSettings())
    found = []
    with tarfile.open(paths[0]) as archive:
        for member in archive.getmembers()[::2][:60]:
            data = archive.extractfile(member).read()  # type: ignore[union-attr]
            picture = Image.open(io.BytesIO(data)).convert("RGB")
            shorter = min(picture.size)  # sides are cut off to whole pixels, as torchvision and open_clip do
            picture = picture.resize([side * 224 // shorter for side in picture.size], Image.Resampling.BICUBIC)
            left, top = (round((side - 224) / 2) for side in picture.size)
            expected = np.asarray(picture.crop((left, top, left + 224, top + 224)), dtype=np.float64)
            pixels = transform(decode(data)).permute(1, 2, 0).numpy().astype(np.float64)
            found.append(10 * np.log10(255**2 / max(1e-6, float(((pixels - expected) ** 2).mean()))))
    return statistics.mean(found)


def near_the_whole(margin: float) -> float | None:
    """Share of Flickr8k's pictures within 40 dB of the whole decode of the same crop; None where the data is absent."""
    from lightning_clip.data import TableSource

    folder = Path(os.environ.get("LIGHTNING_CLIP_DATA", "")) / "flickr8k"
    if not (folder / "captions.jsonl").is_file():
        return None
    source = TableSource(str(folder / "captions.jsonl"), "images_144.tar", caption_column="en")
    found = []
    for number in range(0, len(source), 64):
        for size in range(14, 57, 7):
            transform: Any = training_transform(size, ImageTransformSettings(scaled_decoding=margin))
            whole = decode(source[number].image)
            torch.manual_seed(number)
            scaled = decode_for(source[number].image, transform)
            if not isinstance(scaled, Cropped):
                continue
            torch.manual_seed(number)
            box = transform[0].drawn(*whole.shape[-2:])
            step = box[2] // scaled.pixels.shape[1]
            top, left, height, width = (side // step * step for side in box)
            expected = transform(Cropped(whole[:, top : top + height, left : left + width]))
            error = float((transform(scaled).double() - expected.double()).square().mean())
            found.append(float(10 * np.log10(255**2 / max(1e-6, error)) >= 40))
    return statistics.mean(found)


def rate(batches: Callable[[], Any], most: int) -> float:
    """Samples per second of the processor's time, start included."""
    begun, count = time.process_time(), 0
    for _ in batches():
        count += BATCH
        if count >= most:
            break
    return count / (time.process_time() - begun)


def small_module(target: int, margin: float | None) -> ClipModule:
    """A model that reads images of this size; it is not run."""
    vit = {"name": "vit_tiny_patch16_224", "depth": 1, "image_size": target}
    text = {"name": "clip_text", "width": 32, "layers": 1, "heads": 2}
    towers = {"image": {"transform": {"scaled_decoding": margin}}}
    return ClipModule(vit, text, embed_dim=16, tokenizer=ClipTokenizer(), towers=towers)


def measured(
    folder: str, paths: list[str], target: int, margins: Sequence[float], options: argparse.Namespace
) -> dict[str, float]:
    """Samples per second of both, for each margin and for floats."""
    rates: dict[str, list[float]] = {}
    sources = {
        margin: ClipDataModule(f"{folder}/*.tar", local_batch_size=BATCH).attach(small_module(target, margin))
        for margin in margins
    }
    for number in range(options.rounds + 1):
        found = {"theirs": rate(partial(theirs, paths, target), options.samples)}
        for margin, data in sources.items():
            found[f"{margin:g}"] = rate(partial(ours, data, number, normalise=False), options.samples)
        found["float"] = rate(partial(ours, sources[margins[0]], number, normalise=True), options.samples)
        if number:  # the first round warms caches
            for key, value in found.items():
                rates.setdefault(key, []).append(value)
    return {key: statistics.median(values) for key, values in rates.items()}


def main() -> None:
    """Runs and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    random.seed(0)
    rows = []
    for size in ((512, 384), (1024, 768)):
        with tempfile.TemporaryDirectory() as name:
            paths = write_shards(Path(name), size, arguments.samples)
            kilobytes = sum(Path(path).stat().st_size for path in paths) / arguments.samples / 1000
            for target, margins in ((224, (2.0, 1.25)), (64, (2.0,))):
                rates = measured(name, paths, target, margins, arguments)
                peer = rates["theirs"]
                what = f"{size[0]} x {size[1]} ({kilobytes:.0f} kB) to {target}, samples/s"
                kinds = {f"{margin:g}": f"uint8 out, scaled_decoding {margin:g}" for margin in margins}
                for key, kind in {**kinds, "float": "normalised float out"}.items():
                    rows.append(Row(f"{what}, {kind}", f"{peer:.0f}", f"{rates[key]:.0f}", f"{rates[key] / peer:.2f}x"))
            rows.append(Row(f"{size[0]} x {size[1]}, PSNR to Pillow's bicubic", "", f"{quality(paths):.1f} dB", ""))
    for margin in (2.0, 1.25):
        share = near_the_whole(margin)
        if share is not None:
            rows.append(Row(f"Flickr8k, within 40 dB at scaled_decoding {margin:g}", "", f"{share:.1%}", ""))
    write_section("loading", "Loading: from tar to batch", machine(1, arguments.rounds), rows)


if __name__ == "__main__":
    main()
