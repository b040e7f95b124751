"""A pod played with podman in the order that Kubernetes keeps: init containers, sidecars among them, the others, and the end.

Source: https://kubernetes.io/docs/concepts/workloads/pods/sidecar-containers/,
https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/#pod-termination-flow
"""

from __future__ import annotations

import json
import subprocess
import threading
import time
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from support.waiting import wait_until

from .engine import Engine

Object = dict[str, Any]


class PodError(Exception):
    """An init container failed, or a sidecar never came up."""


@dataclass(slots=True)
class Pod:
    """A pod on a node with an empty disk.

    Attributes:
        engine: runs its containers.
        spec: of the pod.
        disk: of the node; its volumes are folders there.
        settings: of config maps, by name.
        environ: for every container, beyond its own.
        image: instead of every image.
        shared: a folder of the node's that every container sees, at the same path; None for none.
    """

    engine: Engine
    spec: Object
    disk: Path
    settings: Mapping[str, Mapping[str, str]]
    environ: Mapping[str, str]
    image: str
    shared: Path | None = None
    ids: dict[str, str] = field(default_factory=dict)

    def begin(self) -> None:
        """Start everything.

        Raises:
            PodError: an init container failed.
        """
        for volume in self.spec["volumes"]:
            folder = self.disk / volume["name"]
            folder.mkdir(parents=True)
            folder.chmod(0o2777)  # the kubelet gives it to fsGroup
        for container in self.spec["initContainers"]:
            self._start(container)
            if container.get("restartPolicy") == "Always":
                self._wait_until_started(container)
            elif (code := self.wait(container["name"])) != 0:
                raise PodError(f"{container['name']} ended with {code}: {self.logs(container['name'])}")
        for container in self.spec["containers"]:
            self._start(container)

    def end(self) -> dict[str, int]:
        """Let the pod end, as when it is deleted or all of its containers have ended; exit codes by container."""
        until_s = time.monotonic() + self.spec["terminationGracePeriodSeconds"]
        sidecars = [one for one in self.spec["initContainers"] if one.get("restartPolicy") == "Always"]
        hooks = [threading.Thread(target=self._hook, args=(one,)) for one in [*sidecars, *self.spec["containers"]]]
        for hook in hooks:
            hook.start()
        for hook in hooks:
            hook.join()
        for container in [*self.spec["containers"], *reversed(sidecars)]:
            left_s = max(2, int(until_s - time.monotonic()))
            self.engine.podman("stop", "--time", str(left_s), self.ids[container["name"]], check=False)
        return {name: self._code(name) for name in self.ids}

    def die(self) -> None:
        """Let the node be gone."""
        for name in self.ids:
            self.engine.podman("kill", self.ids[name], check=False)

    def remove(self) -> None:
        """Remove what is left."""
        for found in self.ids.values():
            self.engine.podman("rm", "--force", "--time", "0", found, check=False)

    def wait(self, name: str) -> int:
        """Wait for a container; its exit code."""
        self.engine.podman("wait", self.ids[name])
        return self._code(name)

    def logs(self, name: str) -> str:
        """What it printed."""
        done = self.engine.told("podman", "logs", self.ids[name], check=False)
        return done.stdout + done.stderr

    def _code(self, name: str) -> int:
        return int(self.engine.inspected(self.ids[name])["State"]["ExitCode"])

    def _start(self, container: Object) -> None:
        context = {**self.spec["securityContext"], **container["securityContext"]}
        arguments = [
            "--user",
            f"{context['runAsUser']}:{context['runAsGroup']}",
            "--group-add",
            str(context["fsGroup"]),
        ]
        arguments += ["--read-only", "--read-only-tmpfs=false"] if context["readOnlyRootFilesystem"] else []
        arguments += [] if context["allowPrivilegeEscalation"] else ["--security-opt", "no-new-privileges"]
        arguments += [part for one in context["capabilities"]["drop"] for part in ("--cap-drop", one)]
        for name, value in {**self._environ(container), **self.environ}.items():
            arguments += ["--env", f"{name}={value}"]
        for mount in container["volumeMounts"]:
            arguments += ["--volume", f"{self.disk / mount['name']}:{mount['mountPath']}"]
        if self.shared is not None:
            arguments += ["--volume", f"{self.shared}:{self.shared}"]
        if "command" in container:
            arguments += ["--entrypoint", json.dumps(container["command"])]
        self.ids[container["name"]] = self.engine.podman(
            *("run", "--detach", "--pull", "never", "--no-healthcheck", "--network", "host", *arguments),
            *(self.image, *container.get("args", ())),
        )

    def _environ(self, container: Object) -> dict[str, str]:
        found: dict[str, str] = {}
        for source in container.get("envFrom", ()):
            found |= self.settings[source["configMapRef"]["name"]]
        return found | {one["name"]: one["value"] for one in container.get("env", ())}

    def _wait_until_started(self, container: Object) -> None:
        probe = container["startupProbe"]
        (port,) = (one["containerPort"] for one in container["ports"] if one["name"] == probe["httpGet"]["port"])
        url = f"http://127.0.0.1:{port}{probe['httpGet']['path']}"
        wait_until(lambda: _answers(url), limit_s=probe["periodSeconds"] * probe["failureThreshold"])

    def _hook(self, container: Object) -> None:
        if (hook := container.get("lifecycle", {}).get("preStop")) is not None:
            command = ("podman", "exec", self.ids[container["name"]], *hook["exec"]["command"])
            subprocess.run(command, check=True, env=self.engine.environ, capture_output=True)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=1) as answer:  # noqa: S310
            return bool(answer.status == 200)
    except OSError:
        return False
