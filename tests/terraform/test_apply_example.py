"""The example for AWS, applied: machines resume with the trainer's rights, nobody may what they must not, and nothing is left.

The AWS provider is the real one, AWS is moto, and every request to the bucket is judged by the policies that were applied.
"""

from __future__ import annotations

import base64
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from configparser import ConfigParser
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from support.aws_account import ADMIN, BUCKET, EXAMPLE, Account, Keys, account
from support.guarded_s3 import GuardedS3, guarded_s3
from support.iam import judge
from support.instances import kill_session
from support.startup import ENVIRONMENT, UNIT, environment, files, unit
from support.waiting import LONG_S, wait_until

from ckptsync.testing.servers import REGION

TRAINER = Path(__file__).parents[1] / "support" / "plain_trainer.py"
STEPS = 120
STATE, VENV = "/var/lib/train", "/srv/train/venv/bin"
OPTIONS = f"{STATE}/checkpoints {STATE}/result --log {STATE}/starts --steps {STEPS} --every 10 --pause 0.05"
ID = "00000001-000000000100-abcdefgh"
ROLES = ("trainer", "reader", "gc")


@pytest.fixture(scope="module")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Account]:
    """An account with the example applied. Terraform takes a minute: S3's lifecycle rules must be read back ten times."""
    options = {"region": REGION, "train_options": OPTIONS, "instance_types": ["m7i.large"]}
    training = {"repository": "https://git.example.org/you/training.git"}
    with account(tmp_path_factory.mktemp("apply"), EXAMPLE, **options, **training) as made:
        made.variables["ami_id"] = made.client("ec2").describe_images()["Images"][0]["ImageId"]
        made.do("apply", "-auto-approve")
        yield made


@pytest.fixture(scope="module")
def keys(aws: Account) -> dict[str, Keys]:
    """Of each role."""
    return {role: aws.assume(role) for role in ROLES}


@pytest.fixture(scope="module")
def guard(aws: Account, keys: dict[str, Keys]) -> Iterator[GuardedS3]:
    """The bucket as the roles see it."""
    rights = {keys[role].access_key: aws.rights(role) for role in ROLES}
    with judge() as judging, guarded_s3(aws.server.url, judging) as made:
        made.by_key |= rights
        yield made


