"""Who may do what with which object, by keys as the product makes them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from support.aws_account import BUCKET

from ckptsync.snapshot import layout

ALLOWED, IMPLICIT, EXPLICIT = "Allowed", "ImplicitlyDenied", "ExplicitlyDenied"
IF_ABSENT = {"s3:if-none-match": "*"}
LATER, EARLIER = layout.new_snapshot_id(2, 200), layout.new_snapshot_id(1, 100)

COMMITS = {"manifest": layout.manifest_key(LATER), "claim": layout.writer_key(2)}
DATA = {
    "file": layout.data_key(LATER, "model.safetensors"),
    "file in a folder named manifests": layout.data_key(LATER, "manifests/latest.json"),
    "file in a folder named writers": layout.data_key(LATER, "writers/settings.json"),
    "file in a folder named leases": layout.data_key(LATER, f"leases/{EARLIER}/abcdefgh"),
    "file in a folder named like a doctor's": layout.data_key(LATER, "doctor-0123456789abcdef/x"),
}
RECORDS = {
    "journal": layout.journal_key(LATER),
    "journal of a rank": layout.journal_key(LATER, 7),
    "report": layout.report_key(LATER, 0, 8),
    "promise of content": layout.content_key(LATER, "model.safetensors"),
    "committer": layout.committer_key(LATER),
    "launch": layout.launch_key("job-4711"),
    "alias": layout.alias_key("best", 3),
    "pin": layout.pin_key(LATER),
}
LEASE = {"lease": layout.new_lease_key(LATER)}
MARKS = LEASE | {
    "quarantine": layout.quarantine_key(LATER),
    "adoption": layout.adoption_key(EARLIER, LATER),
    "doctor's object": "doctor-0123456789abcdef/odd name.bin",
}
CONDEMNED = {"condemnation": layout.condemned_key(EARLIER)}
EVERYTHING = COMMITS | DATA | RECORDS | MARKS | CONDEMNED

CONFIGURING = (
    "DeleteBucket",
    "DeleteBucketPolicy",
    "PutBucketAcl",
    "PutBucketLogging",
    "PutBucketOwnershipControls",
    "PutBucketPolicy",
    "PutBucketPublicAccessBlock",
    "PutBucketVersioning",
    "PutEncryptionConfiguration",
    "PutLifecycleConfiguration",
    "PutReplicationConfiguration",
    "ListBucketVersions",
)


@dataclass(frozen=True, slots=True)
class Case:
    """One request and what becomes of it.

    Attributes:
        role: who asks.
        action: of S3, without its `s3:`.
        key: of the object; empty for the bucket itself.
        verdict: of the simulator.
        context: what is known of the request.
        of: what the key is, for people.
    """

    role: str
    action: str
    key: str
    verdict: str
    context: Mapping[str, str] = field(default_factory=dict)
    of: str = ""

    @property
    def action_name(self) -> str:
        """As IAM names it."""
        return f"s3:{self.action}"

    @property
    def resource(self) -> str:
        """ARN."""
        return f"arn:aws:s3:::{BUCKET}" + (f"/{self.key}" if self.key else "")

    def __str__(self) -> str:
        context = "".join(f" {key}={value}" for key, value in self.context.items())
        return f"{self.role}: {self.action} {self.of or self.key or 'bucket'}{context}: {self.verdict}"


def on(
    role: str,
    actions: str,
    keys: Mapping[str, str],
    verdict: str,
    context: Mapping[str, str] | None = None,
    *,
    runs: Iterable[str] = ("runs/team/run-7", "runs"),
) -> list[Case]:
    """The same for some actions on objects of a run below the prefix, and of one at the prefix itself."""
    return [
        Case(role, action, f"{run}/{key}", verdict, context or {}, f"{name} of {run}")
        for action in actions.split()
        for run in runs
        for name, key in keys.items()
    ]


def listing(role: str, prefix: str | None, verdict: str) -> Case:
    """Listing the bucket."""
    return Case(role, "ListBucket", "", verdict, {} if prefix is None else {"s3:prefix": prefix})


OUTSIDE = ("runs2/run-7", "run", "other/runs/run-7", "Runs/run-7")

TRAINER = [
    *on("trainer", "GetObject", EVERYTHING, ALLOWED),
    *on("trainer", "PutObject", DATA | RECORDS | MARKS, ALLOWED),
    *on("trainer", "PutObject", COMMITS, ALLOWED, IF_ABSENT),
    *on("trainer", "ListMultipartUploadParts AbortMultipartUpload", DATA, ALLOWED),
    *on("trainer", "DeleteObject", MARKS, ALLOWED),
    *on("trainer", "PutObject", COMMITS, EXPLICIT),
    *on("trainer", "PutObject", COMMITS, EXPLICIT, {"s3:if-match": '"0123456789abcdef0123456789abcdef"'}),
    *on("trainer", "PutObject", COMMITS, EXPLICIT, {"s3:ObjectCreationOperation": "false"}),
    *on("trainer", "DeleteObject DeleteObjectVersion", COMMITS | DATA | RECORDS | CONDEMNED, EXPLICIT),
    *on("trainer", "PutObject", CONDEMNED, EXPLICIT),
    *on("trainer", "PutObjectAcl GetObjectVersion BypassGovernanceRetention", DATA, IMPLICIT),
]
READER = [
    *on("reader", "GetObject", EVERYTHING, ALLOWED),
    *on("reader", "PutObject DeleteObject", LEASE, ALLOWED),
    *on("reader", "PutObject", COMMITS, IMPLICIT, IF_ABSENT),
    *on("reader", "PutObject", COMMITS | CONDEMNED, EXPLICIT),
    *on("reader", "PutObject", RECORDS | {"quarantine": MARKS["quarantine"], "file": DATA["file"]}, IMPLICIT),
    *on("reader", "DeleteObject", COMMITS | DATA | RECORDS | CONDEMNED, EXPLICIT),
    *on("reader", "AbortMultipartUpload ListMultipartUploadParts", DATA, IMPLICIT),
]
GC = [
    *on("gc", "GetObject DeleteObject", EVERYTHING, ALLOWED),
    *on("gc", "PutObject", CONDEMNED, ALLOWED),
    *on("gc", "ListMultipartUploadParts AbortMultipartUpload", DATA, ALLOWED),
    *on("gc", "PutObject", COMMITS, IMPLICIT, IF_ABSENT),
    *on("gc", "PutObject", COMMITS, EXPLICIT),
    *on("gc", "PutObject", DATA | RECORDS | MARKS, IMPLICIT),
    # What gc deletes by mistake is there for as long as versions are.
    *on("gc", "DeleteObjectVersion", EVERYTHING, IMPLICIT),
]
EVERYBODY = [
    case
    for role in ("trainer", "reader", "gc")
    for case in (
        *on(role, "GetObject PutObject DeleteObject", {"object": "model.safetensors"}, IMPLICIT, runs=OUTSIDE),
        listing(role, "runs/", ALLOWED),
        listing(role, "runs/run-7/manifests/", ALLOWED),
        # S3 asks this, with the whole key, before it says that an object is not there.
        listing(role, f"runs/run-7/{layout.launch_key('job-4712')}", ALLOWED),
        listing(role, "runs2/", IMPLICIT),
        listing(role, "runs", IMPLICIT),
        listing(role, "", IMPLICIT),
        listing(role, None, IMPLICIT),
        Case(role, "ListBucketMultipartUploads", "", IMPLICIT if role == "reader" else ALLOWED),
        *(Case(role, action, "", IMPLICIT) for action in CONFIGURING),
    )
]
CASES = [*TRAINER, *READER, *GC, *EVERYBODY]
WITHOUT_TLS = [case for case in CASES if case.verdict == ALLOWED]
