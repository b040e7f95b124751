"""The keys that options name: read, or refused in a sentence that tells nothing of their content."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from support.keys import key_pair

from ckptsync.config import resolve
from ckptsync.errors import ConfigError
from ckptsync.events import Event, Kind
from ckptsync.options import Signing
from ckptsync.signing import read_keys
from ckptsync.snapshot.signature import NO_KEYS


def test_none_named_none_read(events: list[Event]) -> None:
    assert read_keys(Signing(), observer=events.append) is NO_KEYS


def test_a_pair_belongs_together(tmp_path: Path, events: list[Event]) -> None:
    private, public = key_pair(tmp_path, "a")
    keys = read_keys(Signing(key=str(private), require=(str(public),)), observer=events.append)
    assert keys.signer is not None
    assert keys.signer.public == keys.required[0]
    assert len(keys.signer.public.id) == 16
    keys.check_can_commit()
    assert events == []


def test_a_private_key_that_everybody_may_read_is_told(tmp_path: Path, events: list[Event]) -> None:
    private, _ = key_pair(tmp_path, "a")
    private.chmod(0o644)
    read_keys(Signing(key=str(private)), observer=events.append)
    assert [event.kind for event in events] == [Kind.NOTICE]
    assert "chmod 600" in events[0].message


def _text(path: Path) -> None:
    path.write_text("hunter2 is no key\n")


def _public(path: Path) -> None:
    path.write_bytes(key_pair(path.parent, "other")[1].read_bytes())


def _encrypted(path: Path) -> None:
    secret = Ed25519PrivateKey.generate()
    path.write_bytes(secret.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"hunter2")))


def _elliptic(path: Path) -> None:
    secret = generate_private_key(SECP256R1())
    path.write_bytes(secret.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def _truncated(path: Path) -> None:
    path.write_bytes(key_pair(path.parent, "other")[0].read_bytes()[:60])


def _huge(path: Path) -> None:
    path.write_bytes(b"hunter2" * 10_000)


def _folder(path: Path) -> None:
    path.mkdir()


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _absent(path: Path) -> None:
    assert not path.exists()


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (_text, "holds no private Ed25519 key"),
        (_public, "is a public key"),
        (_encrypted, "is encrypted"),
        (_elliptic, "holds no private Ed25519 key"),
        (_truncated, "holds no private Ed25519 key"),
        (_huge, "is no PEM file"),
        (_folder, "is no PEM file"),
        (_pipe, "is no PEM file"),
        (_absent, "does not exist"),
    ],
)
def test_what_is_no_private_key_is_refused(
    tmp_path: Path, events: list[Event], make: Callable[[Path], None], says: str
) -> None:
    place = tmp_path / "key.pem"
    make(place)
    with pytest.raises(ConfigError, match=says) as refused:
        read_keys(Signing(key=str(place)), observer=events.append)
    told = str(refused.value)
    assert str(place) in told
    assert "hunter2" not in told
    lines = place.read_text().splitlines() if make not in (_folder, _pipe, _absent) else []
    assert not any(line in told for line in lines if len(line) > 20)
    assert refused.value.__cause__ is None
    assert refused.value.__context__ is None


def _elliptic_public(path: Path) -> None:
    path.write_bytes(
        generate_private_key(SECP256R1()).public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )


def _private(path: Path) -> None:
    path.write_bytes(key_pair(path.parent, "other")[0].read_bytes())


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (_text, "holds no public Ed25519 key"),
        (_private, "holds a private key"),
        (_encrypted, "holds a private key"),
        (_elliptic_public, "holds no public Ed25519 key"),
        (_huge, "is no PEM file"),
        (_absent, "does not exist"),
    ],
)
def test_what_is_no_public_key_is_refused(
    tmp_path: Path, events: list[Event], make: Callable[[Path], None], says: str
) -> None:
    place = tmp_path / "key.pem"
    make(place)
    with pytest.raises(ConfigError, match=says) as refused:
        read_keys(Signing(require=(str(place),)), observer=events.append)
    assert str(place) in str(refused.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read anything")
def test_a_key_we_may_not_read_is_refused(tmp_path: Path, events: list[Event]) -> None:
    private, _ = key_pair(tmp_path, "a")
    private.chmod(0)
    with pytest.raises(ConfigError, match="cannot read"):
        read_keys(Signing(key=str(private)), observer=events.append)


def test_who_must_sign_and_cannot_is_told(tmp_path: Path, events: list[Event]) -> None:
    mine, _ = key_pair(tmp_path, "mine")
    _, theirs = key_pair(tmp_path, "theirs")
    with pytest.raises(ConfigError, match=r"signing\.key is not"):
        read_keys(Signing(require=(str(theirs),)), observer=events.append).check_can_commit()
    with pytest.raises(ConfigError, match=r"none of signing\.require"):
        read_keys(Signing(key=str(mine), require=(str(theirs),)), observer=events.append).check_can_commit()


def test_several_public_keys_stand_in_one_text_or_in_a_list(tmp_path: Path) -> None:
    file = tmp_path / "options.toml"
    file.write_text('[signing]\nkey = "a"\nrequire = ["b", "c"]\n')
    assert resolve(environ={}, file=str(file)).signing == Signing(key="a", require=("b", "c"))
    file.write_text('[signing]\nrequire = "b"\n')
    assert resolve(environ={}, file=str(file)).signing.require == ("b",)
    environ = {"CKPTSYNC_SIGNING_KEY": "k", "CKPTSYNC_SIGNING_REQUIRE": "d:e"}
    assert resolve(environ=environ, file=str(file)).signing == Signing(key="k", require=("d", "e"))
    assert resolve({"signing": {"require": "f"}}, environ=environ).signing == Signing(key="k", require=("f",))


@pytest.mark.parametrize("paths", ["", "a:", ":a", "a::b"])
def test_a_variable_that_was_never_set_requires_nothing_by_mistake(paths: str) -> None:
    with pytest.raises(ConfigError, match=r"signing\.require"):
        resolve(environ={"CKPTSYNC_SIGNING_REQUIRE": paths})
    with pytest.raises(ConfigError, match=r"signing\.key"):
        resolve(environ={"CKPTSYNC_SIGNING_KEY": ""})


def test_without_cryptography_the_extra_is_named(tmp_path: Path) -> None:
    private, public = key_pair(tmp_path, "a")
    program = (
        "import sys; sys.modules['cryptography'] = None\n"
        "from ckptsync.options import Signing; from ckptsync.errors import ConfigError; from ckptsync.signing import read_keys\n"
        "for options in (Signing(key=sys.argv[1]), Signing(require=(sys.argv[2],))):\n"
        "    try: read_keys(options, observer=print)\n"
        "    except ConfigError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, private, public], check=True, capture_output=True, text=True, cwd=Path.cwd()
    )
    assert done.stdout.count("pip install 'ckptsync[sign]'") == 2


def test_without_keys_cryptography_is_not_imported() -> None:
    program = (
        "import sys; from ckptsync.run import open_run; from ckptsync.options import Config\n"
        "with open_run('memory://x', Config()) as run: run.catalog.claims.claim(); run.catalog.latest()\n"
        "print('cryptography' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, cwd=Path.cwd())
    assert done.stdout == "False\n"
