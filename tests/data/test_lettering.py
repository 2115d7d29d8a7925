"""Words drawn as pictures: lines, sizes, boards; sources of rendered text, of signs and of puzzles."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib
import pytest
import torch
from PIL import ImageFont
from scipy.ndimage import label

from lightning_clip.core.errors import InputError
from lightning_clip.data import ScenePuzzles, SyntheticSigns, pair_sources
from lightning_clip.data.drawing import COLOURS, SHAPES
from lightning_clip.data.lettering import Lettering, broken_lines, open_font, pasted, text_picture
from lightning_clip.data.puzzles import PUZZLES, RELATIONS
from lightning_clip.data.sources import RenderedText
from lightning_clip.prompts.evaluation_sets import open_evaluation_set

DEJAVU = Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"
GREY = torch.full((3, 48, 64), 128, dtype=torch.uint8)


def ink(picture: Any) -> torch.Tensor:
    """Rows and columns of what is no background, (N, 2)."""
    pixels = torch.tensor(list(picture.convert("L").tobytes())).view(picture.height, picture.width)
    return (pixels < 128).nonzero()


class TestLines:
    def test_are_as_long_as_fits_and_hold_all_words(self) -> None:
        font, text = open_font(None, 12), "a gripping , funny and clever film that nobody should miss"
        lines = broken_lines(text, font, 90)
        assert lines is not None and " ".join(lines) == text and len(lines) > 2
        assert all(font.getlength(line) <= 90 for line in lines)
        for line, following in pairwise(lines):
            assert font.getlength(f"{line} {following.split()[0]}") > 90

    def test_line_breaks_of_the_text_are_kept(self) -> None:
        assert broken_lines("one\ntwo three\n\nfour", open_font(None, 8), 100) == ["one", "two three", "", "four"]

    def test_scripts_without_spaces_are_broken_between_characters(self) -> None:
        font = open_font(str(DEJAVU), 12)
        lines = broken_lines("猫" * 9, font, 40)
        assert lines is not None and "".join(lines) == "猫" * 9 and len(lines) > 1
        assert broken_lines("abcdefghijklm", font, 40) is None


class TestPages:
    def test_texts_are_in_the_middle_and_as_large_as_fits(self) -> None:
        for text in ("stop", "a gripping , funny and clever film that nobody should miss " * 3):
            found = ink(text_picture(text, 96))
            low, high = found.min(dim=0).values, found.max(dim=0).values
            assert (low >= 3).all() and (high <= 92).all() and (low + high - 95).abs().max() <= 8
        assert len(ink(text_picture("stop", 96, font_size=30))) > 2 * len(ink(text_picture("stop", 96, font_size=12)))

    def test_fonts_of_files_and_colours(self) -> None:
        own, other = text_picture("stop", 64), text_picture("stop", 64, font=str(DEJAVU), colour="navy", background="#ffcc00")
        assert own.getpixel((0, 0)) == (255, 255, 255) and other.getpixel((0, 0)) == (255, 204, 0)
        assert ink(own).tolist() != ink(other).tolist()

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (
                ("incomprehensibilities", 32),
                "word 'incomprehensibilities' is longer than a picture of 32 pixels at font size 6",
            ),
            (("many words " * 50, 48), "a text of 550 characters does not fit into a picture of 48 pixels"),
            ((" ", 48), "a text to draw is empty"),
            (("stop", 4), "image_size 4"),
        ],
    )
    def test_texts_that_do_not_fit(self, arguments: Any, message: str) -> None:
        with pytest.raises(InputError, match=message):
            text_picture(*arguments)

    def test_files_that_are_no_fonts(self, tmp_path: Path) -> None:
        (tmp_path / "letters.ttf").write_bytes(b"no font")
        with pytest.raises(InputError, match=r"font 'letters\.ttf' cannot be opened .*: give a \.ttf or \.otf file"):
            text_picture("stop", 64, font=str(tmp_path / "letters.ttf"))
        with pytest.raises(InputError, match=r"font '.*nothing\.ttf'"):
            RenderedText(["a", "b"], font=str(tmp_path / "nothing.ttf"))
        with pytest.raises(InputError, match="colour 'reddish' is unknown"):
            text_picture("stop", 64, colour="reddish")

    def test_without_freetype(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(ImageFont, "load_default", lambda size: object())
        with pytest.raises(InputError, match="built without FreeType"):
            open_font(None, 61.5)


class TestBoards:
    def test_the_word_is_on_its_board_and_nothing_else_changes(self) -> None:
        for place, rows in {"bottom": (24, 48), "top": (0, 24), "centre": (12, 36), "random": (0, 48)}.items():
            found, box = pasted(GREY, "stop", Lettering(place, 0.3))
            assert rows[0] <= box.top < box.bottom <= rows[1] and 8 <= box.left < box.right <= 56  # in the square in the middle
            board = found[:, box.top : box.bottom, box.left : box.right]
            assert (board[:, 0, 0] == 255).all() and int(board.min()) < 40
            outside = found.clone()
            outside[:, box.top : box.bottom, box.left : box.right] = 128
            assert torch.equal(outside, GREY)

    def test_letters_without_a_board(self) -> None:
        found, box = pasted(GREY, "stop", Lettering(board="none", colour="white"))
        assert int(found[0].min()) == 128 and int(found[0, box.top : box.bottom, box.left : box.right].max()) > 220

    def test_long_words_have_smaller_letters(self) -> None:
        boxes = [pasted(GREY, word, Lettering(share=0.4))[1] for word in ("go", "crescent")]
        assert boxes[0].bottom - boxes[0].top > boxes[1].bottom - boxes[1].top and boxes[1].right - boxes[1].left <= 48

    def test_a_word_longer_than_the_picture(self) -> None:
        with pytest.raises(
            InputError, match="word 'incomprehensibility' is longer than a picture of 48 pixels, even in letters of 6"
        ):
            pasted(GREY, "incomprehensibility", Lettering())

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"place": "botom"}, "lettering's place 'botom' is unknown: did you mean 'bottom'"),
            ({"share": 0.0}, "lettering's share 0.0"),
            ({"colour": "reddish"}, "colour 'reddish' is unknown"),
            ({"board": "reddish"}, "colour 'reddish' is unknown"),
        ],
    )
    def test_settings_that_are_wrong(self, options: dict[str, Any], message: str) -> None:
        with pytest.raises(InputError, match=message):
            Lettering(**options)


class TestRenderedText:
    def test_words_are_classes_and_pictures_a_function_of_the_seed(self) -> None:
        options = {"size": 7, "image_size": 48, "colours": ["black", "navy"], "backgrounds": ["white", "black"]}
        one, same, other = (RenderedText(["cat", "dog", "bird"], seed=seed, **options) for seed in (1, 1, 2))
        assert [one[place].label for place in range(7)] == [0, 1, 2, 0, 1, 2, 0]
        assert all(torch.equal(one[place].image, same[place].image) for place in range(7))  # type: ignore[arg-type]
        assert any(not torch.equal(one[place].image, other[place].image) for place in range(7))  # type: ignore[arg-type]
        assert one.captions(4) == ("dog",) and one.class_names == ["cat", "dog", "bird"]
        assert all(int(one[place].image.min()) < int(one[place].image.max()) for place in range(7))  # type: ignore[union-attr]

    def test_a_folder_of_reviews(self, tmp_path: Path) -> None:
        """The layout of GLUE's SST-2."""
        for name, rows in {"train": [("a dull film", 0)], "dev": [("smart and moving", 1), ("a bore", 0)]}.items():
            lines = ["sentence\tlabel", *(f"{sentence} \t{label}" for sentence, label in rows)]
            (tmp_path / f"{name}.tsv").write_text("\n".join(lines))
        settings = {"name": "rendered_text", "texts": str(tmp_path), "split": "val", "label_column": "label", "image_size": 64}
        found = open_evaluation_set({**settings, "class_names": ["negative", "positive"], "templates": "a {} review"})
        assert [found.source[place].label for place in range(2)] == [1, 0] and found.source.captions(0) == ("smart and moving",)
        assert found.source[0].image.shape == (3, 64, 64) and found.names == ["negative", "positive"]  # type: ignore[union-attr]
        with pytest.raises(InputError, match=r"has no table of split 'test': put test\.tsv there, or name a table"):
            pair_sources.build({**settings, "split": "test"})
        with pytest.raises(InputError, match="rendered_text split 'dev' must be one of train, val, test"):
            pair_sources.build({**settings, "split": "dev"})

    def test_any_table(self, tmp_path: Path) -> None:
        rows = [{"text": "one line\nand another", "mood": "good"}, {"text": "words", "mood": "bad"}]
        (tmp_path / "texts.jsonl").write_text("\n".join(map(json.dumps, rows)))
        found = RenderedText(str(tmp_path / "texts.jsonl"), "text", label_column="mood", captions=["a page: {}"])
        assert list(found.class_names) == ["bad", "good"] and [found[place].label for place in range(2)] == [1, 0]
        assert found.captions(1) == ("a page: words",)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"texts": []}, r"rendered_text texts \[\] must be words or sentences"),
            ({"texts": ["a", "a"]}, "rendered_text texts has 'a' twice"),
            ({"texts": ["a", "b"], "colours": ["red"], "backgrounds": ["red"]}, "letters would not be seen"),
            ({"texts": ["a", "b"], "colours": ["reddish"]}, "colour 'reddish' is unknown"),
            ({"texts": "nowhere.tsv"}, "table of texts 'nowhere.tsv'"),
        ],
    )
    def test_what_is_wrong(self, arguments: dict[str, Any], message: str) -> None:
        with pytest.raises(InputError, match=message):
            RenderedText(**arguments)


