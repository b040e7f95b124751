"""Google's JSON API: metadata, listings, media downloads, and its three kinds of uploads."""

from __future__ import annotations

import json
import re
from typing import Any
from urllib.parse import quote, unquote

from bench.sink import state as state_of
from bench.sink.state import Content, PreconditionError, State, Stored, Upload
from bench.sink.wire import Connection, Request, bounds
from bench.sink.xml_api import iso

_OBJECT = re.compile(r"/b/(?P<bucket>[^/]+)/o(?:/(?P<key>[^/]+))?")
_REWRITE = re.compile(r"/b/(?P<bucket>[^/]+)/o/(?P<key>[^/]+)/(?:rewriteTo|copyTo)/b/(?P<to>[^/]+)/o/(?P<name>[^/]+)")
_MOVE = re.compile(r"/b/(?P<bucket>[^/]+)/o/(?P<key>[^/]+)/moveTo/o/(?P<name>[^/]+)")
_BUCKET = re.compile(r"/b/(?P<bucket>[^/]+)")
_CONTENT_RANGE = re.compile(r"bytes (?:(?P<first>\d+)-(?P<last>\d+)|\*)/(?P<size>\d+|\*)")
_PAGE = 1000
_MOST_METADATA_BYTES = 1 << 16


def is_json(path: str) -> bool:
    """Whether a path is one of this API."""
    return path.startswith(("/storage/v1/", "/upload/storage/v1/", "/download/storage/v1/", "/resumable/"))


def handle(state: State, wire: Connection, request: Request) -> None:
    """Answer one request, its body included."""
    try:
        _route(state, wire, request)
    except PreconditionError:
        _error(wire, 412, "conditionNotMet")


def _route(state: State, wire: Connection, request: Request) -> None:
    path = request.raw_path.partition("/storage/v1")[2]
    if "upload_id" in request.query:
        _continue(state, wire, request)
    elif request.path.startswith(("/upload/", "/resumable/")):
        _upload(state, wire, request, unquote(_OBJECT.match(path)["bucket"]))  # type: ignore[index]
    elif found := _REWRITE.fullmatch(path):
        _rewrite(state, wire, request, *(unquote(part) for part in found.groups()))
    elif (found := _OBJECT.fullmatch(path)) and found["key"]:
        _object(state, wire, request, unquote(found["bucket"]), unquote(found["key"]))
    elif found:
        wire.drop_body(request)
        _list(state, wire, request, unquote(found["bucket"]))
    elif found := _MOVE.fullmatch(path):
        bucket, key, name = (unquote(part) for part in found.groups())
        _rewrite(state, wire, request, bucket, key, bucket, name)
        state.delete(bucket, key)
    else:
        wire.drop_body(request)
        _bucket(wire, request, path)


def _bucket(wire: Connection, request: Request, path: str) -> None:
    """What clients ask to see whether a bucket is there."""
    if request.method == "GET" and (found := _BUCKET.fullmatch(path)):
        name = found["bucket"]
        _json(wire, {"kind": "storage#bucket", "name": name, "id": name, "location": "US", "storageClass": "STANDARD"})
    else:
        _error(wire, 404, "notFound")


def _json(wire: Connection, value: object, status: int = 200) -> None:
    wire.reply(status, {"Content-Type": "application/json; charset=UTF-8"}, json.dumps(value).encode())


def _error(wire: Connection, status: int, reason: str) -> None:
    _json(wire, {"error": {"code": status, "message": reason, "errors": [{"reason": reason}]}}, status)


def _resource(wire: Connection, request: Request, bucket: str, key: str, stored: Stored) -> dict[str, Any]:
    """An object's metadata."""
    here = f"{wire.scheme}://{request.headers.get('host', '')}"
    resource = {
        "kind": "storage#object",
        "id": f"{bucket}/{key}/{stored.generation}",
        "name": key,
        "bucket": bucket,
        "generation": str(stored.generation),
        "metageneration": "1",
        "size": str(stored.size),
        "crc32c": state_of.crc32c(stored.content),
        "etag": f"e{stored.generation}",
        "contentType": stored.told.get("content-type", "application/octet-stream"),
        "storageClass": "STANDARD",
        "timeCreated": iso(stored.modified_s),
        "updated": iso(stored.modified_s),
        "mediaLink": f"{here}/download/storage/v1/b/{bucket}/o/{quote(key, safe='')}?generation={stored.generation}&alt=media",
        "selfLink": f"{here}/storage/v1/b/{bucket}/o/{quote(key, safe='')}",
        "metadata": {name.removeprefix("x-goog-meta-"): v for name, v in stored.told.items() if "-meta-" in name},
    }
    if not stored.in_parts:
        resource["md5Hash"] = state_of.md5(stored.content)
    return resource


