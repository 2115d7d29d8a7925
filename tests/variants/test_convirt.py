"""ConVIRT: the particulars of the paper, and that it trains on real radiographs."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from small import TEXT, small_data, small_module, small_trainer
from weights.families import bert_tokenizer

from lightning_clip import ClipDataModule, Pair
from lightning_clip.variants import ConvirtModule

SMALL = {"name": "resnet10t", "image_size": 32}


def test_settings_of_the_paper() -> None:
    module = ConvirtModule(SMALL, TEXT, embed_dim=16)
    module.configure_model()
    assert module.objective.loss.image_weight == 0.75 and not module.model.logit_scale.requires_grad
    assert module.model.logit_scale.exp().item() == pytest.approx(10.0)
    assert [type(layer).__name__ for layer in module.model.image_projection] == ["Linear", "ReLU", "Linear"]  # type: ignore[union-attr]
    optimizer = module.training_settings.optimizer
    assert optimizer.lr == 1e-4 and optimizer.weight_decay == 1e-6


def test_published_towers_keep_the_paper_s_temperature(tmp_path: Path) -> None:
    module = small_module(loss={"name": "softmax", "initial_scale": 50.0})
    small_trainer(tmp_path).fit(module, small_data())
    module.trainer.save_checkpoint(tmp_path / "source.ckpt")
    started = ConvirtModule.from_pretrained(str(tmp_path / "source.ckpt"))
    assert started.model.scale().item() == pytest.approx(10.0) and not started.model.logit_scale.requires_grad
    assert torch.equal(started.encode_text(["a dog"]), module.encode_text(["a dog"]))


def test_a_sentence_is_drawn() -> None:
    report = "No effusion. Heart size is 1.5 times normal. Lungs are clear!"
    drawn = {ConvirtModule.choose_caption(Pair(b"", (report,), "x"), random.Random(seed)) for seed in range(50)}
    assert drawn == {"No effusion.", "Heart size is 1.5 times normal.", "Lungs are clear!"}
    assert ConvirtModule.choose_caption(Pair(b"", ("OK",), "x"), random.Random(0)) == "OK"


def test_augmentations_vary_in_training_only() -> None:
    module = ConvirtModule(SMALL, TEXT, embed_dim=16)
    image = torch.randint(0, 256, (3, 50, 60), dtype=torch.uint8)
    train, test = module.image_transform(True), module.image_transform(False)
    assert train(image).shape == test(image).shape == (3, 32, 32) and train(image).dtype == torch.uint8
    assert not torch.equal(train(image), train(image)) and torch.equal(test(image), test(image))


def test_trains_on_radiographs(shared_data: Path, tmp_path: Path) -> None:
    table = {
        "name": str(shared_data / "cxr_covid/captions.jsonl"),
        "images": "images_224.tar",
        "caption_column": "clinical_notes",
        "where": {"split": "val", "modality": "X-ray"},
    }
    trainer = small_trainer(tmp_path, max_steps=2)
    trainer.fit(ConvirtModule(SMALL, TEXT, embed_dim=16), ClipDataModule(table, local_batch_size=8))  # type: ignore[arg-type]
    assert trainer.global_step == 2


def test_the_first_layers_of_a_bert_with_weights_are_frozen(tmp_path: Path) -> None:
    """BERT's embeddings and the first 6 of 12 layers (section 4.1); a tower from scratch is trained as a whole."""
    from transformers import BertConfig, BertModel

    sizes = {"hidden_size": 16, "num_hidden_layers": 12, "num_attention_heads": 2, "intermediate_size": 16, "vocab_size": 60}
    BertModel(BertConfig(**sizes)).save_pretrained(tmp_path / "bert")
    bert_tokenizer(tmp_path / "bert")
    module = ConvirtModule(SMALL, f"hf:{tmp_path / 'bert'}", embed_dim=16)
    frozen = {name for name, value in module.model.tower("text").named_parameters() if not value.requires_grad}
    layers = {int(name.split("layer.")[1].split(".")[0]) for name in frozen if "layer." in name}
    assert layers == set(range(6)) and any("embeddings" in name for name in frozen)
    assert all(value.requires_grad for value in ConvirtModule(SMALL, TEXT, embed_dim=16).model.tower("text").parameters())
