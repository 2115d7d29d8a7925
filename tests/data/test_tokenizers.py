"""CLIP's ids equal open_clip's, Hugging Face ids equal AutoTokenizer's, and every tokenizer survives a checkpoint."""

from __future__ import annotations

import copy
import json
import os
import pickle
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.tokenizer import SimpleTokenizer
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from lightning_clip.core.errors import InputError
from lightning_clip.data.clip_tokenizer import ClipTokenizer
from lightning_clip.data.tokenizers import JsonTokenizer, Tokenizer, tokenizers, train_tokenizer

ODD = [
    "",
    "   ",
    "\t\n\r ",
    "A photo of a Dog.",
    "Tom &amp; Jerry &lt;b&gt;bold&lt;/b&gt;",
    "double &amp;amp; escaped &amp;lt;i&amp;gt;",
    "&nbsp;&#39;quoted&#39;&nbsp;",
    "🐶🐕‍🦺 in the snow ❄️",
    "一只棕色的狗在雪地里奔跑。",
    "ＦＵＬＬ－ＷＩＤＴＨ １２３",
    "iT's THE dog'S, they'Re 1234 we'll",
    "control \x00\x01\x07\x1b chars \u200b\ufeff zero width",
    "an <end_of_text> and a <START_OF_TEXT> inside",
    "naïve café Ünïcode İstanbul ﬁne",
    "donâ€™t mojibake",
    "!!!???...---",
    "http://example.com/a_b?c=d&e=f#g",
    "lone \ud83d surrogate",
    "مرحبا بالعالم नमस्ते दुनिया",
    "long caption " * 200,
    "狗" * 500,
]
WELL_FORMED = [text for text in ODD if "\ud83d" not in text]  # Hugging Face refuses the others
CAPTIONS = [
    "一只棕色的狗在雪地里奔跑",
    "两个孩子在海滩上玩",
    "a brown dog runs in the snow",
    "two children play on the beach",
]

clip = ClipTokenizer()
open_clip = SimpleTokenizer()


def _assert_same_as_open_clip(texts: Sequence[str]) -> None:
    expected = open_clip(list(texts))
    for row, reference in zip(clip.encode(texts), expected, strict=True):
        assert row == reference[: len(row)].tolist()
        assert not reference[len(row) :].any()


def test_clip_ids_equal_open_clip_on_odd_texts() -> None:
    _assert_same_as_open_clip(ODD)


@given(st.lists(st.text(), max_size=4))
@settings(deadline=None, max_examples=200)
def test_clip_ids_equal_open_clip_on_any_text(texts: list[str]) -> None:
    _assert_same_as_open_clip(texts)


PIECES = [
    *("&amp;", "&lt;b&gt;", "&#39;", "&nbsp", "&", "'S", "'ll", "it's", "O'Brien'd", "''", "--'s", "_", "a_b", "#tag", "@you"),
    *("3.14", "2021", "٣", "½", "Ⅷ", "１２", "ＡＢＣ", "ﬁ", "ß", "İ", "ǅ", "é", "e\u0301", "ñandú", "Ελλάδα", "Ω"),
    *("一只狗", "かな", "한국어", "ไทย", "हिन्दी", "🐕", "👩\u200d👩\u200d👧", "🇨🇭", "❤\ufe0f", "☃", "—", "…", "“”", "«»"),
    *(
        "\t",
        "\n",
        "\r\n",
        "\x0b",
        "\x0c",
        "\x1c",
        "\x85",
        "\xa0",
        "\u2003",
        "\u3000",
        "\u200b",
        "\ufeff",
        "\u202e",
        "\x00",
        "\x1b[0m",
    ),
    *(
        "<start_of_text>",
        "<end_of_text>",
        "<START_OF_TEXT>",
        "<",
        ">",
        "http://x.y/z?a=1&b=2",
        "a" * 60,
        "xyzzy" * 30,
        " ",
        "  ",
    ),
    *("\u00c3\u00a9", "donâ€™t", "\u2019", "\u0130stanbul", "Straße", "MiXeD", "photo", "of", "the", "dog", ",", ".", "!?"),
]


