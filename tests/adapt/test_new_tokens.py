"""New tokens in a text tower that is still: old vectors bit by bit, new ones as in a whole table, one table after merging."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from adapt.test_locking import BERT, assert_near
from corners import corners
from small import TEXT, small_data, small_module, small_trainer
from strategies.ranks import OPTIMIZER, alone, fit
from tasks.labelled import module_of
from torch import Tensor, nn

from lightning_clip import ClipModule, InputError
from lightning_clip.adapt import AdaptSettings
from lightning_clip.cli import main
from lightning_clip.encoders import TextEncoder, lean_block
from lightning_clip.encoders.new_tokens import GrownTable, add_new_tokens, join_new_tokens
from lightning_clip.encoders.text_transformer import ClipTextTransformer
from lightning_clip.export.export import export
from lightning_clip.merging import merged
from lightning_clip.tasks import ClassifierModule
from lightning_clip.tasks.learned_prompt import LearnedPrompt

WORDS = ["red", "<sks>"]  # the first occurs in rendered captions, the second does not
TEXTS = ["a <sks> red dog", "a red circle and a red star", "a dog"]
LOCK, LAST, LORA = {"lock": True}, {"lock": True, "unlock_last": 1}, {"lora": {"rank": 2}}
# Of a lock, a lock that leaves the last block open, and adapters, every run sees the first.
FEW = pytest.mark.parametrize("still", corners([LOCK, LAST, LORA], LOCK), ids=["lock", "unlock_last", "lora"])
STILL = pytest.mark.parametrize("still", [LOCK, LAST, LORA], ids=["lock", "unlock_last", "lora"])
TOWERS = pytest.mark.parametrize("tower", [TEXT, {"name": "hf", "config": BERT}], ids=["clip_text", "bert"])
ROWS = "new_tokens.weight"


def adapt(still: dict[str, Any], **others: Any) -> dict[str, Any]:
    return {"text": {"new_tokens": WORDS, **still}, **others}


def built(**settings: Any) -> tuple[ClipModule, dict[str, Tensor]]:
    torch.manual_seed(0)
    module = small_module(**{"optimizer": OPTIMIZER, **settings})
    module.configure_model()
    return module, {name: value.clone() for name, value in module.state_dict().items()}


def train(module: ClipModule, folder: Path, steps: int = 3, save: Path | None = None, **fitting: Any) -> Any:
    trainer = small_trainer(folder, max_steps=steps)
    trainer.fit(module, small_data(size=32), **fitting)
    if save:
        trainer.save_checkpoint(save)
    module.eval()
    return trainer


def part(weights: dict[str, Tensor], ending: str) -> Tensor:
    (found,) = (value for name, value in weights.items() if name.endswith(ending))
    return found


def changed(module: ClipModule, before: dict[str, Tensor]) -> set[str]:
    return {name for name, value in module.state_dict().items() if not torch.equal(value, before[name])}


@pytest.fixture
def base(tmp_path: Path) -> Path:
    torch.manual_seed(1)
    module = small_module(optimizer=OPTIMIZER)
    train(module, tmp_path, 1, tmp_path / "base.ckpt")
    return tmp_path / "base.ckpt"


class TestTable:
    @pytest.mark.parametrize("spare", [0, 3], ids=["full", "spare_rows"])
    def test_as_one_table_in_values_and_gradients(self, spare: int) -> None:
        """Also where the old table has rows that no token uses."""
        torch.manual_seed(0)
        old = nn.Embedding(10 + spare, 4, padding_idx=0, dtype=torch.float64)
        grown = GrownTable(old, first=10, count=2)
        assert torch.equal(grown.new_tokens.weight[1], old.weight[:10].mean(dim=0))
        nn.init.normal_(grown.new_tokens.weight)
        whole = nn.Embedding(12, 4, _weight=torch.cat([old.weight[:10], grown.new_tokens.weight]).detach())
        tokens, upstream = torch.tensor([[3, 10, 11, 10], [9, 1, 0, 11]]), torch.randn(2, 4, 4, dtype=torch.float64)
        assert torch.equal(grown(tokens), whole(tokens))
        (grown(tokens) * upstream).sum().backward()
        (whole(tokens) * upstream).sum().backward()
        torch.testing.assert_close(grown.new_tokens.weight.grad, whole.weight.grad[10:], rtol=0, atol=1e-15)

    def test_no_new_token_in_the_batch(self) -> None:
        grown = GrownTable(nn.Embedding(10, 4).requires_grad_(False), first=10, count=2)
        grown(torch.tensor([[3, 4]])).sum().backward()
        assert torch.equal(grown.new_tokens.weight.grad, torch.zeros(2, 4))

    def test_a_table_that_multiplies(self) -> None:
        class Scaled(nn.Embedding):
            def forward(self, input: Tensor) -> Tensor:
                return super().forward(input) * 8

        table = Scaled(10, 4)
        grown = GrownTable(table, first=10, count=1)
        torch.testing.assert_close(grown(torch.tensor([10]))[0], 8 * table.weight.mean(dim=0))

    def test_a_tower_that_holds_its_table_thrice(self) -> None:
        """As one layer under two names, and as another layer of the same weights."""

        class Thrice(ClipTextTransformer):
            def __init__(self) -> None:
                super().__init__(width=8, layers=1, heads=2, vocab_size=10)
                self.same, self.tied = self.token_embedding, nn.Embedding(10, 8)
                self.tied.weight = self.token_embedding.weight

        encoder = Thrice()
        add_new_tokens(encoder, first=10, count=2)
        assert isinstance(encoder.token_embedding, GrownTable)
        assert encoder.same is encoder.tied is encoder.token_embedding
        encoder.token_embedding.new_tokens.weight.data.fill_(3.0)
        join_new_tokens(encoder)
        assert type(encoder.token_table()) is nn.Embedding and encoder.vocab_size == 12
        assert (encoder.token_embedding.weight[10:] == 3).all()

    def test_under_a_learned_prompt(self) -> None:
        grown = GrownTable(nn.Embedding(10, 4), first=10, count=1)
        tokens, mask = torch.tensor([[1, 2, 10, 3]]), torch.ones(1, 4, dtype=torch.bool)
        prompt = LearnedPrompt(tokens, mask, torch.tensor([[1, 2]]), grown, class_specific=False, random=False)
        assert torch.equal(prompt.vectors[0], grown(tokens)[0, 1:3])
        prompt.vectors.data.fill_(7.0)
        with prompt.in_place_of_words(grown):
            found = grown(tokens)
        assert (found[0, 1:3] == 7).all() and torch.equal(found[0, [0, 3]], grown(tokens)[0, [0, 3]])


class TestTraining:
    @STILL
    @TOWERS
    def test_only_new_rows_of_the_table(self, tmp_path: Path, still: dict[str, Any], tower: dict[str, Any]) -> None:
        module, before = built(text_encoder=tower, adapt=adapt(still))
        (optimizer,) = train(module, tmp_path).optimizers
        tables = {name for name in changed(module, before) if "embed" in name and "image" not in name}
        assert len(tables) == 1 and part(module.state_dict(), ROWS).shape[0] == 2
        (name,) = tables
        assert name.endswith(ROWS)
        assert not any(name.startswith("model.text_encoder") for name in changed(module, before) - tables) or still is not LOCK
        states = {id(parameter) for parameter in optimizer.state}
        parameters = dict(module.named_parameters())
        assert id(parameters[name]) in states and id(parameters[name.replace("new", "old")]) not in states
        # Without decay a token that no caption has stays where it began.
        assert torch.equal(part(module.state_dict(), ROWS)[1], before[name][1])

    def test_as_a_whole_table_with_masked_gradients(self, base: Path, tmp_path: Path) -> None:
        optimizer = {**OPTIMIZER, "weight_decay": 0.0}
        whole, module = (
            ClipModule(pretrained=str(base), training={"optimizer": optimizer, "adapt": settings})
            for settings in ({"text": {"new_tokens": WORDS}}, adapt(LOCK))
        )
        whole.configure_model()
        table: Any = whole.model.text_encoder.token_embedding
        whole.model.text_encoder.requires_grad_(False)
        table.weight.requires_grad_(True)
        table.weight.register_hook(lambda gradient: torch.cat([torch.zeros_like(gradient[:49408]), gradient[49408:]]))
        train(whole, tmp_path)
        train(module, tmp_path)
        torch.testing.assert_close(part(module.state_dict(), ROWS), table.weight[49408:].detach(), rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(module.encode_text(TEXTS), whole.encode_text(TEXTS), rtol=0, atol=1e-6)

    def test_rate_is_the_tower_s_whatever_the_depth(self, tmp_path: Path) -> None:
        module, _ = built(adapt=adapt({**LAST, "lr": 3e-3, "layer_decay": 0.5, "weight_decay": 0.1}))
        (optimizer,) = train(module, tmp_path, 1).optimizers
        rows = part(dict(module.named_parameters()), ROWS)
        (group,) = (group for group in optimizer.param_groups if any(value is rows for value in group["params"]))
        assert (group["lr"], group["weight_decay"]) == (3e-3, 0.0)

    def test_nothing_but_new_words(self, tmp_path: Path) -> None:
        everything = {"lock": True, "lock_projection": True}
        module, before = built(adapt=adapt(everything, image=everything))
        train(module, tmp_path)
        assert changed(module, before) == {f"model.text_encoder.token_embedding.{ROWS}", "model.logit_scale"}

    @pytest.mark.parametrize("still", [LOCK, LORA], ids=["lock", "lora"])
    def test_slices_and_chunks_change_nothing(self, tmp_path: Path, still: dict[str, Any]) -> None:
        def weights(**settings: Any) -> dict[str, Tensor]:
            module, _ = built(adapt=adapt(still), **settings)
            train(module, tmp_path)
            return module.state_dict()

        expected = weights(execution={"text_chunks": 1})
        assert_near(weights(micro_batch_size=4, execution={"text_chunks": 3}), expected)

    def test_checkpointed_blocks(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A locked tower is in evaluation mode and keeps no activations for its new tokens all the same."""
        first, _ = built(adapt=adapt(LOCK))
        train(first, tmp_path)
        calls, plain = [], lean_block.checkpoint
        monkeypatch.setattr(lean_block, "checkpoint", lambda *a, **b: calls.append(1) or plain(*a, **b))
        second, _ = built(adapt=adapt(LOCK), execution={"checkpoint": ["text"]})
        train(second, tmp_path)
        assert calls and torch.equal(part(second.state_dict(), ROWS), part(first.state_dict(), ROWS))
        before = len(calls)
        second.encode_text(TEXTS)
        assert len(calls) == before

    def test_ordinary_training_keeps_one_table(self) -> None:
        _, before = built(adapt={"text": {"new_tokens": WORDS}})
        assert before["model.text_encoder.token_embedding.weight"].shape == (49410, 32)
        assert not any("tokens" in name for name in before)