class TestSigns:
    def test_scenes_are_a_function_of_the_seed(self) -> None:
        one, same = SyntheticSigns(size=12, image_size=48), SyntheticSigns(size=12, image_size=48)
        assert all(torch.equal(one[place].image, same[place].image) for place in range(12))  # type: ignore[arg-type]
        assert [one[place].captions for place in range(12)] == [same[place].captions for place in range(12)]

    def test_classes_go_round(self) -> None:
        for show in ("object", "both"):
            scenes = SyntheticSigns("val", 16, show=show, image_size=32)
            assert [scenes[place].label for place in range(16)] == [place % 8 for place in range(16)]
        signs = SyntheticSigns("val", 6, show="sign", words=["stop", "go"], image_size=32)
        assert [signs[place].metadata["word"] for place in range(6)] == ["stop", "go"] * 3
        assert signs.class_names == ["stop", "go"] and SyntheticSigns(size=1, show="both").class_names == list(SHAPES)

    def test_captions_speak_of_what_is_there(self) -> None:
        scenes = SyntheticSigns(size=300, image_size=32)
        kinds = {"shape": 0, "word": 0, "both": 0}
        for place in range(300):
            pair = scenes[place]
            shape = None if pair.label is None else scenes.class_names[pair.label]
            word, (caption,) = pair.metadata.get("word"), pair.captions
            assert (shape is not None and shape in caption) or (word is not None and word in caption), caption
            kinds["both" if shape and word else "word" if word else "shape"] += 1
        assert min(kinds.values()) > 60

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"split": "dev"}, "signs split 'dev' must be one of train, val, test"),
            ({"show": "signs"}, "signs show 'signs' is unknown: did you mean 'sign'"),
            ({"words": ["stop"]}, r"signs words \['stop'\] must be at least two different words"),
            ({"image_size": 8}, "signs image_size 8"),
        ],
    )
    def test_what_is_wrong(self, arguments: dict[str, Any], message: str) -> None:
        with pytest.raises(InputError, match=message):
            SyntheticSigns(**arguments)