def test_clip_ids_equal_open_clip_on_ten_thousand_odd_strings() -> None:
    rng = random.Random(0)
    texts = []
    for _ in range(10_000):
        parts = [rng.choice(PIECES) for _ in range(rng.randint(0, 12))]
        if rng.random() < 0.3:
            points = (rng.choice((rng.randrange(0xD800), rng.randrange(0xE000, 0x110000))) for _ in range(rng.randint(1, 8)))
            parts.insert(rng.randint(0, len(parts)), "".join(map(chr, points)))
        texts.append(rng.choice(("", " ")).join(parts))
    _assert_same_as_open_clip(texts)


def test_clip_takes_endless_words() -> None:
    """Where the reference takes minutes a worker must not."""
    rows = clip.encode(["x" * 200_000, "word " * 100_000])
    assert [len(row) for row in rows] == [77, 77]


def test_clip_remembers_a_bounded_number_of_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning_clip.data.clip_tokenizer._REMEMBERED", 100)
    small = ClipTokenizer()
    texts = [f"w{number}z q{number}" for number in range(1000)]
    for _ in range(2):
        assert small.encode(texts) == clip.encode(texts)
    assert len(small._known) <= 100 and len(small._bpe.cache) <= 102


def test_clip_travels_light() -> None:
    clip.encode(["a dog"])
    assert len(pickle.dumps(clip)) < 200 and pickle.loads(pickle.dumps(clip)).encode(["a dog"]) == clip.encode(["a dog"])


@pytest.mark.parametrize("context_length", [3, 5, 16, 77, 200])
def test_clip_truncates_as_open_clip(context_length: int) -> None:
    short = ClipTokenizer(context_length=context_length)
    for row, reference in zip(short.encode(ODD), open_clip(ODD, context_length=context_length), strict=True):
        assert row == reference[: len(row)].tolist()
        assert row[-1] == 49407 and len(row) <= context_length


@pytest.mark.parametrize("field", ["en", "zh_human"])
@pytest.mark.slow
def test_clip_ids_equal_open_clip_on_flickr8k(field: str) -> None:
    folder = os.environ.get("LIGHTNING_CLIP_DATA")
    if not folder:
        pytest.skip("LIGHTNING_CLIP_DATA is not set: it names the folder that holds flickr8k/captions.jsonl")
    path = Path(folder) / "flickr8k" / "captions.jsonl"
    if not path.is_file():
        pytest.skip(f"there is no {path}")
    with path.open(encoding="utf-8") as lines:
        captions = [caption for line in lines for caption in json.loads(line)[field]]
    assert len(captions) == 40_455
    _assert_same_as_open_clip(captions)


def test_clip_attributes() -> None:
    assert (clip.vocab_size, clip.context_length, clip.pad_id) == (49408, 77, 0)
    assert tokenizers.names() == ["clip", "json"]


# Hugging Face


def _bert_style() -> PreTrainedTokenizerFast:
    backend = Backend(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    backend.train_from_iterator(CAPTIONS * 5, trainers.WordPieceTrainer(vocab_size=120, special_tokens=special))
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, mask_token="[MASK]", model_max_length=512, **names)


def _clip_style(**options: Any) -> PreTrainedTokenizerFast:
    backend = Backend(models.BPE(end_of_word_suffix="</w>"))
    backend.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    special = ["<|startoftext|>", "<|endoftext|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=special, initial_alphabet=alphabet, end_of_word_suffix="</w>")
    backend.train_from_iterator(CAPTIONS * 5, trainer)
    backend.post_processor = processors.RobertaProcessing(("<|endoftext|>", 1), ("<|startoftext|>", 0))
    names = {"bos_token": special[0], "eos_token": special[1], "pad_token": special[1]}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **names, **options)


