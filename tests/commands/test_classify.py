"""`classify` on what people have: folders, patterns, addresses, long lists of labels; models of either loss."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from data.faulty_server import FaultyServer, serve
from PIL import Image
from small import save_checkpoint, small_module

from lightning_clip.cli import main
from lightning_clip.commands import pictures as given
from lightning_clip.loading import open_predictor
from lightning_clip.model.probabilities import is_independent, probabilities

LABELS = ["a red circle", "a blue star", "grass"]
Command = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A softmax and a sigmoid model, and photos: two in the folder, one below it, one that is broken, a text."""
    folder = tmp_path_factory.mktemp("classify")
    torch.manual_seed(0)
    save_checkpoint(folder / "clip.ckpt")
    save_checkpoint(folder / "siglip.ckpt", small_module(loss={"name": "sigmoid", "initial_bias": -2.0}))
    (folder / "photos/below").mkdir(parents=True)
    for name, colour in (("b.png", "red"), ("a.jpg", "blue"), ("below/c.webp", "green")):
        Image.new("RGB", (40, 30), colour).save(folder / "photos" / name)
    (folder / "photos/broken.png").write_bytes(b"spoilt")
    (folder / "photos/notes.txt").write_text("no picture")
    (folder / "photos/.hidden.png").write_bytes(b"of a system")
    return folder


@pytest.fixture
def classify(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.chdir(place)

    def run(*arguments: str, checkpoint: str = "clip.ckpt") -> tuple[int, str, str]:
        try:
            code = main(["classify", *arguments, "--checkpoint", checkpoint])
        except SystemExit as left:
            code = left.code  # type: ignore[assignment]
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


@pytest.fixture(scope="module")
def server(place: Path) -> Iterator[FaultyServer]:
    files = {"a.jpg": (place / "photos/a.jpg").read_bytes(), "large.jpg": bytes(3000), "page.jpg": b"x"}
    with serve(files, {"page.jpg": "page", "large.jpg": "endless"}) as running:
        yield running


def lines(out: str) -> dict[str, dict[str, float]]:
    return {entry["image"]: entry["probabilities"] for entry in map(json.loads, out.splitlines())}


class TestPictures:
    def test_a_folder_is_read_with_what_is_below_it(self, classify: Command) -> None:
        code, out, said = classify("photos", "--labels", ",".join(LABELS), "--json")
        assert code == 0 and list(lines(out)) == ["photos/a.jpg", "photos/b.png", "photos/below/c.webp"]
        assert said.count("skipped: image 'photos/broken.png' cannot be read: not an image") == 1

    def test_a_pattern(self, classify: Command) -> None:
        assert list(lines(classify("photos/*.jpg", "--labels", "a,b", "--json")[1])) == ["photos/a.jpg"]
        everywhere = lines(classify("photos/**/*.[jw]*", "--labels", "a,b", "--json")[1])
        assert list(everywhere) == ["photos/a.jpg", "photos/below/c.webp"]

    def test_an_address(self, classify: Command, server: FaultyServer) -> None:
        address = f"{server.url}/a.jpg"
        code, out, said = classify(f"{address}?token=secret", "photos/a.jpg", "--labels", "a,b", "--json")
        assert code == 0, said
        remote, local = lines(out).items()
        assert remote[0] == f"{address}?..." and remote[1] == local[1]

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("{url}/lost.jpg", r"image http://\S+/lost.jpg: status 404 \(Not Found\): check the address"),
            ("{url}/page.jpg", "page.jpg' cannot be read: not an image"),
            ("{url}/large.jpg", "large.jpg: more than 1,000 bytes"),
            (
                "s3://bucket/a.jpg",
                "'s3://bucket/a.jpg' cannot be fetched: give a path, or an address that begins with https://",
            ),
            ("filecache::http://host/a.jpg", "'filecache::http://host/a.jpg' does not exist"),
        ],
    )
    def test_of_addresses(
        self, name: str, message: str, classify: Command, server: FaultyServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(given, "LARGEST", 1000)
        code, _, said = classify(name.format(url=server.url), "--labels", "a,b")
        assert code == 2 and len(said.splitlines()) == 1
        assert re.search(message, said), said

    def test_what_holds_no_picture(self, classify: Command, tmp_path: Path) -> None:
        (tmp_path / "x.heic").touch()
        for text, message in (
            (str(tmp_path), "holds no picture that can be read (1 .heic): convert them to jpg or png"),
            ("photos/*.bmp", "pattern 'photos/*.bmp' names no picture: nothing matches it"),
            ("photos/*.txt", "pattern 'photos/*.txt' names no picture: its 1 matches are no pictures"),
            ("photos/*.png[x]", "nothing matches it"),
            ("photos/bro*", "none of the pictures can be read; the last: image 'photos/broken.png'"),
        ):
            code, _, said = classify(text, "--labels", "a,b")
            assert code == 2 and message in said


class TestLabels:
    def test_repeated_and_in_a_file_they_hold_commas(self, classify: Command, tmp_path: Path) -> None:
        (tmp_path / "labels.txt").write_text("black, white and red\r\n\r\n  grass \n", "utf-8-sig")
        options = ("--labels", "black, white and red", "--labels", "grass"), ("--labels-file", str(tmp_path / "labels.txt"))
        first, second = (lines(classify("photos/a.jpg", *option, "--json")[1]) for option in options)
        assert first == second and set(first["photos/a.jpg"]) == {"black, white and red", "grass"}

    def test_the_most_probable_of_many(self, classify: Command, tmp_path: Path) -> None:
        (tmp_path / "labels.txt").write_text("\n".join(f"number {place}" for place in range(30)))
        option = ("--labels-file", str(tmp_path / "labels.txt"))
        whole = lines(classify("photos/a.jpg", *option, "--json")[1])["photos/a.jpg"]
        assert len(whole) == 30 and list(whole.values()) == sorted(whole.values(), reverse=True)
        shown = classify("photos/a.jpg", *option)[1]
        assert shown.count("number ") == 10 and [*whole][9] in shown and [*whole][10] + " " not in shown
        assert [*lines(classify("photos/a.jpg", *option, "--json", "--top", "2")[1])["photos/a.jpg"]] == [*whole][:2]

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ((), "labels are given either by --labels .* or by --labels-file"),
            (("--labels", "a,b", "--labels-file", "clip.ckpt"), "use one of the two"),
            (("--labels", " , "), "--labels ' , ' names nothing"),
            (("--labels", "a,b,a"), "names 'a' twice"),
            (("--labels", "a"), "names 1 class: give at least two, separated by commas"),
            (("--labels", "a", "dog"), 'unrecognized arguments: dog.*quotes: --labels "a dog"'),
            (("--labels-file", "lost.txt"), "labels file 'lost.txt' does not exist"),
            (("--labels-file", "photos"), "--labels-file 'photos' cannot be read: Is a directory"),
            (("--labels-file", "clip.ckpt"), "is no text in UTF-8"),
            (("--labels", "a,b", "--top", "0"), "0 must be at least 1"),
            (("--labels", "a,b", "--json", "--csv"), "not allowed with argument"),
        ],
    )
    def test_refused(self, arguments: tuple[str, ...], message: str, classify: Command) -> None:
        code, _, said = classify("photos/a.jpg", *arguments)
        assert code == 2 and len(said.splitlines()) == 1, said
        assert re.search(message, said), said

    def test_a_label_whose_space_parted_it(self, classify: Command) -> None:
        code, _, said = classify("--labels", "a", "dog", "photos/a.jpg")
        assert code == 2 and "If 'dog' belongs to a label, put the labels in quotes: --labels \"a dog,a cat\"" in said