def _condition(query: dict[str, str]) -> int | None:
    told = query.get("ifGenerationMatch")
    return int(told) if told else None


def _store(state: State, bucket: str, key: str, content: Content, told: dict[str, str], wanted: int | None) -> Stored:
    return state.store(
        bucket,
        key,
        content,
        told=told,
        allowed=lambda there: wanted is None or wanted == (there.generation if there else 0),
    )


def _object(state: State, wire: Connection, request: Request, bucket: str, key: str) -> None:
    """Metadata or content of one object, or its end."""
    wire.drop_body(request)
    found = state.find(bucket, key)
    if found is None:
        _error(wire, 404, "notFound")
        return
    if (wanted := _condition(request.query)) is not None and wanted != found.generation:
        raise PreconditionError
    if request.method == "DELETE":
        state.delete(bucket, key)
        wire.reply(204)
    elif request.query.get("alt") == "media" or request.path.startswith("/download/"):
        _media(wire, request, found)
    else:
        _json(wire, _resource(wire, request, bucket, key, found))


def _media(wire: Connection, request: Request, found: Stored) -> None:
    """Content, or a range of it."""
    begin, end = bounds(request, found.size) or (0, found.size)
    if begin == end and found.size:
        _error(wire, 416, "requestedRangeNotSatisfiable")
        return
    headers = {
        "Content-Type": found.told.get("content-type", "application/octet-stream"),
        "ETag": f"e{found.generation}",
        "x-goog-generation": str(found.generation),
        "x-goog-metageneration": "1",
        "x-goog-stored-content-length": str(found.size),
        "x-goog-stored-content-encoding": "identity",
        "x-goog-hash": f"crc32c={state_of.crc32c(found.content)}",
        "Accept-Ranges": "bytes",
    }
    if not found.in_parts:
        headers["x-goog-hash"] += f",md5={state_of.md5(found.content)}"
    if "range" in request.headers:
        headers["Content-Range"] = f"bytes {begin}-{end - 1}/{found.size}"
    wire.reply(206 if "range" in request.headers else 200, headers, size=end - begin)
    if request.method != "HEAD":
        for piece in found.content.cut(begin, end):
            wire.send(piece)


def _list(state: State, wire: Connection, request: Request, bucket: str) -> None:
    """One page of a listing."""
    query = request.query
    prefix, delimiter, first = query.get("prefix", ""), query.get("delimiter", ""), query.get("startOffset", "")
    most, folders = int(query.get("maxResults") or _PAGE), dict[str, None]()
    items: list[dict[str, Any]] = []
    answer: dict[str, Any] = {"kind": "storage#objects"}
    for key, stored in state.listed(bucket, prefix, query.get("pageToken", "")):
        if key < first:
            continue
        rest, cut, _ = key[len(prefix) :].partition(delimiter) if delimiter else (key, "", "")
        if cut:
            folders[prefix + rest + cut] = None
            continue
        if len(items) == most:
            answer["nextPageToken"] = items[-1]["name"]
            break
        items.append(_resource(wire, request, bucket, key, stored))
    _json(wire, answer | ({"items": items} if items else {}) | ({"prefixes": [*folders]} if folders else {}))


def _rewrite(state: State, wire: Connection, request: Request, bucket: str, key: str, to: str, name: str) -> None:
    """A copy, done at once."""
    wire.drop_body(request)
    if (found := state.find(bucket, key)) is None:
        _error(wire, 404, "notFound")
        return
    made = state.store(to, name, found.content, told=found.told, in_parts=found.in_parts)
    resource = _resource(wire, request, to, name, made)
    if "/moveTo/" in request.raw_path:
        _json(wire, resource)
    else:
        size = resource["size"]
        _json(wire, {"done": True, "objectSize": size, "totalBytesRewritten": size, "resource": resource})