class TestStages:
    STAGED = adapt({}, stages=[{"until_step": 2, "text": LOCK}])

    def test_old_words_learn_later(self, tmp_path: Path) -> None:
        for steps in (2, 4):
            module, before = built(adapt=self.STAGED)
            train(module, tmp_path, steps)
            same = torch.equal(part(module.state_dict(), "old_tokens.weight"), part(before, "old_tokens.weight"))
            assert same == (steps == 2) and not torch.equal(part(module.state_dict(), ROWS), part(before, ROWS))

    @pytest.mark.parametrize("stop", [1, 3])
    def test_resumes(self, tmp_path: Path, stop: int) -> None:
        whole, _ = built(adapt=self.STAGED)
        train(whole, tmp_path, 4)
        half, _ = built(adapt=self.STAGED)
        train(half, tmp_path, stop, tmp_path / "half.ckpt")
        again, _ = built(adapt=self.STAGED)
        train(again, tmp_path, 4, ckpt_path=tmp_path / "half.ckpt", weights_only=True)
        for name, value in whole.state_dict().items():
            assert torch.equal(again.state_dict()[name], value), name


@pytest.mark.parametrize("strategy", corners(["ddp", "clip_fsdp2"], "clip_fsdp2"))
class TestRanks:
    @FEW
    def test_as_one_process(self, tmp_path: Path, still: dict[str, Any], strategy: str) -> None:
        settings: dict[str, Any] = {"adapt": adapt(still), "micro_batch_size": 4}
        found = fit(tmp_path, strategy=strategy, **settings)["weights"]
        assert_near(found, alone(tmp_path, **settings))
        assert not torch.equal(part(found, ROWS)[0], part(found, ROWS)[1])

    @pytest.mark.slow
    def test_words_that_no_caption_has(self, tmp_path: Path, strategy: str) -> None:
        settings: dict[str, Any] = {"adapt": {"text": {"new_tokens": ["<sks>"], **LOCK}}, "max_steps": 2}
        assert_near(fit(tmp_path, strategy=strategy, **settings)["weights"], alone(tmp_path, **settings))

    @pytest.mark.parametrize("kind", corners(["lora", "stages"], "stages"))
    def test_resumes_from_one_process(self, tmp_path: Path, kind: str, strategy: str) -> None:
        settings = {"lora": adapt(LORA), "stages": TestStages.STAGED}[kind]
        whole = alone(tmp_path, adapt=settings)
        torch.manual_seed(0)
        module = small_module(optimizer=OPTIMIZER, adapt=settings)
        trainer = small_trainer(tmp_path, max_steps=3)
        trainer.fit(module, small_data(size=32, batch=16))
        trainer.save_checkpoint(tmp_path / "one.ckpt")
        assert_near(fit(tmp_path, strategy=strategy, adapt=settings, resume=tmp_path / "one.ckpt")["weights"], whole)


