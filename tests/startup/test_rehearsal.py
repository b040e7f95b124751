"""A rehearsal of the start-up examples: their own command line, in a network with the metadata service at its true address.

Each machine has the directories of the example for itself, an empty disk, and nobody's rights; it ends by SIGKILL.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from support.instances import kill_session
from support.namespace import METADATA, Network, network, why_not
from support.startup import ENVIRONMENT, SCRIPT, UNIT, USER_DATA, environment, files, unit
from support.waiting import LONG_S, wait_until

from ckptsync.run import open_run
from ckptsync.testing.gcs import GcsServer
from ckptsync.testing.metadata import MetadataServer
from ckptsync.testing.servers import MINISTACK_PINS, create_bucket, ministack, virtual_environment

TRAINER = Path(__file__).parents[1] / "support" / "plain_trainer.py"
SHORT = bool(os.environ.get("CKPTSYNC_TEST_SHORT"))
NOTICES, STEPS = (1, 40) if SHORT else (4, 120)
BUCKET, STATE = "training", Path("/var/lib/train")
WHO = "10001"
VENDORS = {"ec2": "Amazon EC2", "gce": "Google"}
# What the machine sees: the example's directories, and the maker's name in its firmware. Reading the environment of these tests is
# the one right that the user has more than anybody.
MACHINE = f"""set -e
mount --bind "$1/srv" /srv/train
mount --bind "$2" /srv/train/venv
mount --bind "$1/disk" {STATE}
[ ! -e /sys/class/dmi/id/sys_vendor ] || mount --bind "$1/vendor" /sys/class/dmi/id/sys_vendor
cd "$3"
shift 3
exec setpriv --reuid={WHO} --regid={WHO} --clear-groups --inh-caps=-all,+dac_read_search --ambient-caps=+dac_read_search \
    --bounding-set=-all,+dac_read_search -- "$@"
"""

pytestmark = pytest.mark.skipif(bool(why := why_not()), reason=why)


@dataclass(slots=True)
class Cloud:
    """One of the two, with its example.

    Attributes:
        name: of its metadata service.
        example: that machines start with.
        net: that they are in.
        service: their metadata service.
        url: of the run.
        settings: of the store, for the environment file.
        folder: for disks.
    """

    name: str
    example: Path
    net: Network
    service: MetadataServer
    url: str
    settings: Mapping[str, str]
    folder: Path
    machines: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self) -> Path:
        """Start a machine with an empty disk; its folder."""
        made = self.folder / f"machine-{len(self.machines)}"
        for name in ("srv/venv", "srv/src", "disk"):
            (made / name).mkdir(parents=True)
        (made / "srv" / "src" / "train.py").write_bytes(TRAINER.read_bytes())
        (made / "vendor").write_text(f"{VENDORS[self.name]}\n")
        os.chown(made / "disk", int(WHO), int(WHO))  # as systemd does with a state directory
        found = files(self.example)
        service, environ = unit(found[UNIT]), self.environ(environment(found[ENVIRONMENT]))
        for line in service.settings["Service"].get("Environment", ()):
            environ |= environment(line)
        command = ["unshare", "--mount", "sh", "-c", MACHINE, "sh", str(made), sys.prefix]
        command += [service.one("Service", "WorkingDirectory"), *service.command(environ)]

        def begin() -> subprocess.Popen[bytes]:
            with (made / "journal").open("wb") as journal:
                return subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=journal,
                    stderr=subprocess.STDOUT,
                    env=environ,
                    start_new_session=True,
                )

        self.machines.append(self.net.call(begin))
        return made

    def environ(self, example: Mapping[str, str]) -> dict[str, str]:
        """What systemd gives a service, and the environment file with what somebody filled in."""
        options = f"{STATE}/checkpoints {STATE}/result --log {STATE}/starts --steps {STEPS} --every {STEPS} --pause 0.1"
        ours = {"CKPTSYNC_RUN": self.url, "TRAIN_OPTIONS": options, "CKPTSYNC_AGENT_ASK": "signal:USR1"}
        paths = {name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ}
        systemd = {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin",
            "LANG": "C.UTF-8",
            "HOME": str(STATE),
            "USER": "trainer",
        }
        return {**systemd, **example, **self.settings, **ours, **paths}

    def tell(self) -> None:
        """Say that the machine will end."""
        if self.name == "ec2":
            self.service.interrupt(left_s=120)
        else:
            self.service.preempt()

    def newest(self) -> int:
        """The newest step that is committed."""

        def look() -> int:
            with open_run(self.url) as run:
                found = run.catalog.latest()
            return 0 if found is None else found.id.step

        return self.net.call(look)


@pytest.fixture
def _places() -> Iterator[None]:
    """The example's directories, to mount upon; those that were not there are removed."""
    made = [path for path in (Path("/srv/train"), STATE) if not path.exists()]
    for path in made:
        path.mkdir(parents=True)
    yield
    for path in made:
        path.rmdir()


