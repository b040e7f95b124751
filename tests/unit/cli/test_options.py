"""Where arguments and options come from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from ckptsync.cli.options import nested, pairs, place
from ckptsync.errors import ConfigError
from ckptsync.options import S3, Config, Gcs, Transfer
from ckptsync.run import Run

Call = Callable[..., Result]
Ask = Callable[..., list[dict[str, Any]]]


@pytest.mark.parametrize(
    ("wanted", "given", "variables", "filled"),
    [
        (["path", "run"], ["a", "b"], {}, {"path": "a", "run": "b"}),
        (["path", "run"], ["a", "b"], {"run": "r", "path": "p"}, {"path": "a", "run": "b"}),
        (["path", "run"], ["a"], {"run": "r"}, {"path": "a", "run": "r"}),
        (["run", "path"], ["a"], {"run": "r"}, {"path": "a", "run": "r"}),
        (["run", "path"], ["a"], {"path": "p"}, {"path": "p", "run": "a"}),
        (["run", "path"], ["a"], {"run": "r", "path": "p"}, {"path": "a", "run": "r"}),
        (["run", "path"], ["s3://b/r"], {"run": "r", "path": "p"}, {"path": "p", "run": "s3://b/r"}),
        (["run", "path"], ["s3://b/r"], {"run": "r"}, {"path": "s3://b/r", "run": "r"}),
        (["run", "path"], [], {"run": "r", "path": "p"}, {"path": "p", "run": "r"}),
        (["run", "snap"], ["latest"], {"run": "r"}, {"run": "r", "snap": "latest"}),
        (["run", "a", "b"], ["1", "2"], {"run": "r"}, {"run": "r", "a": "1", "b": "2"}),
        (["run", "a", "b"], ["1"], {"run": "r"}, {"run": "r", "a": "1"}),
        (["run", "path"], ["a"], {}, {"run": "a"}),
    ],
)
def test_what_is_left_out_comes_from_the_environment(
    wanted: list[str], given: list[str], variables: dict[str, str], filled: dict[str, str]
) -> None:
    assert place(wanted, given, variables) == filled


def test_run_and_path_from_the_environment(ask: Ask, call: Call, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CKPTSYNC_RUN", "run")
    assert ask("save", source, "--step", 1)[0]["step"] == 1
    monkeypatch.setenv("CKPTSYNC_DIR", str(source))
    assert ask("save", "--step", 2)[0]["step"] == 2
    assert [row["step"] for row in ask("ls")] == [2, 1]
    assert ask("show", 1)[0]["step"] == 1
    assert ask("diff", 1, 2)[0]["changed"] == []
    assert ask("verify")[0]["step"] == 2
    assert ask("restore", "target")[0]["target"] == "target"
    assert ask("save", source, "other", "--step", 7)[0]["step"] == 7
    assert [row["step"] for row in ask("ls", "other")] == [7]
    assert "SNAP is missing" in call("show", exit_code=2).stderr


def test_settings_are_sorted_into_groups() -> None:
    assert nested({"transfer.workers": 3, "transfer.copy_unchanged": False, "single_writer": True}) == {
        "single_writer": True,
        "transfer": {"workers": 3, "copy_unchanged": False},
    }
    with pytest.raises(ConfigError, match="'retry' is a group"):
        nested({"retry": 1, "retry.attempts": 2})


def test_pairs_keep_what_stands_behind_the_first_equals_sign() -> None:
    assert pairs(str)(["a=b=c", "d="]) == {"a": "b=c", "d": ""}
    assert pairs(float)(["a=1", "a=2e3", "b=inf"]) == {"a": 2000.0, "b": float("inf")}
    with pytest.raises(ValueError, match="not like NAME=VALUE"):
        pairs(str)(["=x"])


@pytest.fixture
def configured(call: Call, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Config]:
    """The configuration a verb works with when it is called with some arguments."""

    def configuration(*arguments: object) -> Config:
        seen: list[Config] = []

        def note(run: Run, *_: object, **__: object) -> None:
            seen.append(run.config)
            raise ConfigError("enough")

        monkeypatch.setattr("ckptsync.verbs.save.save", note)
        call("save", "source", "run", "--step", 1, *arguments, exit_code=2)
        return seen[0]

    return configuration


def test_an_argument_beats_the_environment_which_beats_the_file(
    configured: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("options.toml").write_text("[retry]\nattempts = 2\ncap_s = 2\nbase_s = 2\n")
    assert configured() == Config()
    monkeypatch.setenv("CKPTSYNC_RETRY_ATTEMPTS", "3")
    monkeypatch.setenv("CKPTSYNC_RETRY_CAP_S", "3")
    found = configured("--config", "options.toml", "--set", "retry.attempts=4").retry
    assert (found.attempts, found.cap_s, found.base_s) == (4, 3, 2)


def test_every_option_lands_where_it_belongs(configured: Callable[..., Config]) -> None:
    arguments = """
        --workers 3 --part-size 6MiB --max-rate 50MiB --compress zstd --no-copy --state-dir journals --single-writer
        --endpoint-url http://h:1 --region r --profile p --project j --set gcs.anonymous=true
    """
    assert configured(*arguments.split()) == Config(
        s3=S3(endpoint_url="http://h:1", region="r", profile="p"),
        gcs=Gcs(endpoint_url="http://h:1", project="j", anonymous=True),
        transfer=Transfer(
            workers=3, part_bytes=6 << 20, copy_unchanged=False, compress="zstd", max_bytes_per_s=50 << 20
        ),
        single_writer=True,
        state_dir="journals",
    )


def test_the_last_of_two_settings_wins(configured: Callable[..., Config]) -> None:
    assert configured("--workers", 3, "--set", "transfer.workers=4").transfer.workers == 4
    assert configured("--set", "transfer.workers=4", "--workers", 3).transfer.workers == 3
