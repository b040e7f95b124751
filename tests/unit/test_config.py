"""Every option: where it may come from, what wins, and what is refused by name."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from ckptsync.config import launch_name, parse_duration, parse_size, resolve
from ckptsync.errors import ConfigError
from ckptsync.options import MIB, Config, Transfer


def test_the_defaults_are_in_their_own_ranges() -> None:
    assert msgspec.convert(msgspec.to_builtins(Config()), Config) == Config()
    assert resolve(environ={}) == Config()


def test_argument_beats_environment_beats_file_beats_default(tmp_path: Path) -> None:
    file = tmp_path / "options.toml"
    file.write_text('[transfer]\nworkers = 3\npart_bytes = "8MiB"\n[retry]\nattempts = 2\n')
    environ = {
        "CKPTSYNC_CONFIG": str(file),
        "CKPTSYNC_TRANSFER_WORKERS": "4",
        "CKPTSYNC_RETRY_CAP_S": "7.5",
        "PATH": "/",
    }
    found = resolve({"retry": {"cap_s": 9}}, environ=environ)
    assert found.transfer == Transfer(workers=4, part_bytes=8 * MIB)
    assert (found.retry.attempts, found.retry.cap_s) == (2, 9.0)
    assert found.http == Config().http


def test_a_file_named_by_argument_beats_the_environments(tmp_path: Path) -> None:
    one, other = tmp_path / "one.toml", tmp_path / "other.toml"
    one.write_text("single_writer = true\n")
    other.write_text("single_writer = false\n")
    assert resolve(environ={"CKPTSYNC_CONFIG": str(other)}, file=str(one)).single_writer


def test_the_environments_text_becomes_the_options_type() -> None:
    found = resolve(
        environ={
            "CKPTSYNC_SINGLE_WRITER": "true",
            "CKPTSYNC_STATE_DIR": "/x",
            "CKPTSYNC_TRANSFER_PART_BYTES": "64 MiB",
            "CKPTSYNC_TRANSFER_MAX_BYTES_PER_S": "50MiB",
            "CKPTSYNC_HTTP_STALL_BYTES": "1MiB",
            "CKPTSYNC_S3_ENDPOINT_URL": "http://127.0.0.1:9000",
            "CKPTSYNC_GCS_ANONYMOUS": "false",
        }
    )
    assert (found.single_writer, found.state_dir, found.transfer.part_bytes) == (True, "/x", 64 * MIB)
    assert (found.transfer.max_bytes_per_s, found.http.stall_bytes) == (50 * MIB, MIB)
    assert (found.s3.endpoint_url, found.gcs.anonymous) == ("http://127.0.0.1:9000", False)


def test_variables_of_other_use_are_left_alone() -> None:
    environ = {"CKPTSYNC_RUN": "s3://b/r", "CKPTSYNC_DIR": "/d", "CKPTSYNC_TEST_SHORT": "1", "OTHER": "x"}
    assert resolve(environ=environ) == Config()


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"CKPTSYNC_TRANSFR_WORKERS": "4"}, "CKPTSYNC_TRANSFR_WORKERS is not an option"),
        ({"CKPTSYNC_TRANSFER_WORKER": "4"}, "worker"),
        ({"CKPTSYNC_TRANSFER_WORKERS": "many"}, "transfer.workers"),
        ({"CKPTSYNC_TRANSFER_WORKERS": "0"}, "transfer.workers"),
        ({"CKPTSYNC_TRANSFER_WORKERS": "257"}, "transfer.workers"),
        ({"CKPTSYNC_TRANSFER_PART_BYTES": "4MiB"}, "transfer.part_bytes"),
        ({"CKPTSYNC_TRANSFER_PART_BYTES": "6GiB"}, "transfer.part_bytes"),
        ({"CKPTSYNC_TRANSFER_PART_BYTES": "big"}, "'big' is not a size"),
        ({"CKPTSYNC_TRANSFER_MAX_BYTES_PER_S": "1023KiB"}, "transfer.max_bytes_per_s"),
        ({"CKPTSYNC_HTTP_STALL_TIMEOUT_S": "0"}, "http.stall_timeout_s"),
        ({"CKPTSYNC_HTTP_STALL_BYTES": "0"}, "http.stall_bytes"),
        ({"CKPTSYNC_RETRY_BASE_S": "0"}, "retry.base_s"),
        ({"CKPTSYNC_RETRY_BASE_S": "nan"}, "retry.base_s"),
        ({"CKPTSYNC_S3_CHECKSUM": "md5"}, "s3.checksum: invalid enum value 'md5'; it can be auto, crc64nvme, none"),
        ({"CKPTSYNC_SINGLE_WRITER": "perhaps"}, "single_writer"),
    ],
)
def test_a_bad_option_is_named(environ: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        resolve(environ=environ)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"[transfer]\nspeed = 3\n", "speed"),
        (b"colour = 3\n", "colour"),
        (b"transfer = 3\n", "transfer"),
        (b"[transfer\n", "not valid TOML"),
        (b"\xff\xfe", "not valid TOML"),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, content: bytes, said: str) -> None:
    file = tmp_path / "options.toml"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=said):
        resolve(environ={}, file=str(file))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read configuration file .*absent\.toml: No such file"):
        resolve(environ={"CKPTSYNC_CONFIG": str(tmp_path / "absent.toml")})


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("1048576", 1 << 20),
        ("64MiB", 64 << 20),
        ("64 mib", 64 << 20),
        ("64Mi", 64 << 20),
        ("1.5 GB", 1_500_000_000),
        ("2k", 2000),
        ("1TiB", 1 << 40),
        (" 7b ", 7),
        ("9007199254740993", 9007199254740993),
        ("0.1TB", 100_000_000_000),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "MiB", "-1", "1e6", "1,5GB", "5 PB", "5i", "5ib", "1.GB", "nan", "inf", "1 2", "9" * 5000, "٣"]
)
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="is not a size"):
        parse_size(text)


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("30s", 30), ("10m", 600), ("6 h", 21_600), ("1.5D", 129_600), ("1w", 604_800)]
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "h", "-1s", "1y", "1h30m", "nan", "10 ms"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="is not a duration"):
        parse_duration(text)


def test_where_journals_lie(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/state")
    assert Config().state_path() == Path("/state/ckptsync")
    assert Config(state_dir="/other").state_path() == Path("/other")
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", "/srv/somebody")
    assert Config().state_path() == Path("/srv/somebody/.local/state/ckptsync")


@pytest.mark.parametrize(
    ("environ", "name"),
    [
        ({}, ""),
        ({"CKPTSYNC_LAUNCH": "mine", "SLURM_JOB_ID": "7"}, "mine"),
        ({"TORCHELASTIC_RUN_ID": "none", "TORCHELASTIC_RESTART_COUNT": "1"}, ""),
        ({"TORCHELASTIC_RUN_ID": "j", "TORCHELASTIC_RESTART_COUNT": "1"}, ""),  # agents do not agree on it
        ({"SLURM_JOB_ID": "7"}, "slurm-7-0-"),
        ({"SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": "2", "SLURM_STEP_ID": "0"}, "slurm-7-2-0"),
    ],
)
def test_the_launch_is_named_by_the_user_or_the_scheduler(environ: dict[str, str], name: str) -> None:
    assert launch_name(environ) == name


def test_the_name_of_the_launch_is_no_option() -> None:
    assert resolve(environ={"CKPTSYNC_LAUNCH": "x"}) == Config()
