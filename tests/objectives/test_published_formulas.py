"""Published methods against their formulas, as float64 loops over images and texts."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from objectives.published import COLOURS, Captions, batch_of, published
from torch import Tensor

from lightning_clip import ClipDataModule, ClipModule, PairBatch
from lightning_clip.core.types import ClipOutput
from lightning_clip.data.permutation import mix
from lightning_clip.data.swaps import swaps
from lightning_clip.encoders.prototypes import masked_patches
from lightning_clip.objectives.clip_refine import references
from lightning_clip.objectives.negclip import HardNegatives
from lightning_clip.objectives.several_texts import SeveralTexts


def outcome(module: ClipModule, batch: PairBatch) -> tuple[ClipOutput, dict[str, float], Tensor, Tensor]:
    """Output, parts of the loss, and unit features of images and texts in float64."""
    with torch.no_grad():
        output = module.encode_batch(batch)
        parts = {name: float(value) for name, value in module.compute_loss(output, batch).items()}
    return output, parts, output.features["image"].double(), output.features["text"].double()


def encoded(module: ClipModule, texts: list[str]) -> Tensor:
    tokens, mask = module.tokenizer(texts)  # type: ignore[misc]
    with torch.no_grad():
        return module.model.encode_text(tokens, mask).double()


def log_sum(values: list[float]) -> float:
    return math.log(sum(math.exp(value) for value in values))


def dot(one: Tensor, two: Tensor) -> float:
    return float(one @ two)


class TestPairsWithMoreTexts:
    def test_several_texts(self) -> None:
        module = published("several_texts").train()
        batch = batch_of(module, 5)
        output, parts, images, texts = outcome(module, batch)
        scale = float(output.scale)
        further: list[tuple[int, str]] = []
        for row, (own, captions) in enumerate(zip(batch.texts or [], batch.captions, strict=True)):
            others = [caption for caption in captions if caption != own] or [own]
            further += [(row, others[place % len(others)]) for place in range(2)]
        every = torch.cat([texts, encoded(module, [text for _, text in further])])
        owner = [*range(5), *(row for row, _ in further)]
        loss = 0.0
        for i in range(5):
            own = [scale * dot(images[i], every[j]) for j in range(15) if owner[j] == i]
            loss += (log_sum([scale * dot(images[i], text) for text in every]) - sum(own) / len(own)) / 5 / 2
        for j in range(15):
            own_image = scale * dot(images[owner[j]], every[j])
            loss += (log_sum([scale * dot(image, every[j]) for image in images]) - own_image) / 15 / 2
        assert parts["loss"] == pytest.approx(loss, abs=1e-6 * abs(loss))

    def test_which_texts_are_further_ones_follows_from_the_chosen_one(self) -> None:
        """All of an image's captions are met: the chosen one is drawn, and those after it are taken."""
        one, many = SeveralTexts(count=1), SeveralTexts(count=5)
        captions = ("a", "b", "c", "d")
        assert [one.texts(chosen, captions) for chosen in captions] == [["b"], ["c"], ["d"], ["a"]]
        assert many.texts("c", captions) == ["d", "a", "b", "d", "a"]
        assert one.texts("a", ("a",)) == one.texts("a", ("a", "a")) == ["a"] and one.texts("new", captions) == ["a"]

    @pytest.mark.parametrize("count", [1, 3])
    def test_negclip(self, count: int) -> None:
        module = published("negclip", objective={"name": "negclip", "count": count}).train()
        batch = batch_of(module, 5)
        output, parts, images, texts = outcome(module, batch)
        swapped = [other for text in batch.texts or [] for other in swaps(text, count)]
        scale, negatives = float(output.scale), encoded(module, swapped)
        every = torch.cat([texts, negatives])
        loss = 0.0
        for i in range(5):
            own = scale * dot(images[i], texts[i])
            loss += (log_sum([scale * dot(images[i], text) for text in every]) - own) / 10
            loss += (log_sum([scale * dot(image, texts[i]) for image in images]) - own) / 10
        assert parts["loss"] == pytest.approx(loss, rel=1e-6)

    def test_a_caption_that_cannot_be_swapped_is_no_negative_of_its_image(self) -> None:
        module = published("negclip").train()
        batch = batch_of(module, 4)._replace(texts=["wow", "oh", "well", "so"])
        tokens, mask = module.tokenizer(batch.texts)  # type: ignore[misc]
        batch = batch._replace(tokens=tokens, mask=mask, lengths=None)
        output = module.encode_batch(batch)
        assert output.rows["same"].all()
        with torch.no_grad():
            found = float(module.compute_loss(output, batch)["loss"])
            texts, images, scale = output.features["text"], output.features["image"], float(output.scale)
            twice = torch.cat([texts, texts])
            image_loss = (scale * images @ twice.T).logsumexp(1) - scale * (images * texts).sum(1)
            text_loss = (scale * texts @ images.T).logsumexp(1) - scale * (images * texts).sum(1)
        assert found == pytest.approx(float((image_loss.mean() + text_loss.mean()) / 2), rel=1e-5)

    def test_words_that_no_caption_says_are_not_put_in(self) -> None:
        """Each is told from the caption by a look at the image alone."""
        objective = HardNegatives(count=20)
        objective.prepare(ClipDataModule(train=Captions(), local_batch_size=4), published("negclip").tokenizer)
        found = objective.texts("a red cube", ("a red cube",))
        assert set(found) == {f"a {colour} cube" for colour in COLOURS if colour != "red"}
        assert objective.to_mapping()["groups"] is None  # what a checkpoint notes is what was asked for

    def test_in_evaluation_they_are_pairs(self) -> None:
        module, plain = published("negclip").eval(), published("negclip", objective="pairs").eval()
        batch = batch_of(module, 6)
        assert outcome(module, batch)[1]["loss"] == pytest.approx(outcome(plain, batch)[1]["loss"], rel=1e-6)


