"""Video towers: their pooling against plain loops, padding, order, and where they begin."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from small import IMAGE, TEXT, save_checkpoint, small_module
from torch import Tensor
from variants.senses import error_of, gradients

from lightning_clip import ClipDataModule, ClipModule, InputError, Pair
from lightning_clip.applications.video import encode_videos
from lightning_clip.data import PairSource
from lightning_clip.encoders import towers
from lightning_clip.encoders.video import MeanPooledVideo, SequentialVideo, masked_mean, padded_frames
from lightning_clip.loading import open_predictor

SEQUENTIAL = {"name": "seqTransf", "image": IMAGE, "width": 16, "layers": 2, "heads": 2}


def clips(*lengths: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(0, 256, (length, 3, 32, 32), dtype=torch.uint8, generator=generator) for length in lengths]


def mean_by_loops(frames: list[list[list[float]]]) -> list[list[float]]:
    """CLIP4Clip's mean pooling: unit frames, their mean, of unit length."""
    found = []
    for clip in frames:
        total = [0.0] * len(clip[0])
        for frame in clip:
            length = math.sqrt(sum(value * value for value in frame))
            total = [a + b / length / len(clip) for a, b in zip(total, frame, strict=True)]
        length = math.sqrt(sum(value * value for value in total))
        found.append([value / length for value in total])
    return found


def test_mean_pooling_is_that_of_plain_loops() -> None:
    torch.manual_seed(0)
    frames, lengths = torch.randn(4, 6, 9), [6, 1, 4, 2]
    mask = torch.arange(6)[None] < torch.tensor(lengths)[:, None]
    expected = mean_by_loops([clip[:length].double().tolist() for clip, length in zip(frames, lengths, strict=True)])
    torch.testing.assert_close(masked_mean(frames, mask), torch.tensor(expected), atol=1e-6, rtol=0)


def sequential_by_parts(tower: SequentialVideo, frames: Tensor) -> Tensor:
    """One video (T, W) through torch's own Transformer layers with the tower's weights, without any mask."""
    looked = frames + tower.places[: len(frames)]
    block: Any
    for block in tower.temporal:
        layer = torch.nn.TransformerEncoderLayer(
            tower.output_dim, tower.heads, 4 * tower.output_dim, dropout=0, activation="gelu", batch_first=True, norm_first=True
        )
        names = {
            "self_attn.in_proj_": block.attn.qkv, "self_attn.out_proj.": block.attn.proj, "linear1.": block.mlp.fc1,
            "linear2.": block.mlp.fc2, "norm1.": block.norm1, "norm2.": block.norm2,
        }  # fmt: skip
        layer.load_state_dict(
            {f"{name}{kind}": getattr(part, kind) for name, part in names.items() for kind in ("weight", "bias")}
        )
        looked = layer.train()(looked[None])[0]
    return torch.tensor(mean_by_loops([(looked + frames).double().tolist()]))[0]


def test_the_sequential_type_is_a_transformer_with_residual_mean() -> None:
    """Against torch's layers and plain loops, one video at a time: neither padding nor neighbours change anything."""
    torch.manual_seed(0)
    tower = towers.build({**SEQUENTIAL, "layers": 2}).eval()
    torch.nn.init.normal_(tower.places, std=0.5)
    with torch.no_grad():
        found = tower(*tower.collate(clips(5, 2, 1)))
        for row, clip in zip(found, clips(5, 2, 1), strict=True):
            expected = sequential_by_parts(tower, tower.frame_features(clip[None])[0])
            torch.testing.assert_close(row, expected, atol=1e-6, rtol=0)


def test_order_matters_to_one_of_them() -> None:
    torch.manual_seed(0)
    forward, backward = clips(6), [clips(6)[0].flip(0)]
    mean = MeanPooledVideo(IMAGE, width=16).eval()
    sequential = SequentialVideo(IMAGE, width=16, layers=2, heads=2).eval()
    torch.nn.init.normal_(sequential.places)
    with torch.no_grad():
        torch.testing.assert_close(mean(*padded_frames(forward)), mean(*padded_frames(backward)))
        assert (sequential(*padded_frames(forward)) - sequential(*padded_frames(backward))).norm() > 0.01


def test_frames_of_another_size_are_brought_to_the_tower_s() -> None:
    torch.manual_seed(0)
    tower = MeanPooledVideo(IMAGE).eval()
    [clip] = clips(3)
    large = clip.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    with torch.no_grad():
        assert torch.cosine_similarity(tower(*padded_frames([clip])), tower(*padded_frames([large]))).item() > 0.95