class TestCheckpoints:
    @FEW
    @pytest.mark.parametrize("store", ["full", "trained"])
    def test_loads_with_no_arguments(self, base: Path, tmp_path: Path, still: dict[str, Any], store: str) -> None:
        module = ClipModule(pretrained=str(base), training={"optimizer": OPTIMIZER, "adapt": {**adapt(still), "store": store}})
        train(module, tmp_path, save=tmp_path / "words.ckpt")
        noted = torch.load(tmp_path / "words.ckpt", weights_only=True)["state_dict"]
        assert part(noted, ROWS).shape == (2, 32)
        assert any("old_tokens" in name for name in noted) == (store == "full")
        loaded = ClipModule.load_from_checkpoint(tmp_path / "words.ckpt", weights_only=True)
        assert torch.equal(loaded.encode_text(TEXTS), module.encode_text(TEXTS))

    @pytest.mark.parametrize("still", corners([LOCK, LORA], LORA), ids=["lock", "lora"])
    def test_bert_and_a_longer_context(self, tmp_path: Path, still: dict[str, Any]) -> None:
        for tower in ({"name": "hf", "config": BERT}, TEXT):
            settings = {**adapt({**still, "context_length": 40}), "store": "full"}
            module, _ = built(text_encoder=tower, adapt=settings)
            train(module, tmp_path, save=tmp_path / "words.ckpt")
            texts = [*TEXTS, "a red circle " * 12]
            loaded = ClipModule.load_from_checkpoint(tmp_path / "words.ckpt", weights_only=True)
            assert torch.equal(loaded.encode_text(texts), module.encode_text(texts))
            torch.testing.assert_close(merged(loaded).encode_text(texts), module.encode_text(texts), rtol=0, atol=1e-6)

    def test_goes_on(self, base: Path, tmp_path: Path) -> None:
        def module() -> ClipModule:
            torch.manual_seed(3)
            return ClipModule(
                pretrained=str(base), training={"optimizer": OPTIMIZER, "adapt": {**adapt(LOCK), "store": "trained"}}
            )

        whole, again = module(), module()
        train(whole, tmp_path, 4)
        train(module(), tmp_path, 2, tmp_path / "half.ckpt")
        train(again, tmp_path, 4, ckpt_path=tmp_path / "half.ckpt", weights_only=True)
        assert torch.equal(part(again.state_dict(), ROWS), part(whole.state_dict(), ROWS))