class TestForms:
    def test_csv_and_json_say_the_same(self, classify: Command) -> None:
        asked = ("photos", "--labels", "grass, green", "--labels", "a red circle")
        found = lines(classify(*asked, "--json")[1])
        rows = list(csv.DictReader(io.StringIO(classify(*asked, "--csv")[1])))
        assert list(rows[0]) == ["image", "label", "probability"] and len(rows) == 6
        assert all(found[row["image"]][row["label"]] == float(row["probability"]) for row in rows)
        assert all(sum(shares.values()) == pytest.approx(1, abs=1e-5) for shares in found.values())


class TestSigmoid:
    def test_probabilities_are_those_of_the_loss(self, place: Path) -> None:
        predictor = open_predictor(place / "siglip.ckpt")
        pixels = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
        found = probabilities(predictor, LABELS)(pixels)
        model = predictor.model
        with torch.no_grad():
            cosines = predictor.encode_image(pixels) @ predictor.encode_text([f"a photo of a {name}." for name in LABELS]).T
            expected = torch.sigmoid(cosines * model.logit_scale.exp() + model.logit_bias)
        assert is_independent(predictor) and not is_independent(open_predictor(place / "clip.ckpt"))
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)
        compared = probabilities(predictor, LABELS, compete=True)(pixels)
        torch.testing.assert_close(compared.sum(dim=1), torch.ones(3))
        torch.testing.assert_close(compared, torch.softmax(expected.logit(), dim=1), atol=1e-6, rtol=1e-4)

    def test_one_label_makes_sense_and_is_the_same_among_others(self, classify: Command) -> None:
        alone = lines(classify("photos/a.jpg", "--labels", "grass", "--json", checkpoint="siglip.ckpt")[1])
        among = lines(classify("photos/a.jpg", "--labels", ",".join(LABELS), "--json", checkpoint="siglip.ckpt")[1])
        assert alone["photos/a.jpg"]["grass"] == pytest.approx(among["photos/a.jpg"]["grass"], abs=2e-6)
        code, _, said = classify("photos/a.jpg", "--labels", "grass", "--softmax", checkpoint="siglip.ckpt")
        assert code == 2 and "names 1 class: give at least two" in said