def environ(guard: GuardedS3, keys: Keys) -> dict[str, str]:
    """What somebody with a role has in the environment."""
    kept = {name: os.environ[name] for name in ("PYTHONPATH", "PATH", "HOME") if name in os.environ}
    ways = {"AWS_ENDPOINT_URL_S3": guard.url, "AWS_EC2_METADATA_DISABLED": "true"}
    nowhere = {"AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull}
    return {
        **kept,
        **ways,
        **nowhere,
        **keys.environ,
        "LANG": "C.UTF-8",
        "PATH": f"{Path(sys.executable).parent}:{kept['PATH']}",
    }


def run(command: str, guard: GuardedS3, keys: Keys, folder: Path, *, code: int = 0) -> str:
    """Run a command line with a role's keys, in place of the profile that it names."""
    words = shlex.split(command)
    done = subprocess.run(
        words[words.index("ckptsync") :],
        cwd=folder,
        env=environ(guard, keys),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, f"{command}: {done.returncode}\n{done.stdout}{done.stderr}\n{guard.refused}"
    return done.stdout


def test_a_second_plan_changes_nothing(aws: Account) -> None:
    assert "No changes." in aws.do("plan", "-detailed-exitcode")


def test_the_group_starts_one_spot_machine_with_a_session_for_its_metadata(aws: Account) -> None:
    group = aws.group()
    shares = group["MixedInstancesPolicy"]["InstancesDistribution"]
    assert (shares["OnDemandBaseCapacity"], shares["OnDemandPercentageAboveBaseCapacity"]) == (0, 0)
    assert group["CapacityRebalance"] is True
    assert len(group["Instances"]) == 1
    data = aws.launch_template()
    assert data["MetadataOptions"]["HttpTokens"] == "required"
    assert data["IamInstanceProfile"] == {"Name": f"{BUCKET}-trainer"}
    assert data["BlockDeviceMappings"][0]["Ebs"]["Encrypted"] in {True, "true"}


class Machine:
    """What the launch template starts, with an empty disk; paths of the machine lie in a folder."""

    def __init__(self, aws: Account, guard: GuardedS3, keys: Keys, folder: Path) -> None:
        self.disk, source = folder / "disk", folder / "src"
        for path in (self.disk, source):
            path.mkdir(parents=True)
        (source / "train.py").write_bytes(TRAINER.read_bytes())
        data = folder / "user-data.yaml"
        text = base64.b64decode(aws.launch_template()["UserData"]).decode()
        data.write_text(text.replace(STATE, str(self.disk)).replace(VENV, str(Path(sys.executable).parent)))
        found = files(data)
        settings = environment(found[ENVIRONMENT])
        self.log = folder / "journal"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                unit(found[UNIT]).command(settings),
                cwd=source,
                env={**environ(guard, keys), **settings},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def began(self) -> int:
        """The step at which its training began."""
        return int((self.disk / "starts").read_text().split()[-1])


def test_a_machine_that_is_killed_is_followed_by_one_that_ends_with_the_same_result(
    aws: Account, guard: GuardedS3, keys: dict[str, Keys], tmp_path: Path
) -> None:
    whole = tmp_path / "whole"
    (whole / "checkpoints").mkdir(parents=True)
    words = OPTIONS.replace(STATE, str(whole)).replace("--pause 0.05", "--pause 0").split()
    subprocess.run([sys.executable, str(TRAINER), *words], check=True)

    first = Machine(aws, guard, keys["trainer"], tmp_path / "first")
    wait_until(lambda: manifests(aws) or first.process.poll() is not None)
    assert first.process.poll() is None, first.log.read_text()
    kill_session(first.process.pid)
    first.process.wait(LONG_S)
    assert first.began == 0

    second = Machine(aws, guard, keys["trainer"], tmp_path / "second")
    assert second.process.wait(2 * LONG_S) == 0, second.log.read_text()
    assert 0 < second.began < STEPS
    assert (second.disk / "result").read_bytes() == (whole / "result").read_bytes()
    assert guard.refused == [], "least rights are not too few"

    commands, reader = aws.outputs()["commands"], keys["reader"]
    told = json.loads(run(commands["ls"] + " --json", guard, reader, tmp_path).splitlines()[0])
    assert (told["step"], told["state"]) == (STEPS, "committed")
    run(commands["status"], guard, reader, tmp_path)
    run(commands["report"], guard, reader, tmp_path)
    run(commands["restore"], guard, reader, tmp_path)
    assert (tmp_path / "restored" / f"step-{STEPS}.pt").exists()
    assert guard.refused == [], "a reader can look, restore, and say that it reads"


def manifests(aws: Account, run_name: str = "first-run") -> list[str]:
    """Of a run, as the account's owner sees them."""
    return aws.keys_below(f"runs/{run_name}/manifests/")


def test_the_doctor_finds_that_the_trainer_has_what_is_needed(
    aws: Account, guard: GuardedS3, keys: dict[str, Keys], tmp_path: Path
) -> None:
    guard.refused.clear()
    run(aws.outputs()["commands"]["doctor"], guard, keys["trainer"], tmp_path)
    assert guard.refused == []


@pytest.mark.parametrize("command", ["doctor", "status", "gc"])
def test_a_command_acts_as_the_role_that_it_is_for(
    aws: Account, keys: dict[str, Keys], tmp_path: Path, command: str
) -> None:
    commands = aws.outputs()["commands"]
    config = ConfigParser()
    config["default"] = dict(zip(("aws_access_key_id", "aws_secret_access_key"), ADMIN.environ.values(), strict=True))
    for role in ROLES:
        for words in map(shlex.split, commands[f"as_{role}"].split(" && ")):
            assert words[:3] == ["aws", "configure", "set"]
            kind, profile, name = words[3].split(".")
            section = f"{kind} {profile}"
            if not config.has_section(section):
                config.add_section(section)
            config.set(section, name, words[4])
    with (tmp_path / "config").open("w") as file:
        config.write(file)
    before, _, _ = commands[command].partition("ckptsync ")
    asked = "import boto3; print(boto3.client('sts').get_caller_identity()['Arn'])"
    done = subprocess.run(
        [*shlex.split(before), sys.executable, "-c", asked],
        env={
            **aws.server.environ,
            **keys["reader"].environ,  # which must not count
            "AWS_ENDPOINT_URL": aws.server.url,
            "AWS_CONFIG_FILE": str(tmp_path / "config"),
            "PATH": os.environ["PATH"],
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    role = {"doctor": "trainer", "status": "reader", "gc": "gc"}[command]
    assert f":assumed-role/{BUCKET}-{role}/" in done.stdout


def test_gc_deletes_what_the_trainer_cannot(
    aws: Account, guard: GuardedS3, keys: dict[str, Keys], tmp_path: Path
) -> None:
    command = aws.outputs()["commands"]["gc"].replace("first-run", "to-collect")
    run_url = f"s3://{BUCKET}/runs/to-collect"
    for step in range(1, 6):
        (tmp_path / "weights").write_text(str(step))
        run(f"ckptsync save weights {run_url} --region {REGION} --step {step}", guard, keys["trainer"], tmp_path)
    assert len(manifests(aws, "to-collect")) == 5
    run(command, guard, keys["trainer"], tmp_path, code=3)
    assert len(manifests(aws, "to-collect")) == 5
    guard.refused.clear()
    run(command, guard, keys["gc"], tmp_path)
    assert guard.refused == []
    assert len(manifests(aws, "to-collect")) == 3
    data = aws.keys_below("runs/to-collect/data/")
    assert sorted(int(key.split("-")[-2]) for key in data) == [3, 4, 5]


Call = Callable[[Any], object]
RUN = "runs/guarded"
KEPT = {
    "manifest": f"{RUN}/manifests/{ID}.json",
    "claim": f"{RUN}/writers/99999998.json",
    "data": f"{RUN}/data/{ID}/weights",
    "journal": f"{RUN}/journals/{ID}/journal.json",
    "pin": f"{RUN}/pins/{ID}",
    "alias": f"{RUN}/aliases/best/99999998.json",
}


def whole_upload(s3: Any, key: str) -> None:
    """Overwrite in parts."""
    upload = s3.create_multipart_upload(Bucket=BUCKET, Key=key)["UploadId"]
    tag = s3.upload_part(Bucket=BUCKET, Key=key, UploadId=upload, PartNumber=1, Body=b"x")["ETag"]
    parts = {"Parts": [{"PartNumber": 1, "ETag": tag}]}
    s3.complete_multipart_upload(Bucket=BUCKET, Key=key, UploadId=upload, MultipartUpload=parts)


def delete_in_a_batch(s3: Any, key: str) -> None:
    """Which is answered with 200, and an error for each key."""
    for error in s3.delete_objects(Bucket=BUCKET, Delete={"Objects": [{"Key": key}]}).get("Errors", []):
        raise ClientError({"Error": error}, "DeleteObjects")


MAY_NOT: dict[str, Call] = {
    **{f"delete a {what}": lambda s3, key=key: s3.delete_object(Bucket=BUCKET, Key=key) for what, key in KEPT.items()},
    "delete in a batch": lambda s3: delete_in_a_batch(s3, KEPT["data"]),
    "delete a version": lambda s3: s3.delete_object(Bucket=BUCKET, Key=KEPT["data"], VersionId="null"),
    "write outside": lambda s3: s3.put_object(Bucket=BUCKET, Key="others/x", Body=b"x"),
    "read outside": lambda s3: s3.get_object(Bucket=BUCKET, Key="others/kept"),
    "delete outside": lambda s3: s3.delete_object(Bucket=BUCKET, Key="others/kept"),
    "copy from outside": lambda s3: s3.copy_object(Bucket=BUCKET, Key=f"{RUN}/x", CopySource=f"{BUCKET}/others/kept"),
    "change the lifecycle": lambda s3: s3.delete_bucket_lifecycle(Bucket=BUCKET),
    "change the policy": lambda s3: s3.delete_bucket_policy(Bucket=BUCKET),
    "stop versions": lambda s3: s3.put_bucket_versioning(
        Bucket=BUCKET, VersioningConfiguration={"Status": "Suspended"}
    ),
    "delete the bucket": lambda s3: s3.delete_bucket(Bucket=BUCKET),
    "overwrite a manifest": lambda s3: s3.put_object(Bucket=BUCKET, Key=KEPT["manifest"], Body=b"x"),
    "overwrite a claim": lambda s3: s3.put_object(Bucket=BUCKET, Key=KEPT["claim"], Body=b"x"),
    "replace a manifest": lambda s3: s3.put_object(Bucket=BUCKET, Key=KEPT["manifest"], Body=b"x", IfMatch='"x"'),
    "copy over a manifest": lambda s3: s3.copy_object(
        Bucket=BUCKET, Key=KEPT["manifest"], CopySource=f"{BUCKET}/{KEPT['data']}"
    ),
    "upload over a manifest": lambda s3: whole_upload(s3, KEPT["manifest"]),
    "condemn": lambda s3: s3.put_object(Bucket=BUCKET, Key=f"{RUN}/journals/{ID}/condemned", Body=b""),
    "list outside": lambda s3: s3.list_objects_v2(Bucket=BUCKET, Prefix="others/"),
    "list everything": lambda s3: s3.list_objects_v2(Bucket=BUCKET),
}


@pytest.fixture(scope="module")
def kept(aws: Account) -> dict[str, str]:
    """What stands in the bucket, and must still stand there, with its tag."""
    s3 = aws.client("s3")
    return {key: s3.put_object(Bucket=BUCKET, Key=key, Body=b"kept")["ETag"] for key in [*KEPT.values(), "others/kept"]}


def refused(s3: Any, call: Call) -> None:
    """It is refused, for want of the right."""
    with pytest.raises(ClientError) as caught:
        call(s3)
    assert caught.value.response["Error"]["Code"] == "AccessDenied"


@pytest.mark.parametrize("what", MAY_NOT)
def test_the_trainer_may_not(
    aws: Account, guard: GuardedS3, keys: dict[str, Keys], kept: dict[str, str], what: str
) -> None:
    refused(aws.client("s3", keys["trainer"], guard.url), MAY_NOT[what])
    owner = aws.client("s3")
    assert {key: owner.head_object(Bucket=BUCKET, Key=key)["ETag"] for key in kept} == kept


@pytest.mark.parametrize("role", ["reader", "gc"])
@pytest.mark.parametrize(
    "key", [KEPT["manifest"].replace("abc", "xyz"), f"{RUN}/data/{ID}/new", f"{RUN}/writers/99999997.json"]
)
def test_who_does_not_train_writes_nothing_that_stays(
    aws: Account, guard: GuardedS3, keys: dict[str, Keys], role: str, key: str
) -> None:
    s3 = aws.client("s3", keys[role], guard.url)
    refused(s3, lambda s3: s3.put_object(Bucket=BUCKET, Key=key, Body=b"x", IfNoneMatch="*"))


def test_a_commit_is_created_once(aws: Account, guard: GuardedS3, keys: dict[str, Keys]) -> None:
    s3, key = aws.client("s3", keys["trainer"], guard.url), f"{RUN}/manifests/{ID.replace('abc', 'new')}.json"
    s3.put_object(Bucket=BUCKET, Key=key, Body=b"first", IfNoneMatch="*")
    with pytest.raises(ClientError, match="PreconditionFailed"):
        s3.put_object(Bucket=BUCKET, Key=key, Body=b"second", IfNoneMatch="*")
    assert s3.get_object(Bucket=BUCKET, Key=key)["Body"].read() == b"first"


@pytest.mark.parametrize("role", ROLES)
def test_nobody_is_served_without_tls(aws: Account, guard: GuardedS3, keys: dict[str, Keys], role: str) -> None:
    s3 = aws.client("s3", keys[role], guard.url)
    s3.list_objects_v2(Bucket=BUCKET, Prefix="runs/")
    guard.secure = False
    try:
        refused(s3, lambda s3: s3.list_objects_v2(Bucket=BUCKET, Prefix="runs/"))
    finally:
        guard.secure = True


def test_checkpoints_are_destroyed_only_when_that_was_asked_for_and_then_nothing_is_left(
    aws: Account, kept: dict[str, str]
) -> None:
    assert "BucketNotEmpty" in aws.do("destroy", "-auto-approve", codes=(1,))
    owner = aws.client("s3")
    assert {key: owner.head_object(Bucket=BUCKET, Key=key)["ETag"] for key in kept} == kept
    aws.variables["force_destroy"] = True
    aws.do("apply", "-auto-approve")
    aws.do("destroy", "-auto-approve")
    assert aws.inventory() == aws.before
