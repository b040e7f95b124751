"""The keys that the options name, read from the disk."""

from __future__ import annotations

import stat
from pathlib import Path

from ckptsync.errors import ConfigError
from ckptsync.events import Event, Kind, Observer
from ckptsync.options import Signing
from ckptsync.snapshot.signature import NO_KEYS, Keys, private_key, public_key

_MAX_FILE_BYTES = 1 << 16


def read_keys(options: Signing, *, observer: Observer) -> Keys:
    """Read the keys a run is written and read with. A private key that everybody on the machine may read is told.

    Args:
        options: paths of PEM files.
        observer: told when a private key lies open.

    Raises:
        ConfigError: a file cannot be read, holds another kind of key, or `cryptography` is not installed.
    """
    if options.key is None and not options.require:
        return NO_KEYS
    signer = None
    if options.key is not None:
        path = Path(options.key).expanduser()
        signer = private_key(_content(path, "signing.key"), options.key)
        if path.stat().st_mode & stat.S_IROTH:
            told = f"signing.key {options.key} can be read by everybody on this machine; chmod 600 it"
            observer(Event(kind=Kind.NOTICE, path=options.key, message=told))
    required = tuple(public_key(_content(Path(path).expanduser(), "signing.require"), path) for path in options.require)
    return Keys(signer=signer, required=required)


def _content(path: Path, option: str) -> bytes:
    """Read a small file."""
    try:
        if not path.exists():
            raise ConfigError(f"{option} {path} does not exist")
        if not path.is_file() or path.stat().st_size > _MAX_FILE_BYTES:
            raise ConfigError(f"{option} {path} is no PEM file")
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read {option} {path}: {error.strerror}") from error