def _gpt_style() -> PreTrainedTokenizerFast:
    """No start, end or padding token, as GPT-2."""
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet)
    backend.train_from_iterator(CAPTIONS * 5, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|endoftext|>", model_max_length=1024)


STYLES = {
    "bert": _bert_style,
    "clip": _clip_style,
    "gpt": _gpt_style,
    "left": lambda: _clip_style(truncation_side="left", padding_side="left"),
}


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("context_length", [8, 77])
def test_hugging_face_ids_equal_auto_tokenizer(tmp_path: Path, style: str, context_length: int) -> None:
    STYLES[style]().save_pretrained(tmp_path)
    ours = tokenizers.build({"name": f"hf:{tmp_path}", "context_length": context_length})
    reference = AutoTokenizer.from_pretrained(str(tmp_path))
    texts = [*WELL_FORMED, *CAPTIONS, "[SEP] <|endoftext|> [MASK] <|startoftext|>"]
    expected = reference(texts, truncation=True, max_length=context_length)["input_ids"]
    assert ours.encode(texts) == expected
    assert ours.encode(texts) == [reference(text, truncation=True, max_length=context_length).input_ids for text in texts]
    assert ours.vocab_size == len(reference)
    assert ours.pad_id == (reference.pad_token_id or 0)
    again = tokenizers.build(ours.to_mapping())
    assert again.encode(texts) == expected


def test_hugging_face_context_length_is_at_most_the_models(tmp_path: Path) -> None:
    _clip_style(model_max_length=16).save_pretrained(tmp_path)
    assert tokenizers.build(f"hf:{tmp_path}").context_length == 16
    _clip_style().save_pretrained(tmp_path)  # transformers writes 1e30 for "no limit"
    assert tokenizers.build(f"hf:{tmp_path}").context_length == 77
    assert tokenizers.build({"name": f"hf:{tmp_path}", "pad_id": 5}).pad_id == 5


def test_hugging_face_needs_no_file_afterwards(tmp_path: Path) -> None:
    _bert_style().save_pretrained(tmp_path)
    ours = tokenizers.build(f"hf:{tmp_path}")
    for file in tmp_path.iterdir():
        file.unlink()
    assert tokenizers.build(ours.to_mapping()).encode(CAPTIONS) == ours.encode(CAPTIONS)


def test_hugging_face_slow_only_is_refused(tmp_path: Path) -> None:
    (tmp_path / "vocab.json").write_text(json.dumps({"a</w>": 0, "<unk>": 1}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CTRLTokenizer"}))
    with pytest.raises(InputError, match="slow only.*choose another, or train one"):
        tokenizers.build(f"hf:{tmp_path}")


def test_hugging_face_unreachable_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(name: str, **options: Any) -> None:
        assert options["trust_remote_code"] is False
        raise OSError("We couldn't connect to 'https://huggingface.co' to load the files.\nCheck your connection " + "x " * 999)

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", offline)
    with pytest.raises(InputError, match="'some/model'.*couldn't connect.*Without network give a folder") as caught:
        tokenizers.build("hf:some/model")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_hugging_face_folder_without_a_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no Hugging Face tokenizer"):
        tokenizers.build(f"hf:{tmp_path}")


def test_hugging_face_class_that_does_more_than_its_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Reversing(PreTrainedTokenizerFast):
        def __call__(self, texts: Any, **options: Any) -> Any:
            return super().__call__([text[::-1] for text in texts], **options)

    _bert_style().save_pretrained(tmp_path)
    reversing = Reversing.from_pretrained(tmp_path)
    monkeypatch.setattr(AutoTokenizer, "from_pretrained", lambda name, **options: reversing)
    with pytest.raises(InputError, match="does more than its JSON: wrap it"):
        tokenizers.build("hf:reversing")


# Trained on the user's captions


@pytest.mark.parametrize(
    "text", ["一只棕色的狗在雪地里奔跑", "两个孩子 在海滩上玩。", "从未见过的字：龘", "a dog &amp; a cat", "🐶 дом"]
)
def test_trained_decode_round_trip(text: str) -> None:
    trained = train_tokenizer(CAPTIONS)
    assert trained.decode(trained.encode([text])) == [text.replace("：", ":")]  # NFKC


def test_trained_normalises() -> None:
    trained = train_tokenizer(CAPTIONS)
    rows = trained.encode(["a brown dog", "  A   BROWN\n\tＤＯＧ "])
    assert rows[0] == rows[1]
    assert rows[0][0] == 1 and rows[0][-1] == 2
    assert trained.encode(["", "  "]) == [[1, 2], [1, 2]]
    assert (trained.pad_id, trained.context_length) == (0, 77)


def test_trained_words_are_the_same_first_and_later() -> None:
    trained = train_tokenizer(["dog dog"] * 3, vocab_size=300)
    _start, first, second, _end = trained.encode(["dog dog"])[0]
    assert first == second


def test_trained_is_deterministic() -> None:
    captions = [f"{adjective} {noun} {place}" for adjective in "abcdef" for noun in ("dog", "狗") for place in ("雪地", "sea")]
    contents = {train_tokenizer(iter(captions), vocab_size=350).content for _ in range(5)}
    assert len(contents) == 1


def test_trained_vocab_size_is_kept() -> None:
    assert train_tokenizer(CAPTIONS * 3, vocab_size=259).vocab_size == 259
    assert train_tokenizer(CAPTIONS * 3, vocab_size=300).vocab_size == 300
    assert train_tokenizer(["a"]).vocab_size <= 260  # nothing more to learn


@pytest.mark.parametrize("context_length", [3, 9])
def test_trained_truncation_keeps_the_end(context_length: int) -> None:
    trained = train_tokenizer(CAPTIONS, context_length=context_length)
    for row in trained.encode(ODD):
        assert len(row) <= context_length and row[0] == 1 and row[-1] == 2


def test_save_and_load(tmp_path: Path) -> None:
    trained = train_tokenizer(CAPTIONS, context_length=12)
    path = tmp_path / "new" / "folder" / "captions.json"
    trained.save(path)
    trained.save(path)  # over an existing one
    assert [file.name for file in path.parent.iterdir()] == ["captions.json"]
    for loaded in (JsonTokenizer(path=str(path)), tokenizers.build(str(path)), tokenizers.build({"name": str(path)})):
        assert (loaded.context_length, loaded.pad_id) == (12, 0)
        assert loaded.encode(ODD) == trained.encode(ODD)
    assert JsonTokenizer(path=str(path), context_length=20).context_length == 20


def test_grown_cleans_as_before() -> None:
    cleaning = JsonTokenizer(train_tokenizer(["a dog on the beach"]).content, clean="canonicalize")
    grown = cleaning.grown(["dax"], context_length=90)
    assert grown.encode(["A Dog! (dax)"])[0] == [*cleaning.encode(["a dog"])[0][:-1], cleaning.vocab_size, 2]
    with pytest.raises(InputError, match="new token '<Sks>' would never be found: .*'canonicalize'. and makes 'sks' of it"):
        cleaning.grown(["<Sks>"])


def test_unknown_pad_id_is_found_by_its_token() -> None:
    content = _bert_style().backend_tokenizer.to_str()
    assert JsonTokenizer(content).pad_id == Backend.from_str(content).token_to_id("[PAD]")
    assert JsonTokenizer(_gpt_style().backend_tokenizer.to_str()).pad_id == 0


# What all share


def _all_kinds() -> list[Tokenizer]:
    return [ClipTokenizer(context_length=20), train_tokenizer(CAPTIONS * 2, context_length=20)]


@pytest.mark.parametrize("tokenizer", _all_kinds(), ids=["clip", "json"])
def test_round_trip(tokenizer: Tokenizer) -> None:
    mapping = json.loads(json.dumps(tokenizer.to_mapping()))
    copies = [tokenizers.build(mapping), pickle.loads(pickle.dumps(tokenizer)), copy.deepcopy(tokenizer)]
    for again in (*copies, tokenizers.build(tokenizers.describe(tokenizer))):
        assert type(again) is type(tokenizer)
        assert again.to_mapping() == tokenizer.to_mapping()
        assert again.encode(ODD) == tokenizer.encode(ODD)
        assert (again.vocab_size, again.context_length, again.pad_id) == (tokenizer.vocab_size, 20, tokenizer.pad_id)


@pytest.mark.parametrize("tokenizer", _all_kinds(), ids=["clip", "json"])
@pytest.mark.parametrize(("words", "width"), [(0, 8), (1, 8), (6, 8), (7, 16), (14, 16), (15, 20), (99, 20)])
def test_padding(tokenizer: Tokenizer, words: int, width: int) -> None:
    caption = " ".join(["a"] * words)
    tokens, mask = tokenizer([caption, "", "a"])
    rows = tokenizer.encode([caption, "", "a"])
    assert tokens.shape == mask.shape == (3, width)
    assert (tokens.dtype, mask.dtype) == (torch.int64, torch.bool)
    assert [row[keep].tolist() for row, keep in zip(tokens, mask, strict=True)] == rows
    assert (tokens[~mask] == tokenizer.pad_id).all()
    assert (mask.long().diff(dim=1) <= 0).all()  # the padding is on the right


def test_padding_of_nothing() -> None:
    tokens, mask = clip([])
    assert tokens.shape == mask.shape == (0, 8)
    tokens, mask = JsonTokenizer(_gpt_style().backend_tokenizer.to_str(), pad_id=7)(["", "a"])
    assert mask.sum(dim=1).tolist() == [0, 1] and tokens[0].tolist() == [7] * 8


def test_forked_workers_do_not_warn(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("TOKENIZERS_PARALLELISM", raising=False)
    trained = train_tokenizer(CAPTIONS * 100)
    assert os.environ["TOKENIZERS_PARALLELISM"] == "false"
    expected = trained.encode(CAPTIONS * 100)
    if (child := os.fork()) == 0:
        os._exit(0 if trained.encode(CAPTIONS * 100) == expected else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert "".join(capfd.readouterr()) == ""


def test_parallelism_stays_as_the_user_set_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "true")
    train_tokenizer(CAPTIONS)
    assert os.environ["TOKENIZERS_PARALLELISM"] == "true"


# Errors


def test_unknown_name() -> None:
    with pytest.raises(InputError, match="unknown tokenizer 'clipp': did you mean 'clip'"):
        tokenizers.build("clipp")


@pytest.mark.parametrize("context_length", [-1, 0, 2])
def test_no_room_for_text(context_length: int) -> None:
    for build in (ClipTokenizer, lambda context_length: train_tokenizer(CAPTIONS, context_length=context_length)):
        with pytest.raises(InputError, match=f"context_length {context_length} leaves no room .* at least 3"):
            build(context_length=context_length)


@pytest.mark.parametrize("texts", ["a dog", ["a dog", None], [3], [["nested"]]])
def test_texts_are_a_list_of_strings(texts: Any) -> None:
    for tokenizer in _all_kinds():
        for method in (tokenizer, tokenizer.encode):
            with pytest.raises(InputError, match="is not a list of strings: give captions as"):
                method(texts)


def test_missing_file(tmp_path: Path) -> None:
    for build in (lambda path: JsonTokenizer(path=path), tokenizers.build):
        with pytest.raises(InputError, match="does not exist.*`lightning-clip tokenizer train`"):
            build(str(tmp_path / "captions.json"))


@pytest.mark.parametrize("content", [b"", b"{}", b"not json", b"\xff\xfe", b'{"model": {"type": "none"}}'])
def test_not_a_tokenizer(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match="no tokenizer in '.*broken.json'.*`lightning-clip tokenizer train`"):
        tokenizers.build(str(path))
    with pytest.raises(InputError, match="no tokenizer in 'the content'"):
        JsonTokenizer(content.decode("latin-1"))


def test_a_folder_is_not_a_file(tmp_path: Path) -> None:
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(InputError, match="no tokenizer in .*directory"):
        tokenizers.build(str(tmp_path / "folder.json"))


def test_content_or_path() -> None:
    with pytest.raises(InputError, match="either its content or the path of a file"):
        JsonTokenizer()
    with pytest.raises(InputError, match="either its content or the path of a file"):
        JsonTokenizer("{}", "captions.json")


@pytest.mark.parametrize("pad_id", [-1, 300])
def test_pad_id_outside_the_vocabulary(pad_id: int) -> None:
    content = train_tokenizer(CAPTIONS * 3, vocab_size=300).content
    with pytest.raises(InputError, match=f"pad_id {pad_id} is not one of the tokenizer's ids: use 0 to 299"):
        JsonTokenizer(content, pad_id=pad_id)


def test_training_needs_captions() -> None:
    with pytest.raises(InputError, match="there are no captions to train a tokenizer on"):
        train_tokenizer(iter([]))


def test_training_needs_room_for_the_bytes() -> None:
    with pytest.raises(InputError, match="vocab_size 258 is below the 256 bytes and 3 special tokens: use at least 259"):
        train_tokenizer(CAPTIONS, vocab_size=258)


def test_padding_side() -> None:
    trained = train_tokenizer(["a dog, a cat"])
    left = JsonTokenizer(trained.content, padding_side="left")
    for again in (tokenizers.build(left.to_mapping()), left.grown(["<new>"]), JsonTokenizer(left.content)):
        assert again.padding_side == "left"
    assert trained.padding_side == tokenizers.build("clip").padding_side == "right"
    _, mask = left(["a dog", "a"])
    assert mask[:, 0].all() and not mask[1, -1]  # rows are padded on the right whatever the tower wants
    with pytest.raises(InputError, match="unknown padding_side 'middle'"):
        JsonTokenizer(trained.content, padding_side="middle")
