"""Google's IAM, as far as the rights of our module need it: roles bound with conditions, and a loopback GCS that minds them.

Source: https://cloud.google.com/iam/docs/conditions-attribute-reference (resource names, `extract`), …/storage/docs/access-control/iam-json
and …/iam-xml (what each request needs).
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import celpy
from celpy import celtypes

from ckptsync.testing.gcs import GcsServer
from ckptsync.testing.gcs.wire import Kind, Request, Response

_ABOUT_BUCKETS = frozenset({"storage.objects.list", "storage.multipartUploads.list"})
_COPIES = frozenset({Kind.REWRITE, Kind.COPY})
_MOST_OPERATORS = 12  # Source: https://cloud.google.com/iam/quotas


@dataclass(frozen=True, slots=True)
class Grant:
    """A role that somebody has.

    Attributes:
        permissions: of the role.
        condition: a program made of its expression; None for none.
    """

    permissions: frozenset[str]
    condition: celpy.Runner | None

    def covers(self, permission: str, resource: str) -> bool:
        """Whether it gives a permission on a resource."""
        if permission not in self.permissions:
            return False
        return self.condition is None or bool(
            self.condition.evaluate(
                {"resource": celtypes.MapType({celtypes.StringType("name"): celtypes.StringType(resource)})}
            )
        )


@dataclass(frozen=True, slots=True)
class Policy:
    """Who may do what in a bucket.

    Attributes:
        bucket: its name.
        grants: by who has them: `trainer`, `reader`, `gc`.
    """

    bucket: str
    grants: Mapping[str, Iterable[Grant]]

    def allows(self, who: str, permission: str, name: str) -> bool:
        """Whether somebody may do something to an object, or to the bucket where the permission is about that."""
        resource = f"projects/_/buckets/{self.bucket}"
        if permission not in _ABOUT_BUCKETS:
            resource += f"/objects/{name}"
        return any(grant.covers(permission, resource) for grant in self.grants[who])


def policy(resources: Iterable[Mapping[str, Any]], bucket: str) -> Policy:
    """Read the policy that a module makes: custom roles, and members of a bucket named after who, role and member."""
    resources = list(resources)
    roles = {
        made["values"]["name"]: frozenset(made["values"]["permissions"])
        for made in resources
        if made["type"] == "google_project_iam_custom_role"
    }
    grants: dict[str, list[Grant]] = {}
    for made in resources:
        if made["type"] == "google_storage_bucket_iam_member":
            who = made["index"].split(" ")[0]
            conditions = [_program(condition["expression"]) for condition in made["values"]["condition"]]
            grants.setdefault(who, []).append(Grant(roles[made["values"]["role"]], next(iter(conditions), None)))
    return Policy(bucket, grants)


def _program(expression: str) -> celpy.Runner:
    """A condition, as the service takes it."""
    operators = expression.count("&&") + expression.count("||")
    assert operators <= _MOST_OPERATORS, f"{operators} operators: {expression}"
    environment = celpy.Environment()
    return environment.program(environment.compile(expression), functions={"extract": extract})


def extract(text: str, template: str) -> celtypes.StringType:
    """What stands in a text where the template has a name in braces; empty where what is around that is not found."""
    before, _, rest = template.partition("{")
    after = rest.partition("}")[2]
    begin = text.find(before)
    end = text.find(after, begin + len(before)) if after else len(text)
    return celtypes.StringType("" if -1 in (begin, end) else text[begin + len(before) : end])


class GuardedGcs(GcsServer):
    """A loopback GCS that gives nobody more than a policy does.

    Attributes:
        who: asks from now on.
        refused: permissions and objects that were asked for in vain.
    """

    def __init__(self, rights: Policy) -> None:
        super().__init__(buckets=[rights.bucket], writes_per_s=None)
        self.who = ""
        self.refused: list[tuple[str, str]] = []
        self._rights = rights
        self._asked = threading.local()
        self._objects.deny = _Refusing(self)  # type: ignore[assignment]  # which is only ever asked whether it contains one

    def refuses(self, permission: str) -> bool:
        """Whether a permission is missing for the request that this thread answers."""
        request: Request = self._asked.request
        to_copy = request.kind in _COPIES and permission != "storage.objects.get"
        name = request.target.to_name if to_copy else request.object_name
        if self._rights.allows(self.who, permission, name):
            return False
        self.refused.append((permission, name))
        return True

    def _handle(self, request: Request) -> Response:
        self._asked.request = request
        return super()._handle(request)


class _Refusing(Collection[str]):
    """Stands where the server has the permissions that nobody has."""

    def __init__(self, server: GuardedGcs) -> None:
        self._server = server

    def __contains__(self, permission: object) -> bool:
        return self._server.refuses(str(permission))

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0