def seen_through(pool: Any, tokens: Tensor, text: Tensor) -> float:
    """FLAIR's cosine of one image, tokens (L, W), with one text (16,), by attention of two heads written out in float64."""
    keys, values = pool.keys(pool.norm(tokens)).chunk(2, dim=-1)  # (L, D)
    keys, values = (torch.cat([torch.zeros(1, 16, dtype=torch.float64), part]) for part in (keys, values))
    query, pooled = pool.query(text), torch.zeros(16, dtype=torch.float64)
    for head in range(2):
        part = slice(8 * head, 8 * head + 8)
        weights = (keys[:, part] @ query[part] / math.sqrt(8)).softmax(dim=0)
        pooled[part] = weights @ values[:, part]
    found = pool.out(pooled)
    return float(found / found.norm() @ text)


class TestFlair:
    """One image seen through one text at a time."""

    def test_loss(self) -> None:
        module = published("flair").train()
        batch = batch_of(module, 5)
        output, parts, _, texts = outcome(module, batch)
        scale, bias = float(output.scale), float(output.bias)  # type: ignore[arg-type]
        pool: Any = module.model.text_pool
        with torch.no_grad():
            tokens = module.model.encode_with_tokens("image", batch.image)[1].double()  # (5, L, W)
            loss, double = 0.0, pool.double()
            for i in range(5):
                for j in range(5):
                    logit = scale * seen_through(double, tokens[i], texts[j]) + bias
                    loss += math.log1p(math.exp(-logit if i == j else logit)) / 5
        assert parts["flair"] == pytest.approx(loss, rel=1e-5)

    def test_scores_of_classes_and_texts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("lightning_clip.encoders.text_pool._TEXTS", 2)  # in blocks of texts
        flair = {"name": "flair", "heads": 2, "rows_at_once": 2}  # and of images
        module = published("flair", objective=[flair, {"name": "several_texts", "loss": "sigmoid"}])
        names, templates = ["red cube", "blue ball", "ring"], ["a {}", "the {}"]
        images = batch_of(module, 5).image
        texts = module.encode_text(["a red cube and a blue ball", "a ring", "red"])
        score = module.objective.text_scorer(module.predictor, texts)
        assert score is not None
        found = {"classes": module.predictor.scores(images, names, templates), "texts": score(images)}
        against = {"classes": module.predictor.zero_shot_classifier(names, templates).T, "texts": texts}
        pool: Any = module.model.text_pool
        with torch.no_grad():
            scale, bias = float(module.model.scale()), float(module.model.logit_bias)  # type: ignore[arg-type]
            tokens, double = module.model.encode_with_tokens("image", images)[1].double(), pool.double()
            for kind, scores in found.items():
                every = [[seen_through(double, row, text) for text in against[kind].double()] for row in tokens]
                torch.testing.assert_close(scores.double(), scale * torch.tensor(every).double() + bias, rtol=1e-5, atol=1e-5)
        assert found["texts"].std(dim=0).min() > 1e-4 and bias == -10

    def test_beside_another_first_one_similarities_score(self) -> None:
        module = published("flair")
        assert module.objective.scorer(module.predictor, ["a", "b"]) is None
        assert module.objective.text_scorer(module.predictor, torch.zeros(2, 16)) is None
        assert module.objective.training_parts == {"text_pool"} and not module.objective.scoring_parts


