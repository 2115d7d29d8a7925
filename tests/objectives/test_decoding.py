"""Captions predicted from image tokens: the decoders beside loops, zero-shot likelihoods and mistakes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from objectives.test_words import Squares
from small import IMAGE, small_trainer
from torch import nn
from variants.senses import SETTINGS, Senses, batch_of

from lightning_clip import ClipDataModule, ClipModule, InputError
from lightning_clip.data import train_tokenizer
from lightning_clip.encoders.text_decoder import MaskedTextDecoder, TextDecoder, reversed_rows
from lightning_clip.export.export import export
from lightning_clip.losses.draws import drawn_places
from lightning_clip.objectives.masked_words import words_of

DECODER = {"width": 16, "layers": 2, "heads": 2}
TOKENS = torch.tensor([[1, 7, 5, 9, 2, 0, 0], [1, 5, 2, 0, 0, 0, 0], [1, 8, 8, 3, 4, 6, 2]])


def module_of(name: str, **settings: Any) -> ClipModule:
    torch.manual_seed(0)
    return ClipModule(IMAGE, objective={"name": name, "decoder": DECODER, **settings}, **SETTINGS)


def decoder_of(kind: Any, **settings: Any) -> Any:
    """In float64, with weights large enough that everything matters."""
    torch.manual_seed(0)
    decoder = kind(10, 8, 6, width=8, layers=2, heads=2, **settings).double().eval()
    with torch.no_grad():
        for weight in decoder.parameters():
            weight.add_(0.3 * torch.randn_like(weight))
    return decoder


class ByLoops:
    """A decoder in NumPy, one token and one head at a time, with the weights of one of ours."""

    def __init__(self, decoder: Any, blocks: Any) -> None:
        self.decoder, self.blocks = decoder, blocks

    @staticmethod
    def of(value: Any) -> np.ndarray:
        return value.detach().numpy()

    def linear(self, layer: Any, x: np.ndarray) -> np.ndarray:
        return self.of(layer.weight) @ x + self.of(layer.bias)

    def norm(self, layer: Any, x: np.ndarray) -> np.ndarray:
        return (x - x.mean()) / np.sqrt(x.var() + layer.eps) * self.of(layer.weight) + self.of(layer.bias)

    def attend(self, layer: nn.MultiheadAttention, query: np.ndarray, seen: list[np.ndarray]) -> np.ndarray:
        """One query over the vectors that it may see."""
        width, heads = layer.embed_dim, layer.num_heads
        weight, bias = self.of(layer.in_proj_weight), self.of(layer.in_proj_bias)
        parts = [lambda x, k=k: weight[k * width : (k + 1) * width] @ x + bias[k * width : (k + 1) * width] for k in range(3)]
        found = np.zeros(width)
        for head in range(heads):
            own = slice(head * width // heads, (head + 1) * width // heads)
            scores = [parts[0](query)[own] @ parts[1](x)[own] / math.sqrt(width // heads) for x in seen]
            shares = np.exp(scores) / np.exp(scores).sum()
            found[own] = sum(share * parts[2](x)[own] for share, x in zip(shares, seen, strict=True))
        return self.linear(layer.out_proj, found)

    def log_probabilities(self, image: np.ndarray, tokens: list[int], causal: bool) -> list[np.ndarray]:
        """Of the whole vocabulary at each place."""
        decoder = self.decoder
        memory = [self.linear(decoder.image_projection, self.norm(decoder.image_norm, row)) for row in image]
        table, places = self.of(decoder.token_embedding.weight), self.of(decoder.positional_embedding)
        hidden = [table[token] + places[place] for place, token in enumerate(tokens)]
        for block in self.blocks:
            normed = [self.norm(block.norm1, x) for x in hidden]
            hidden = [
                x + self.attend(block.self_attn, normed[place], normed[: place + 1] if causal else normed)
                for place, x in enumerate(hidden)
            ]
            hidden = [x + self.attend(block.multihead_attn, self.norm(block.norm2, x), memory) for x in hidden]
            for place, x in enumerate(hidden):
                wide = self.linear(block.linear1, self.norm(block.norm3, x))
                wide = np.array([value * (1 + math.erf(value / math.sqrt(2))) / 2 for value in wide])
                hidden[place] = x + self.linear(block.linear2, wide)
        logits = [table[:-1] @ self.norm(decoder.final_norm, x) + self.of(decoder.output_bias) for x in hidden]
        return [row - math.log(np.exp(row).sum()) for row in logits]


class TestDecoders:
    @pytest.mark.parametrize("backward", [False, True])
    def test_causal_beside_loops(self, backward: bool) -> None:
        decoder = decoder_of(TextDecoder, backward=True)
        image = torch.randn(3, 4, 6, dtype=torch.float64)
        found = decoder(image, TOKENS, TOKENS > 0, backward=backward)
        loops = ByLoops(decoder, decoder.backward_blocks if backward else decoder.blocks)
        for row, tokens in enumerate(TOKENS.tolist()):
            text = [token for token in tokens if token]
            text = text[::-1] if backward else text
            logs = loops.log_probabilities(image[row].numpy(), text[:-1], causal=True)
            expected = [logs[place][token] for place, token in enumerate(text[1:])]
            torch.testing.assert_close(found[row, : len(expected)].tolist(), expected, rtol=1e-9, atol=1e-9)
            assert not found[row, len(expected) :].any()

    def test_masked_beside_loops(self) -> None:
        decoder = decoder_of(MaskedTextDecoder)
        image = torch.randn(3, 4, 6, dtype=torch.float64)
        hidden = torch.zeros_like(TOKENS, dtype=torch.bool)
        for row, place in ((0, 1), (0, 3), (1, 1), (2, 4)):
            hidden[row, place] = True
        found = decoder(image, TOKENS, TOKENS > 0, hidden)
        for row, tokens in enumerate(TOKENS.tolist()):
            text = [10 if hidden[row, place] else token for place, token in enumerate(tokens) if token]
            logs = ByLoops(decoder, decoder.blocks).log_probabilities(image[row].numpy(), text, causal=False)
            for place, token in enumerate(tokens):
                expected = logs[place][token] if hidden[row, place] else 0.0
                assert found[row, place].item() == pytest.approx(expected, abs=1e-9)

    def test_untrained_they_know_nothing(self) -> None:
        """With vectors of 0 every token is as likely: -log V each."""
        decoder = decoder_of(TextDecoder)
        nn.init.zeros_(decoder.token_embedding.weight)
        nn.init.zeros_(decoder.output_bias)
        found = decoder(torch.randn(3, 4, 6, dtype=torch.float64), TOKENS, TOKENS > 0)
        assert found.sum(dim=1).tolist() == pytest.approx([-4 * math.log(10), -2 * math.log(10), -6 * math.log(10)])

    def test_padding_changes_nothing(self) -> None:
        image = torch.randn(1, 4, 6, dtype=torch.float64)
        short, long = TOKENS[1:2, :3], TOKENS[1:2]
        for decoder, more in ((decoder_of(TextDecoder, backward=True), (True,)), (decoder_of(MaskedTextDecoder), None)):
            places = [more or (row == 5,) for row in (short, long)]
            found = [decoder(image, row, row > 0, *place) for row, place in zip((short, long), places, strict=True)]
            torch.testing.assert_close(found[0].sum(), found[1].sum())

    def test_reversed_rows_twice_are_the_rows(self) -> None:
        once = reversed_rows(TOKENS, TOKENS > 0)
        assert once[0].tolist() == [2, 9, 5, 7, 1, 0, 0]
        assert torch.equal(reversed_rows(once, TOKENS > 0), TOKENS)


class TestLoss:
    @pytest.mark.parametrize("backward", [False, True])
    def test_captioning_is_the_mean_over_a_caption_s_tokens(self, backward: bool) -> None:
        module = module_of("captioning", backward=backward).double()
        batch = batch_of(module, Senses(), 5)
        output = module.encoded_rows(batch)
        image_tokens = module.model.encode_with_tokens("image", batch.image)[1]
        decoder: Any = module.model.captioning
        logs = [decoder(image_tokens, batch.tokens, batch.mask, way) for way in (False, True)[: 1 + backward]]
        expected = []
        for row in range(5):
            count = int(batch.mask[row].sum()) - 1  # type: ignore[index]
            expected.append(-sum(log[row, place].item() for log in logs for place in range(count)) / count / len(logs))
        torch.testing.assert_close(output.rows["captioning"].tolist(), expected, rtol=1e-6, atol=1e-9)
        loss = module.compute_loss(output, batch)["loss"].item()
        assert loss == pytest.approx(sum(expected) / 5, rel=1e-6)

    def test_masked_words_are_drawn_by_sample_and_batch(self) -> None:
        allowed = words_of(TOKENS > 0)
        assert allowed.sum(dim=1).tolist() == [3, 1, 5] and not allowed[:, 0].any()
        keys = torch.tensor([11, 12, 13])
        draws = [drawn_places(allowed, 0.4, keys, draw) for draw in range(200)]
        assert all(found.sum(dim=1).tolist() == [2, 1, 2] and not (found & ~allowed).any() for found in draws)
        assert torch.equal(drawn_places(allowed[2:], 0.4, keys[2:], 5), draws[5][2:])
        wider = torch.cat([allowed, torch.zeros(3, 9, dtype=torch.bool)], dim=1)
        assert torch.equal(drawn_places(wider, 0.4, keys, 5)[:, :7], draws[5])
        often = torch.stack(draws)[:, 2, 1:6].float().mean(dim=0)
        assert ((often > 0.28) & (often < 0.52)).all()  # each of five places 0.4 of the time

    def test_masked_words_change_with_the_batch_in_training_alone(self) -> None:
        module = module_of("masked_words", share=0.3).train()
        batch = batch_of(module, Senses(), 8)
        losses = []
        for number in (0, 1, 0):
            module.objective.begin_batch(number)
            losses.append(module.encoded_rows(batch).rows["masked_words"].detach())
        assert torch.equal(losses[0], losses[2]) and not torch.equal(losses[0], losses[1])
        module.eval().objective.begin_batch(1)
        assert torch.equal(module.encoded_rows(batch).rows["masked_words"].detach(), losses[0])


class TestZeroShot:
    @pytest.mark.parametrize("length", ["mean", "sum"])
    def test_captioning_by_the_likelihood_of_each_prompt(self, length: str) -> None:
        module = module_of("captioning", length=length, backward=True).eval()
        images = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
        classes, templates = ["cat", ["a black dog", "hound"]], ["a {}", "a photo of a {}"]
        found = module.predictor.scores(images, classes, templates)
        with torch.no_grad():
            image_tokens = module.model.encode_with_tokens("image", images)[1]
            for column, names in enumerate([["cat"], ["a black dog", "hound"]]):
                total = torch.zeros(3)
                for prompt in [template.format(name) for name in names for template in templates]:
                    tokens, mask = (part.expand(3, -1) for part in module.tokenizer([prompt]))
                    logs = [module.model.captioning(image_tokens, tokens, mask, way).sum(dim=1) for way in (False, True)]  # type: ignore[operator]
                    total += (logs[0] + logs[1]) / 2 / (mask[:, 1:].sum(dim=1) if length == "mean" else 1)
                torch.testing.assert_close(found[:, column], total / len(names) / len(templates))

    def test_masked_words_each_in_turn(self) -> None:
        module = module_of("masked_words").eval()
        images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
        found = module.predictor.scores(images, ["cat", "black dog"], ["a {}"])
        with torch.no_grad():
            image_tokens = module.model.encode_with_tokens("image", images)[1]
            for column, prompt in enumerate(["a cat", "a black dog"]):
                tokens, mask = (part.expand(2, -1) for part in module.tokenizer([prompt]))
                places = words_of(mask)[0].nonzero().flatten().tolist()
                total = torch.zeros(2)
                for place in places:
                    hidden = torch.zeros_like(mask).index_fill(1, torch.tensor([place]), True)
                    total += module.model.masked_words(image_tokens, tokens, mask, hidden).sum(dim=1)  # type: ignore[operator]
                torch.testing.assert_close(found[:, column], total / len(places))

    @pytest.mark.parametrize("name", ["captioning", "masked_words"])
    def test_learns_to_name_colours(self, name: str, tmp_path: Path) -> None:
        trainer = small_trainer(tmp_path, max_steps=60)
        objective = {"name": name, "decoder": {"width": 16, "layers": 1, "heads": 2}}
        optimizer = {"lr": 1e-2, "warmup_steps": 1, "schedule": "constant"}
        torch.manual_seed(0)
        tokenizer = train_tokenizer([f"a {colour} square" for colour in ("red", "green", "blue")], 300)
        training = {"optimizer": optimizer}
        module = ClipModule(IMAGE, objective=objective, embed_dim=16, tokenizer=tokenizer, training=training)
        trainer.fit(module, ClipDataModule(Squares(), local_batch_size=12))
        trainer.save_checkpoint(tmp_path / "last.ckpt")
        again = ClipModule.load_from_checkpoint(tmp_path / "last.ckpt")
        images = torch.stack([Squares()[index].image for index in range(6)])  # type: ignore[misc]
        scores = again.predictor.scores(images, ["red", "green", "blue"], ["a {} square"])
        assert scores.argmax(dim=1).tolist() == [0, 1, 2, 0, 1, 2]
        with pytest.raises(InputError, match=f"weights beside its towers .{name}., which .* does not hold"):
            export(again, "huggingface", tmp_path / "out")


class TestMistakes:
    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"decoder": {"depth": 2}}, "objective 'captioning': decoder has no setting 'depth'"),
            ({"decoder": {"layers": 0}}, "objective 'captioning': decoder.layers 0 must be a whole number >= 1"),
            ({"length": "norm"}, "objective 'captioning': length 'norm' must be mean or sum"),
        ],
    )
    def test_settings(self, settings: dict[str, Any], message: str) -> None:
        with pytest.raises(InputError, match=message):
            module_of("captioning", **settings)

    def test_a_share(self) -> None:
        with pytest.raises(InputError, match="objective 'masked_words': share 0 must be a number > 0 and <= 1"):
            module_of("masked_words", share=0)

    def test_a_width_that_is_no_multiple_of_heads(self) -> None:
        with pytest.raises(InputError, match="decoder width 10 must be a multiple of heads 4"):
            module_of("captioning", decoder={"width": 10}).configure_model()

    def test_a_context_shorter_than_captions(self) -> None:
        module = module_of("captioning", decoder={**DECODER, "context_length": 8})
        with pytest.raises(InputError, match="context_length 8 is shorter than captions of the tokenizer, 24 tokens: set tok"):
            module.configure_model()
        with pytest.raises(InputError, match="captions of 9 tokens exceed the decoder's context_length 8"):
            decoder_of(TextDecoder).logits(torch.zeros(1, 4, 6).double(), torch.ones(1, 9, dtype=torch.long))

    def test_a_caption_that_is_too_long_is_cut_by_the_tokenizer(self) -> None:
        module = module_of("captioning")
        tokens, mask = module.tokenizer(["word " * 90])
        batch = batch_of(module, Senses(), 1)._replace(tokens=tokens, mask=mask)
        assert tokens.shape == (1, 24) and torch.isfinite(module.encoded_rows(batch).rows["captioning"]).all()

    def test_an_image_tower_without_tokens(self) -> None:
        from lightning_clip.encoders import ImageEncoder

        class MeanColour(ImageEncoder):
            def __init__(self) -> None:
                super().__init__(output_dim=8, image_size=32)
                self.layer = nn.Linear(3, 8)

            def forward(self, image: torch.Tensor) -> torch.Tensor:
                return self.layer(image.mean(dim=(2, 3)))  # type: ignore[no-any-return]

        module = ClipModule(MeanColour(), objective="captioning", embed_dim=16)
        with pytest.raises(InputError, match="'captioning' reads image tokens: MeanColour gives one vector per sample"):
            module.configure_model()


def test_a_resumed_run_of_captioning_ends_as_the_whole_one(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(["a red cube", "a blue ball"], 300, 24).to_mapping()

    def run(steps: int, seed: int, resume: Path | None = None) -> tuple[Any, dict[str, Any]]:
        torch.manual_seed(seed)
        objective = {"name": "captioning", "decoder": DECODER, "backward": True}
        optimizer = {"lr": 1e-3, "warmup_steps": 1, "schedule": "constant"}
        settings: dict[str, Any] = {**SETTINGS, "tokenizer": tokenizer, "training": {"optimizer": optimizer}}
        module = ClipModule(IMAGE, objective=objective, **settings)
        trainer = small_trainer(tmp_path, max_steps=steps)
        trainer.fit(module, ClipDataModule(Senses(), local_batch_size=8), ckpt_path=resume)
        return trainer, {name: value.clone() for name, value in module.state_dict().items()}

    whole = run(4, 0)[1]
    run(2, 0)[0].save_checkpoint(tmp_path / "half.ckpt")
    again = run(4, 5, tmp_path / "half.ckpt")[1]
    assert any(name.startswith("model.captioning.backward_blocks") for name in whole)
    assert all(torch.equal(again[name], value) for name, value in whole.items())
