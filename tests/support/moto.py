"""moto: AWS on loopback as far as Terraform needs it: buckets, roles, keys, machines that are only written down."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path

from ckptsync.testing.servers import Server, free_port, running, virtual_environment

ACCOUNT = "123456789012"
_PINS = ("moto[server,s3,ec2,iam,autoscaling,sts,kms]==5.2.5",)


@contextmanager
def moto() -> Iterator[Server]:
    """Run moto; any credentials do everything until `enforced`."""
    python, port = virtual_environment("moto", _PINS), free_port()
    with tempfile.TemporaryDirectory(prefix="ckptsync-moto-") as folder:
        argv = [str(python), "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
        with running("moto", argv, folder=Path(folder), environ={"AWS_EC2_METADATA_DISABLED": "true"}, port=port):
            yield Server(url=f"http://127.0.0.1:{port}")


@contextmanager
def enforced(server: Server) -> Iterator[None]:
    """Hold everybody to the policies of their role while the block runs.

    moto reads Action and Resource of a role's policies and passes over Condition; it takes a statement of a bucket policy
    that has one as if it had none. What conditions do is for a simulator to say.
    """
    _count_free_calls(server, "0")
    try:
        yield
    finally:
        _count_free_calls(server, "inf")


def _count_free_calls(server: Server, count: str) -> None:
    connection = HTTPConnection(server.url.removeprefix("http://"), timeout=30)
    try:
        connection.request("POST", "/moto-api/reset-auth", body=count)
        assert connection.getresponse().status == 200
    finally:
        connection.close()