class TestMerging:
    @FEW
    @TOWERS
    def test_one_table(self, tmp_path: Path, still: dict[str, Any], tower: dict[str, Any]) -> None:
        module, before = built(text_encoder=tower, adapt=adapt(still))
        train(module, tmp_path)
        features, whole = module.encode_text(TEXTS), merged(module)
        torch.testing.assert_close(whole.encode_text(TEXTS), features, rtol=0, atol=1e-6)
        assert not any("_tokens" in name or "lora" in name for name in whole.state_dict())
        table: Any = whole.model.text_encoder.token_table()
        assert type(table) is nn.Embedding and table.weight.requires_grad
        assert torch.equal(table.weight[:49408], part(before, "old_tokens.weight"))
        assert torch.equal(table.weight[49408:], part(module.state_dict(), ROWS))
        spec = whole.to_mapping()["text_encoder"]
        assert spec.get("config", spec)["vocab_size"] == whole.tokenizer.vocab_size == 49410
        assert whole.training_settings.adapt == AdaptSettings()
        assert torch.equal(module.encode_text(TEXTS), features)  # the original is as it was
        train(whole.train(), tmp_path, 1)

    def test_command_and_what_reads_its_file(self, base: Path, tmp_path: Path) -> None:
        module = ClipModule(
            pretrained=str(base), training={"optimizer": OPTIMIZER, "adapt": {**adapt(LOCK), "store": "trained"}}
        )
        train(module, tmp_path, save=tmp_path / "words.ckpt")
        assert main(["checkpoint", "merge", str(tmp_path / "words.ckpt"), str(tmp_path / "whole.ckpt")]) == 0
        base.unlink()
        for whole in (
            ClipModule.load_from_checkpoint(tmp_path / "whole.ckpt", weights_only=True),
            ClipModule(pretrained=str(tmp_path / "whole.ckpt")),
        ):
            torch.testing.assert_close(whole.encode_text(TEXTS), module.encode_text(TEXTS), rtol=0, atol=1e-6)

    def test_export(self, tmp_path: Path) -> None:
        module, _ = built(adapt=adapt(LOCK))
        train(module, tmp_path)
        export(module, "safetensors", tmp_path / "out")
        whole = ClipModule(pretrained=str(tmp_path / "out"))
        torch.testing.assert_close(whole.encode_text(TEXTS), module.encode_text(TEXTS), rtol=0, atol=1e-6)

    def test_not_merged_as_a_base(self, tmp_path: Path) -> None:
        module, _ = built(adapt=adapt(LOCK))
        train(module, tmp_path, 1, tmp_path / "words.ckpt")
        with pytest.raises(
            InputError,
            match=r"holds adapters, separate embeddings for new tokens, or .* checkpoint merge .*words.ck",
        ):
            ClipModule(pretrained=str(tmp_path / "words.ckpt"))

    def test_nothing_to_merge(self) -> None:
        with pytest.raises(InputError, match="has no adapters .* and no new tokens in a locked tower, .* are whole"):
            merged(small_module(adapt={"text": {"new_tokens": WORDS}}))


