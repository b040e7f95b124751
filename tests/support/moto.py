"""moto: AWS on loopback as far as Terraform needs it: buckets, roles, keys, and machines that are only written down.

It holds nobody to any policy: its own checks pass over conditions of a role's policies, take a conditional denial in a bucket's
for one that always holds, and know no `?` in a pattern. guarded_s3.py stands before it where rights matter. A last version that
is a delete marker is deleted here as any other, and names in a listing of versions are encoded where that is asked for: moto itself
does neither, and whoever empties a bucket by its versions would never come to an end. A call that an SDK sends again, since the
answer was lost, is answered as before; EC2 knows it by its ClientToken, of which moto takes no notice. On a busy machine the AWS
provider gives up reading one answer in a thousand.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ckptsync.testing.servers import Server, free_port, running, virtual_environment

ACCOUNT = "123456789012"
_PINS = ("moto[server,s3,ec2,iam,autoscaling,sts,kms]==5.2.5",)
_PROGRAM = """
import re
import sys
from functools import partial
from urllib.parse import quote
from xml.sax.saxutils import unescape
from moto.iam.access_control import PermissionResult
from moto.s3.models import FakeBucket, FakeDeleteMarker
from moto.s3.responses import S3Response
from moto.server import DomainDispatcherApplication, main
from werkzeug.wrappers import Response

def listed(self, list_versions=S3Response.list_object_versions):
    status, fields, body = list_versions(self)
    if "encoding-type" in self.querystring:
        body = re.sub("<Key>(.*?)</Key>", lambda key: f"<Key>{quote(unescape(key[1]))}</Key>", body)
    return status, fields, body

answers = {}

def answered(self, environ, start_response, dispatch=DomainDispatcherApplication.__call__):
    call = environ.get("HTTP_AMZ_SDK_INVOCATION_ID")
    if call is None or environ["REQUEST_METHOD"] != "POST":
        return dispatch(self, environ, start_response)
    answer = answers.get(call) or Response.from_app(partial(dispatch, self), environ, buffered=True)
    if answer.status_code < 500:
        answers[call] = answer
    return answer(environ, start_response)

DomainDispatcherApplication.__call__ = answered
FakeBucket.get_permission = lambda *_: PermissionResult.NEUTRAL
FakeDeleteMarker.dispose = lambda _: None
S3Response.list_object_versions = listed
main(sys.argv[1:])
"""


@contextmanager
def moto() -> Iterator[Server]:
    """Run moto; any credentials do everything."""
    python, port = virtual_environment("moto", _PINS), free_port()
    with tempfile.TemporaryDirectory(prefix="ckptsync-moto-") as folder:
        argv = [str(python), "-c", _PROGRAM, "-H", "127.0.0.1", "-p", str(port)]
        with running("moto", argv, folder=Path(folder), environ={"AWS_EC2_METADATA_DISABLED": "true"}, port=port):
            yield Server(url=f"http://127.0.0.1:{port}")