def _upload(state: State, wire: Connection, request: Request, bucket: str) -> None:
    """The first request of an upload, for two of the kinds the only one."""
    query = request.query
    kind, key = query.get("uploadType", "media"), query.get("name", "")
    if kind == "resumable":
        about = json.loads(wire.read_body(request) or b"{}")
        told = {"content-type": about.get("contentType") or "application/octet-stream"}
        upload_id = state.begin(bucket, about.get("name") or key, told)
        state.uploads[upload_id].condition = _condition(query)
        place = f"{request.headers['host']}/upload/storage/v1/b/{bucket}/o?uploadType=resumable&upload_id={upload_id}"
        wire.reply(200, {"Location": f"{wire.scheme}://{place}", "X-GUploader-UploadID": upload_id})
        return
    told = {"content-type": request.headers.get("content-type", "application/octet-stream")}
    if kind == "multipart":
        about, content = _related(state, wire, request, bucket)
        key, told = about.get("name") or key, {"content-type": about.get("contentType") or "application/octet-stream"}
    else:
        content = state.take(wire, request, bucket)
    made = _store(state, bucket, key, content, told, _condition(query))
    _json(wire, _resource(wire, request, bucket, key, made))


def _related(state: State, wire: Connection, request: Request, bucket: str) -> tuple[dict[str, Any], Content]:
    """Take `multipart/related` apart: metadata, then content. Only the beginning of a large one is read."""
    found = re.search(r"boundary=['\"]?([^'\";]+)", request.headers["content-type"])
    mark = b"--" + (found[1].encode() if found else b"")
    length = request.length
    if length is None or length <= state_of.KEPT_BYTES or bucket == state_of.KEPT_BUCKET:
        body, left = wire.read_body(request), 0
    else:
        body, left = bytes(wire.read(_MOST_METADATA_BYTES)), length - _MOST_METADATA_BYTES
    _, _, rest = body.partition(mark)
    _, _, rest = rest.partition(b"\r\n\r\n") if b"\r\n\r\n" in rest else rest.partition(b"\n\n")
    about, _, rest = rest.partition(mark)
    _, cut, content = rest.partition(b"\r\n\r\n")
    if not cut:
        content = rest.partition(b"\n\n")[2]
    metadata: dict[str, Any] = json.loads(about)
    if not left:
        whole, _, _ = content.rpartition(mark)
        return metadata, state_of.kept(whole.removesuffix(b"\n").removesuffix(b"\r"))
    wire.drop(left)
    tail = len(b"\r\n") + len(mark) + len(b"--")  # and perhaps a line end, which clients may leave out
    size = len(content) + left - tail
    return metadata, state.of_blob(size)


def _continue(state: State, wire: Connection, request: Request) -> None:
    """One request of a resumable upload: a chunk, the last chunk, or the question how far it came."""
    upload_id = request.query["upload_id"]
    upload = state.uploads.get(upload_id)
    if upload is None or request.method == "DELETE":
        wire.drop_body(request)
        state.uploads.pop(upload_id, None)
        wire.reply(499 if upload else 404)
        return
    told = _CONTENT_RANGE.fullmatch(request.headers.get("content-range", ""))
    if told and told["first"] is None and told["size"] == "*":
        wire.drop_body(request)
        _incomplete(wire, request, upload)
        return
    content = state.take(wire, request, upload.bucket)
    if content.size:
        upload.parts[len(upload.parts)] = (content, "", {})
        upload.received += content.size
    if told and (told["size"] == "*" or upload.received < int(told["size"])):
        _incomplete(wire, request, upload)
        return
    whole = state.joined(part for part, _, _ in upload.parts.values())
    made = _store(state, upload.bucket, upload.key, whole, upload.told, upload.condition)
    state.uploads.pop(upload_id, None)
    _json(wire, _resource(wire, request, upload.bucket, upload.key, made))


def _incomplete(wire: Connection, request: Request, upload: Upload) -> None:
    """Tell how far an upload came; Google's Go library asks for another status, as it follows redirections by itself."""
    headers = {"Range": f"bytes=0-{upload.received - 1}"} if upload.received else {}
    if request.headers.get("x-guploader-no-308") == "yes":
        wire.reply(200, {**headers, "X-Http-Status-Code-Override": "308"})
    else:
        wire.reply(308, headers)
