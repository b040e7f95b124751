"""Logging in to Google Cloud Storage with whatever credentials Google's library finds."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial

import google.auth
import google.auth.credentials
import google.auth.exceptions
import google.auth.transport.requests
import requests

from ckptsync.errors import CredentialsError, TransientError
from ckptsync.options import Http
from ckptsync.store.gcs.http import Line, TokenRefusedError, new_session
from ckptsync.store.pace import Pace

_SCOPES = ("https://www.googleapis.com/auth/devstorage.read_write",)


def connect_with_login(
    address: str | None, project: str | None, connections: int, *, http: Http, pace: Pace | None = None
) -> Line:
    """Open a session with the credentials that Google's library finds; arguments as for `connect_anonymously`.

    Source: https://cloud.google.com/docs/authentication/application-default-credentials
    """
    timeout = (http.connect_timeout_s, http.read_timeout_s)
    request = partial(google.auth.transport.requests.Request(new_session(1, pace=pace)), timeout=timeout)
    try:
        # google.auth wants its own class there, but calls it only; its AuthorizedSession passes a partial too
        credentials, _ = google.auth.default(_SCOPES, request=request, quota_project_id=project)  # type: ignore[arg-type]
        universe = credentials.universe_domain
    except Exception as error:
        raise _login_failure(error) from error
    session = new_session(connections, project, pace=pace)
    session.auth = _Login(credentials, request)
    return Line(session, address or f"https://storage.{universe}", anonymous=False)


class _Login(requests.auth.AuthBase):
    """Puts an access token on each request; fetches a new one, in one thread, when it runs out."""

    def __init__(self, credentials: google.auth.credentials.Credentials, request: Callable[..., object]) -> None:
        self._credentials = credentials
        self._request = request
        self._lock = threading.Lock()

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        try:
            with self._lock:
                self._credentials.before_request(  # type: ignore[no-untyped-call]  # Google's library has no types there
                    self._request, request.method, request.url, request.headers
                )
        except Exception as error:
            raise _login_failure(error) from error
        return request


_FIND = "run `gcloud auth application-default login`, or set GOOGLE_APPLICATION_CREDENTIALS to a key file"


def _login_failure(error: Exception) -> Exception:
    """Turn a failure of Google's authentication library into the error it means."""
    failures = google.auth.exceptions
    if isinstance(error, failures.DefaultCredentialsError):
        return CredentialsError(f"no usable Google credentials were found; {_FIND}")
    if isinstance(error, failures.TransportError) or getattr(error, "retryable", False):
        return TransientError("no access token could be fetched from Google for the moment")
    if isinstance(error, failures.RefreshError):
        return TokenRefusedError(f"Google does not renew the access token of these credentials; {_FIND}")
    return CredentialsError(f"the Google credentials cannot be used ({type(error).__name__}); {_FIND}")