@pytest.fixture(params=["ec2", "gce"])
def cloud(
    request: pytest.FixtureRequest, _places: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Cloud]:
    """A cloud with nothing but a bucket and the metadata service; what still runs at the end is killed."""
    if request.param == "ec2":
        virtual_environment("ministack", MINISTACK_PINS)  # from inside there is no way to a package index
    with ExitStack() as exits:
        net = exits.enter_context(network())
        net.have_metadata_address()
        service = exits.enter_context(net.call(lambda: MetadataServer(METADATA, 80, clouds=(request.param,))))
        settings = net.call(lambda: amazon(exits) if request.param == "ec2" else google(exits))
        for name, value in settings.items():
            monkeypatch.setenv(name, value)  # for these tests' own looks into the bucket
        scheme, example = ("s3", USER_DATA) if request.param == "ec2" else ("gs", SCRIPT)
        made = Cloud(request.param, example, net, service, f"{scheme}://{BUCKET}/run", settings, tmp_path)
        yield made
        for machine in made.machines:
            kill_session(machine.pid)
            machine.wait(LONG_S)


def amazon(exits: ExitStack) -> dict[str, str]:
    """A bucket like Amazon's, and the variables that lead to it."""
    server = exits.enter_context(ministack())
    create_bucket(server, BUCKET)
    return {name: value for name, value in server.environ.items() if name != "AWS_EC2_METADATA_DISABLED"}


def google(exits: ExitStack) -> dict[str, str]:
    """A bucket like Google's, and the variables that lead to it."""
    server = exits.enter_context(GcsServer(buckets=[BUCKET]))
    return {"STORAGE_EMULATOR_HOST": server.url}


@pytest.mark.slow
@pytest.mark.req(4, 6)
def test_machines_that_are_told_and_killed_end_with_the_uninterrupted_result(cloud: Cloud, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    (whole / "checkpoints").mkdir(parents=True)
    command = [sys.executable, str(TRAINER), str(whole / "checkpoints"), str(whole / "result"), "--steps", str(STEPS)]
    subprocess.run([*command, "--pause", "0"], check=True)

    before = 0
    for _ in range(NOTICES):
        machine = cloud.start()
        expect(machine, cloud, (machine / "disk" / "starts").exists)
        assert cloud.newest() == before, "it writes no checkpoint but at its end, and when it is asked"
        cloud.tell()
        expect(machine, cloud, lambda known=before: cloud.newest() > known)  # type: ignore[misc]
        kill_session(cloud.machines[-1].pid)
        journal = (machine / "journal").read_text()
        assert began(machine) == before, journal
        assert f"notice of {cloud.name}" in journal
        assert "asked the trainer for a last checkpoint" in journal
        before = cloud.newest()
        assert before < STEPS
        cloud.service.calm()

    machine = cloud.start()
    assert cloud.machines[-1].wait(2 * LONG_S) == 0, (machine / "journal").read_text()
    assert began(machine) == before
    assert f"restored step {before}" in (machine / "journal").read_text()
    assert cloud.newest() == STEPS
    assert (machine / "disk" / "result").read_bytes() == (whole / "result").read_bytes()
    assert (machine / "disk" / "result").stat().st_uid == int(WHO)


def expect(machine: Path, cloud: Cloud, is_so: Callable[[], bool]) -> None:
    """Wait until something is so, while the machine is there."""
    wait_until(lambda: is_so() or cloud.machines[-1].poll() is not None)
    assert cloud.machines[-1].poll() is None, (machine / "journal").read_text()


def began(machine: Path) -> int:
    """The step that its training began at."""
    return int((machine / "disk" / "starts").read_text().split()[-1])