class TestFastClip:
    def test_averages_and_loss_of_two_visits(self) -> None:
        module = published("fastclip").train()
        batch = batch_of(module, 6, first=3)
        kept: Any = module.model.normalisers.averages  # type: ignore[union-attr]
        for visit in range(2):
            before = kept.double().clone()
            output, parts, images, texts = outcome(module, batch)
            scale, loss = float(output.scale), 0.0
            for i in range(6):
                for side, (rows, columns) in enumerate(((images, texts), (texts, images))):
                    own = dot(images[i], texts[i])
                    now = sum(math.exp(scale * (dot(rows[i], columns[j]) - own)) for j in range(6) if j != i) / 5
                    average = now if visit == 0 else 0.5 * float(before[3 + i, side]) + 0.5 * now
                    assert float(kept[3 + i, side]) == pytest.approx(average, rel=1e-5)
                    loss += (math.log(1e-8 + average) + 6.5) / scale / 12
            assert parts["loss"] == pytest.approx(loss, rel=1e-5)
            assert int((kept > 0).any(dim=1).sum()) == 6
            with torch.no_grad():  # another state for the second visit
                module.model.tower("image").blocks()[0].mlp.fc1.weight.mul_(1.5)  # type: ignore[union-attr, operator]

    def test_with_gamma_1_the_gradient_is_that_of_the_logarithm(self) -> None:
        """t log g with g of the batch alone: then nothing is estimated."""
        module = published("fastclip", objective={"name": "fastclip", "samples": 64, "gamma": 1.0, "eps": 1e-12, "rho": 0.0})
        images = torch.randn(6, 16, dtype=torch.float64).requires_grad_()
        texts = torch.randn(6, 16, dtype=torch.float64)
        scale = torch.tensor([3.0], dtype=torch.float64, requires_grad=True)
        batch = batch_of(module, 6)
        unit = {"image": torch.nn.functional.normalize(images, dim=1), "text": torch.nn.functional.normalize(texts, dim=1)}
        output = ClipOutput(unit, scale)
        output = output._replace(rows=module.objective.once(module.model, output, batch))
        found = torch.autograd.grad(module.objective(output, batch)["loss"], [images, scale], retain_graph=True)
        cosines = unit["image"] @ unit["text"].T
        others = ~torch.eye(6, dtype=torch.bool)
        logs = [
            (scale * (part - cosines.diagonal()[:, None])).masked_fill(~others, -torch.inf).logsumexp(1) - math.log(5)
            for part in (cosines, cosines.T)
        ]
        expected = torch.autograd.grad((torch.stack(logs).mean() / scale).sum(), [images, scale])
        for mine, theirs in zip(found, expected, strict=True):
            assert torch.allclose(mine, theirs, rtol=1e-4, atol=1e-6)

    def test_evaluation_leaves_the_averages(self) -> None:
        module = published("fastclip").eval()
        outcome(module, batch_of(module, 6))
        assert not module.model.normalisers.averages.any()  # type: ignore[union-attr, operator]


def test_clip_refine() -> None:
    module = published("clip_refine").train()
    batch = batch_of(module, 5)
    with torch.no_grad():
        module.model.image_projection.weight.add_(0.05 * torch.randn_like(module.model.image_projection.weight))
    output, parts, images, texts = outcome(module, batch)
    scale, drawn = float(output.scale), references(batch.index.tolist(), images)
    teacher: Any = module.model.pretrained_teacher
    with torch.no_grad():
        old = [teacher.space.encode(name, batch.value(name)).double() for name in ("image", "text")]
    distilled = alignment = 0.0
    for now, then in (((images, texts), old), ((texts, images), old[::-1])):
        for i in range(5):
            told = [scale * dot(then[0][i], then[1][j]) for j in range(5)]
            said = [scale * dot(now[0][i], now[1][j]) for j in range(5)]
            for j in range(5):
                target = 0.5 * (i == j) + 0.5 * math.exp(told[j] - log_sum(told))
                distilled += target * (math.log(target) - said[j] + log_sum(said)) / 10
            alignment += float((now[0][i] - drawn[i]).square().sum()) / 16 / 5
    assert parts["distilled"] == pytest.approx(distilled, rel=1e-5)
    assert parts["alignment"] == pytest.approx(alignment, rel=1e-5)
    assert parts["loss"] == pytest.approx(distilled + alignment, rel=1e-5)