class TestPuzzles:
    @pytest.mark.parametrize("kind", PUZZLES)
    def test_the_caption_is_the_right_choice(self, kind: str) -> None:
        scenes = ScenePuzzles(kind, "test", 24, image_size=48)
        for place in range(24):
            pair = scenes[place]
            choices, answer = pair.metadata["choices"], pair.metadata["answer"]
            assert pair.captions == (choices[answer],) and len(set(choices)) == len(choices) == len(scenes.class_names)
            assert pair.label == place % len(choices) and torch.equal(pair.image, scenes[place].image)  # type: ignore[arg-type]

    def test_as_many_shapes_as_are_counted(self) -> None:
        scenes = ScenePuzzles("counting", "test", 60, image_size=64)
        for place in range(60):
            image = scenes[place].image.float()  # type: ignore[union-attr]
            assert label(((image - image[:, :1, :1]).abs().sum(dim=0) > 60).numpy())[1] == place % 6 + 1

    def test_relations_are_true(self) -> None:
        scenes = ScenePuzzles("relations", "test", 80, image_size=64)
        for place in range(80):
            words = scenes[place].captions[0].split()
            colours = [torch.tensor(COLOURS[word]).float() for word in words if word in COLOURS]
            image = scenes[place].image.float()  # type: ignore[union-attr]
            near = [((image - colour[:, None, None]).abs().sum(dim=0) < 45).nonzero().float().mean(dim=0) for colour in colours]
            (y, x), (other_y, other_x) = near
            relation = RELATIONS[place % 4]
            holds = {"left of": x < other_x, "right of": x > other_x, "above": y < other_y, "below": y > other_y}
            assert relation in scenes[place].captions[0] and holds[relation], scenes[place].captions

    def test_polygons_have_their_corners(self) -> None:
        """By the share of their circumscribed circle that they fill: n / (2 pi) sin(2 pi / n)."""
        scenes = ScenePuzzles("twins", "test", 16, image_size=192)
        for place in range(16):
            image = scenes[place].image.float()  # type: ignore[union-attr]
            inside = ((image - image[:, :1, :1]).abs().sum(dim=0) > 60).nonzero().float()
            middle = inside.mean(dim=0)
            share = len(inside) / (math.pi * float((inside - middle).norm(dim=1).max()) ** 2)
            wanted = {corners: corners / (2 * math.pi) * math.sin(2 * math.pi / corners) for corners in (5, 6, 7, 8)}
            assert min(wanted, key=lambda corners: abs(wanted[corners] - share)) == 5 + place % 4

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("countng",), "puzzles kind 'countng' is unknown: did you mean 'counting'"),
            (("twins", "dev"), "puzzles split 'dev' must be one of train, val, test"),
            (("twins", "test", 0), "puzzles size 0"),
        ],
    )
    def test_what_is_wrong(self, arguments: tuple[Any, ...], message: str) -> None:
        with pytest.raises(InputError, match=message):
            ScenePuzzles(*arguments)
