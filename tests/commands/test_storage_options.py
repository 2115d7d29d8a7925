"""Tokens for remote shards: from the environment, through a recipe, to the server and nowhere else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from data.faulty_server import FaultyServer, serve
from data.test_shards import files
from small import IMAGE, TEXT

from lightning_clip import InputError
from lightning_clip.cli import main
from lightning_clip.data import ShardSource
from lightning_clip.prompts.sets.clip_benchmark import clip_benchmark

SECRET = "a-token-that-nobody-sees"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyServer]:
    monkeypatch.setenv("SHARDS_TOKEN", SECRET)
    monkeypatch.setenv("LIGHTNING_CLIP_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    with serve(files(2)) as found:
        found.token = SECRET
        yield found


def recipe(server: FaultyServer, header: str = "Bearer ${oc.env:SHARDS_TOKEN}") -> Path:
    train = {"name": f"{server.url}/{{000..001}}.tar", "storage_options": {"headers": {"Authorization": header}}}
    content = {
        "model": {
            "image_encoder": IMAGE,
            "text_encoder": TEXT,
            "embed_dim": 8,
            "tokenizer": {"name": "clip", "context_length": 8},
        },
        "data": {"train": train, "local_batch_size": 8},
        "trainer": {"max_steps": 2, "accelerator": "cpu", "enable_progress_bar": False, "default_root_dir": "run"},
    }
    Path("r.yaml").write_text(yaml.safe_dump(content))
    return Path("r.yaml")


def test_a_run_and_what_it_leaves(server: FaultyServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "--config", str(recipe(server))]) == 0
    left = [path for path in Path().rglob("*") if path.is_file() and path.name != "r.yaml"]
    assert any(path.suffix == ".ckpt" for path in left)
    assert not [path for path in left if SECRET.encode() in path.read_bytes()]
    (saved,) = (path for path in left if path.name == "config.yaml")
    options = yaml.safe_load(saved.read_text())["data"]["train"]["storage_options"]
    assert options == {"headers": {"Authorization": "Bearer ${oc.env:SHARDS_TOKEN}"}}
    assert main(["fit", "--config", str(saved), "--trainer.max_steps=1"]) == 0  # it can be run again
    with pytest.raises(SystemExit):
        main(["fit", "--config", "r.yaml", "--print_config"])
    printed = capsys.readouterr()
    assert "Bearer ${oc.env:SHARDS_TOKEN}" in printed.out and SECRET not in printed.out + printed.err


def test_a_token_that_is_not_right(server: FaultyServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "--config", str(recipe(server, "Bearer another-secret"))]) == 2
    error = capsys.readouterr().err
    assert f"no shard can be read: {server.url}/000.tar: status 401 (Unauthorized)" in error
    assert "give a token or other credentials by storage_options" in error and "another-secret" not in error


def test_a_token_written_out_is_not_saved(server: FaultyServer, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["fit", "--config", str(recipe(server, "Bearer written-out")), "--print_config"])
    printed = capsys.readouterr().out
    assert "Authorization: '***'" in printed and "written-out" not in printed
    Path("saved.yaml").write_text(printed)
    assert main(["fit", "--config", "saved.yaml"]) == 2
    assert "storage_options.headers.Authorization is '***'" in capsys.readouterr().err


def test_commands_on_data(server: FaultyServer, capsys: pytest.CaptureFixture[str]) -> None:
    options = f"storage_options={{headers: {{Authorization: Bearer {SECRET}}}}}"
    assert main(["data", "verify", "--data", f"{server.url}/{{000..001}}.tar", "--set", options]) == 0
    printed = capsys.readouterr()
    assert "40" in printed.out and SECRET not in printed.out + printed.err


def test_in_python(server: FaultyServer) -> None:
    options = {"headers": {"Authorization": f"Bearer {SECRET}"}}
    source = ShardSource(f"{server.url}/*.tar", storage_options=options)
    assert len(source) == 40 and source[30].key == "001010"
    assert SECRET not in repr(source.shards.cache.remote)  # type: ignore[attr-defined]
    with pytest.raises(InputError, match=r"000.tar: .*unexpected keyword argument 'token': check .* storage_options") as found:
        ShardSource(f"{server.url}/000.tar", cache_folder="another", storage_options={"token": SECRET})
    assert SECRET not in str(found.value)


def test_an_evaluation_set(server: FaultyServer) -> None:
    server.files |= {"classnames.txt": b"a\nb\n", "test/nshards.txt": b"1\n", "test/0.tar": server.files["000.tar"]}
    found = clip_benchmark(server.url, storage_options={"headers": {"Authorization": f"Bearer {SECRET}"}})
    assert len(found.source) == 20 and found.class_names == ["a", "b"]
    with pytest.raises(InputError, match=r"dataset_type.txt: status 401 \(Unauthorized\): give a token .* by storage_options"):
        clip_benchmark(server.url)
