"""New tokens and longer texts: old embeddings and old features exactly as they were, checkpoints that know."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from adapt.test_locking import BERT
from small import small_data, small_module, small_trainer
from torch import Tensor

from lightning_clip import ClipModule, InputError
from lightning_clip.data import ClipTokenizer, train_tokenizer
from lightning_clip.data.tokenizers import JsonTokenizer, Tokenizer, tokenizers
from lightning_clip.encoders import TextEncoder

GROWN = {"text": {"new_tokens": ["<sks>", "Pixelfox"], "context_length": 40}}
OLD = ["a dog", "two red circles and a blue star"]


@pytest.fixture
def base(tmp_path: Path) -> Path:
    trainer = small_trainer(tmp_path, max_steps=1)
    trainer.fit(small_module(optimizer={"warmup_steps": 0}), small_data(size=16))
    trainer.save_checkpoint(tmp_path / "base.ckpt")
    return tmp_path / "base.ckpt"


class TestTokenizers:
    @pytest.mark.parametrize("kind", ["clip", "own"])
    def test_old_ids_stay_and_new_ones_are_one_each(self, kind: str) -> None:
        plain: Tokenizer = ClipTokenizer(32) if kind == "clip" else train_tokenizer(["a dog on the beach", "一只狗在海边"])
        grown = plain.grown(["<sks>", "Pixelfox", "海边"], 48)
        texts = ["a dog", "A Dog on the beach!", "pixelfoxes"]
        assert grown.encode(texts) == plain.encode(texts)
        first = plain.vocab_size
        assert (grown.vocab_size, grown.context_length) == (first + 3, 48)
        ids = grown.encode(["a <sks> dog, Pixelfox.", "Pixelfoxes", "一只狗在海边"])
        assert [token - first for token in ids[0] if token >= first] == [0, 1]
        assert not any(token >= first for token in ids[1])
        assert [token - first for token in ids[2] if token >= first] == [2]
        again = tokenizers.build(grown.to_mapping())
        assert again.encode(["a <sks> dog"]) == grown.encode(["a <sks> dog"])
        assert again.grown(["<sks>", "Pixelfox", "海边"]).vocab_size == first + 3

    def test_a_long_caption_keeps_its_end(self) -> None:
        grown = ClipTokenizer(8).grown(["<sks>"])
        (ids,) = grown.encode(["<sks> " * 20])
        assert len(ids) == 8 and ids[-1] == 49407

    def test_json_keeps_its_end_and_padding(self) -> None:
        grown = train_tokenizer(["a dog"], context_length=8).grown(["<sks>"])
        assert isinstance(grown, JsonTokenizer) and grown.pad_id == 0
        assert grown.encode(["<sks> " * 20])[0][-1] == 2

    def test_one_that_cannot(self) -> None:
        class Letters(Tokenizer):
            vocab_size, context_length, pad_id = 10, 8, 0

            def encode(self, texts: Any) -> list[list[int]]:
                return [[1] for _ in texts]

            def to_mapping(self) -> dict[str, Any]:
                return {}

        with pytest.raises(InputError, match="Letters cannot take new tokens or a longer context"):
            small_module(tokenizer=Letters(), adapt=GROWN)


class TestTowers:
    def test_old_rows_and_features_stay(self, base: Path) -> None:
        before, after = ClipModule(pretrained=str(base)), ClipModule(pretrained=str(base), training={"adapt": GROWN})
        assert torch.equal(after.encode_text(OLD), before.encode_text(OLD))
        old, new = before.model.text_encoder, after.model.text_encoder
        assert torch.equal(new.token_embedding.weight[:49408], old.token_embedding.weight)  # type: ignore[union-attr,index]
        mean = old.token_embedding.weight.mean(dim=0)  # type: ignore[union-attr,operator]
        torch.testing.assert_close(new.token_embedding.weight[49409], mean)  # type: ignore[union-attr,index]
        places: Tensor = new.positional_embedding  # type: ignore[assignment]
        assert torch.equal(places[:24], old.positional_embedding) and torch.equal(places[24:], places[:16])  # type: ignore[arg-type]
        long = "a red circle " * 12
        assert not torch.equal(after.encode_text(long), before.encode_text(long))

    def test_trains_and_comes_back(self, base: Path, tmp_path: Path) -> None:
        module = ClipModule(pretrained=str(base), training={"optimizer": {"lr": 1e-2, "warmup_steps": 0}, "adapt": GROWN})
        trainer = small_trainer(tmp_path, max_steps=2)
        trainer.fit(module, small_data(size=32))
        trainer.save_checkpoint(tmp_path / "grown.ckpt")
        texts = ["a <sks> dog", "Pixelfox " * 30]
        loaded = ClipModule.load_from_checkpoint(tmp_path / "grown.ckpt", weights_only=True)
        assert torch.equal(loaded.encode_text(texts), module.eval().encode_text(texts))
        assert torch.equal(ClipModule(pretrained=str(tmp_path / "grown.ckpt")).encode_text(texts), module.encode_text(texts))

    def test_a_longer_context_under_adapters(self, base: Path, tmp_path: Path) -> None:
        """The checkpoint holds no position: they grow again from the base's."""
        adapt = {"text": {"context_length": 40, "lora": {"rank": 2}}}
        module = ClipModule(pretrained=str(base), training={"optimizer": {"lr": 1e-2, "warmup_steps": 0}, "adapt": adapt})
        trainer = small_trainer(tmp_path, max_steps=2)
        trainer.fit(module, small_data(size=32))
        trainer.save_checkpoint(tmp_path / "grown.ckpt")
        loaded = ClipModule.load_from_checkpoint(tmp_path / "grown.ckpt")
        text = "a red circle " * 12
        assert loaded.tokenizer.context_length == 40
        assert torch.equal(loaded.encode_text(text), module.eval().encode_text(text))

    def test_bert(self) -> None:
        torch.manual_seed(0)
        plain = small_module(text_encoder={"name": "hf", "config": BERT})
        plain.configure_model()
        torch.manual_seed(0)
        grown = small_module(text_encoder={"name": "hf", "config": BERT}, adapt={"text": {"new_tokens": ["<sks>"]}})
        grown.configure_model()
        assert torch.equal(grown.encode_text(OLD), plain.encode_text(OLD))
        assert grown.encode_text(["a <sks>"]).isfinite().all()
        assert grown.to_mapping()["text_encoder"]["config"]["vocab_size"] == 49409


class TestRefused:
    def test_shorter(self) -> None:
        with pytest.raises(InputError, match=r"adapt.text.context_length 12 is less than the tokenizer's 24: to cut captions"):
            small_module(adapt={"text": {"context_length": 12}})

    def test_longer_than_bert_reads(self) -> None:
        module = small_module(text_encoder={"name": "hf", "config": BERT}, adapt={"text": {"context_length": 600}})
        with pytest.raises(InputError, match="adapt.text.context_length 600 is more than the 512 tokens of this Hugging Face"):
            module.configure_model()

    def test_a_tower_that_cannot(self) -> None:
        class Fixed(TextEncoder):
            vocab_size = 49408

            def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
                return torch.zeros(len(tokens), 8)

        module = small_module(text_encoder=Fixed(8, 24), adapt={"text": {"new_tokens": ["<sks>"]}})
        with pytest.raises(InputError, match="Fixed cannot be grown to 49409 tokens and a context of 24"):
            module.configure_model()