def test_a_frozen_image_tower_is_not_trained() -> None:
    tower = SequentialVideo(IMAGE, width=16, layers=1, heads=2, frozen=True).train()
    tower(*tower.collate(clips(3, 2))).sum().backward()
    learned = {name.partition(".")[0] for name, value in tower.named_parameters() if value.grad is not None}
    assert learned == {"places", "temporal"} and not tower.image_encoder.training


@pytest.mark.parametrize("name", ["meanP", "seqTransf"])
def test_it_begins_as_an_image_text_model(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    images = small_module()
    path = save_checkpoint(tmp_path / "images.ckpt", images)
    own = {"layers": 1, "heads": 2} if name == "seqTransf" else {}
    module = ClipModule(
        pretrained=str(path), towers={"video": {"name": name, **own}}, objective={"name": "pairs", "between": ["video", "text"]}
    ).eval()
    assert module.model.columns == ("text", "video")
    expected, found = (encode_videos(model.predictor, clips(4, 2)) for model in (images, module))
    if name == "meanP":
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    assert torch.cosine_similarity(found, expected).min() > 0.8  # temporal layers begin near the mean
    assert torch.equal(module.encode_text(["a dog"]), images.encode_text(["a dog"]))
    again = save_checkpoint(tmp_path / "video.ckpt", module)
    assert torch.equal(encode_videos(open_predictor(again), clips(4, 2)), found)


def test_what_it_refuses(tmp_path: Path) -> None:
    pairs = {"name": "pairs", "between": ["video", "text"]}
    with pytest.raises(InputError, match="a video tower needs an image tower: give image: NAME, or pretrained:"):
        ClipModule(text_encoder=TEXT, towers={"video": "meanP"}, objective=pairs).configure_model()
    with pytest.raises(InputError, match=r"width 15 is not a multiple of heads 2"):
        SequentialVideo(IMAGE, width=15, heads=2)
    with pytest.raises(InputError, match=r"a video of 3 frames is longer than seqTransf's most_frames 2"):
        SequentialVideo(IMAGE, width=16, layers=1, heads=2, most_frames=2)(*padded_frames(clips(3)))
    with pytest.raises(InputError, match=r"a video of shape \(3, 32, 32\) is none: give its frames as uint8"):
        padded_frames([clips(1)[0][0]])
    with pytest.raises(InputError, match="videos of different sizes in one batch"):
        padded_frames([clips(1)[0], clips(1)[0][..., :16]])
    texts = ClipModule(
        text_encoder=TEXT, towers={"video": {**SEQUENTIAL, "projection": "none"}}, embed_dim=16, objective=pairs,
        tokenizer={"name": "clip", "context_length": 24},
    )  # fmt: skip
    path = save_checkpoint(tmp_path / "no_images.ckpt", texts)
    with pytest.raises(InputError, match="takes its image tower from pretrained .* which has none: give image"):
        ClipModule(pretrained=str(path), towers={"video": "meanP"}, objective=pairs)


@pytest.mark.parametrize("name", ["meanP", "seqTransf"])
def test_gradients_in_slices_are_those_of_the_batch(name: str) -> None:
    """Micro-batches cut frames and mask alike, also where videos are of different lengths."""
    torch.manual_seed(0)
    own = {key: SEQUENTIAL[key] for key in ("layers", "heads")} if name == "seqTransf" else {}
    module = ClipModule(
        text_encoder=TEXT, towers={"video": {"name": name, "image": IMAGE, "width": 16, "projection": "none", **own}},
        embed_dim=16, tokenizer={"name": "clip", "context_length": 24},
        objective={"name": "pairs", "between": ["video", "text"]},
    )  # fmt: skip
    source = Lengths()
    batch = next(iter(ClipDataModule(source, local_batch_size=8).attach(module).train_dataloader()))
    assert not batch.columns["video"][1].all()  # some are padded
    assert error_of(gradients(module, batch, 4), gradients(module, batch)) <= 1e-6


class Lengths(PairSource):
    """Clips of one to five frames."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> Pair:
        return Pair(None, (f"clip {index}",), str(index), columns={"video": clips(1 + index % 5)[0]})


def test_normalised_as_the_image_model(tmp_path: Path) -> None:
    """Mean and deviation of the source, not CLIP's."""
    torch.manual_seed(0)
    images = small_module(transform={"mean": [0.2, 0.3, 0.4], "std": [0.5, 0.6, 0.7]})
    path = save_checkpoint(tmp_path / "images.ckpt", images)
    module = ClipModule(
        pretrained=str(path), towers={"video": "meanP"}, objective={"name": "pairs", "between": ["video", "text"]}
    ).eval()
    expected, found = (encode_videos(model.predictor, clips(3)) for model in (images, module))
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
