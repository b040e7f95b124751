"""A loopback proxy in front of a real service, which lets go wrong on the wire what goes wrong on wires.

    with ministack() as server, Proxy(server.url) as proxy:
        proxy.inject(faults.answered(answers.slow_down(retry_after_s=5)), for_s=60)
        proxy.inject(faults.lost_answer(), method="PUT", target="/manifests/")
        ...  # point a client at proxy.url

Faults of whole requests, without a network, are those of `ckptsync.testing.faults`.
"""

from ckptsync.testing.proxy import answers, faults
from ckptsync.testing.proxy.answers import Answer
from ckptsync.testing.proxy.exchange import Entry
from ckptsync.testing.proxy.faults import Fault
from ckptsync.testing.proxy.rules import Rule
from ckptsync.testing.proxy.server import Proxy

__all__ = ["Answer", "Entry", "Fault", "Proxy", "Rule", "answers", "faults"]