class TestRefused:
    @pytest.mark.parametrize("still", [LOCK, LORA], ids=["lock", "lora"])
    def test_words_that_are_known(self, base: Path, tmp_path: Path, still: dict[str, Any]) -> None:
        module = ClipModule(pretrained=str(base), training={"optimizer": OPTIMIZER, "adapt": adapt({})})
        train(module, tmp_path, 1, tmp_path / "grown.ckpt")
        again = ClipModule(
            pretrained=str(tmp_path / "grown.ckpt"), training={"adapt": {"text": {"new_tokens": [*WORDS, "x1"], **still}}}
        )
        with pytest.raises(InputError, match=r"knows 2 of adapt.text.new_tokens \['red', '<sks>', 'x1'\] already, .* under lo"):
            again.configure_model()

    @pytest.mark.parametrize("still", [LOCK, LORA, {}], ids=["lock", "lora", "at rest"])
    def test_a_module_that_learns_no_words(self, still: dict[str, Any]) -> None:
        with pytest.raises(InputError, match="adapt.text.new_tokens would never be learned: this module leaves words as they"):
            module_of(ClassifierModule, adapt=adapt(still))

    def test_a_tower_without_a_table(self) -> None:
        class Bag(TextEncoder):
            vocab_size = 49408

            def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
                return torch.zeros(len(tokens), 8)

        module = small_module(text_encoder=Bag(8, 24), adapt=adapt(LOCK))
        with pytest.raises(InputError, match=r"Bag has no token_table\(\), which .* new tokens of a frozen tower need: add"):
            module.configure_model()