def test_slip() -> None:
    module = published("slip").train()
    batch = batch_of(module, 4)
    parts = outcome(module, batch)[1]
    head: Any = module.model.view_head
    with torch.no_grad():
        views = [head(module.model.image_backbone(batch.columns[name])).double() for name in ("view2", "view3")]
    every = [view[row] / view[row].norm() for row in range(4) for view in views]
    loss = 0.0
    for i in range(8):
        among = [dot(every[i], every[j]) / 0.1 for j in range(8) if j != i]
        loss += (log_sum(among) - dot(every[i], every[i ^ 1]) / 0.1) / 8
    assert parts["slip"] == pytest.approx(loss, rel=1e-5)


class TestSilc:
    def test_local_crops_masked_patches_and_centres(self) -> None:
        module = published("tips").train()
        model: Any = module.model
        with torch.no_grad():
            model.teacher.centres.copy_(0.1 * torch.randn(2, 32))
        batch = batch_of(module, 4)
        parts = outcome(module, batch)[1]
        with torch.no_grad():
            told = model.teacher.space.prototypes(model.teacher.space.image_backbone(batch.image)).double()
            said = model.prototypes(model.image_backbone(batch.columns["view2"][:, :, 8:24, 8:24])).double()
            local = sum(self.cross_entropy(said[i], told[i], model.teacher.centres[0]) for i in range(4)) / 4
        assert parts["tips_local"] == pytest.approx(local, rel=1e-4)
        assert parts["tips"] == pytest.approx(parts["tips_local"] + parts["tips_masked"], rel=1e-5)
        before = model.teacher.centres.clone()
        module.objective.after_step(module.model)
        assert torch.allclose(model.teacher.centres[0].double(), 0.9 * before[0].double() + 0.1 * told.mean(0), atol=1e-6)

    def test_masked_patches_by_loops(self) -> None:
        """-mean over an image's painted patches of sum_k p_k log q_k, from tokens, in float64; unpainted ones do not count."""
        module = published("tips").train()
        model: Any = module.model
        with torch.no_grad():
            model.teacher.centres.copy_(0.1 * torch.randn(2, 32))
        batch = batch_of(module, 4)
        painted, mask = masked_patches(batch.image, 4, 0.5, [mix(place, 0) >> 1 for place in range(4)])  # type: ignore[arg-type]
        total = 0.0
        with torch.no_grad():
            told = model.teacher.space.prototypes(model.teacher.space.encode_with_tokens("image", batch.image)[1]).double()
            said = model.prototypes(model.encode_with_tokens("image", painted)[1]).double()
        for row in range(4):
            own = []
            for patch in range(16):
                top, left = 8 * (patch // 4), 8 * (patch % 4)
                before = batch.image[row, :, top : top + 8, left : left + 8]  # type: ignore[index]
                changed = not torch.equal(painted[row, :, top : top + 8, left : left + 8], before)
                assert changed == bool(mask[row, patch])
                if changed:  # the first token is the class token
                    own.append(self.cross_entropy(said[row, 1 + patch], told[row, 1 + patch], model.teacher.centres[1]))
            assert len(own) == 8
            total += sum(own) / len(own) / 4
        assert outcome(module, batch)[1]["tips_masked"] == pytest.approx(total, rel=1e-5)

    @staticmethod
    def cross_entropy(said: Tensor, told: Tensor, centre: Tensor) -> float:
        target = [math.exp((float(value) - float(middle)) / 0.04) for value, middle in zip(told, centre, strict=True)]
        below = log_sum([float(value) / 0.1 for value in said])
        return -sum(share / sum(target) * (float(value) / 0.1 - below) for share, value in zip(target, said, strict=True))

    def test_the_teacher_is_a_moving_average(self) -> None:
        module = published("silc").train()
        model: Any = module.model
        first = model.teacher.space.image_projection.weight.clone()
        batch = batch_of(module, 4)
        module.compute_loss(module.encode_batch(batch), batch)
        with torch.no_grad():
            model.image_projection.weight.add_(1.0)
        module.objective.after_step(model)
        assert torch.allclose(model.teacher.space.image_projection.weight, first + 0.1, atol=1e-6)
