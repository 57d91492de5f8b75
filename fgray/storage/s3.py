"""Objects in an S3 store, through pyarrow; any endpoint (``AWS_ENDPOINT_URL``) and the usual ``AWS_*`` credentials."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import IO, Any, TypeVar, cast
from urllib.parse import urlsplit

import pyarrow.fs as arrow

from fgray.errors import NotFound, StorageError
from fgray.storage.base import Blocks, FileInfo, Storage, check_path
from fgray.storage.conditional import open_client, put_if_absent
from fgray.storage.local import short_read
from fgray.storage.retry import TransientError, with_retries

T = TypeVar("T")
# Five attempts of at most this long, with the pauses between them, end within half a minute.
CONNECT_TIMEOUT = 4.0  # seconds
REQUEST_TIMEOUT = 20.0  # seconds without a byte
PARALLEL_READS = 8
SPOOLED_BYTES = 64 << 20  # of an object under way that stay in memory; what is larger lies in TMPDIR
UPLOAD_BYTES = 8 << 20  # handed over at a time

# What pyarrow writes into its messages; S3 answers HEAD requests without a body, so codes can be missing there.
_TRANSIENT = re.compile(
    r"NETWORK_CONNECTION|SLOW_DOWN|SlowDown|THROTTLING|Throttl|INTERNAL_FAILURE|InternalError|SERVICE_UNAVAILABLE|ServiceUnavailable"
    r"|REQUEST_TIMEOUT|RequestTimeout|REQUEST_EXPIRED|HTTP status 5\d\d|HTTP status 429|HTTP status 409|curlCode|Connection reset|Timeout"
)
_DENIED = re.compile(
    r"ACCESS_DENIED|AccessDenied|SIGNATURE_DOES_NOT_MATCH|SignatureDoesNotMatch|INVALID_ACCESS_KEY_ID|InvalidAccessKeyId"
    r"|MISSING_AUTHENTICATION_TOKEN|UNRECOGNIZED_CLIENT|INVALID_CLIENT_TOKEN_ID|EXPIRED_TOKEN|ExpiredToken|INVALID_SIGNATURE"
    r"|HTTP status 40[13]"
)
_FORBIDDEN = re.compile(r"ACCESS_DENIED|AccessDenied|HTTP status 403")
_NO_BUCKET = re.compile(r"NO_SUCH_BUCKET|NoSuchBucket")
_REDIRECT = re.compile(r"HTTP status 301|PermanentRedirect|PERMANENT_REDIRECT|AuthorizationHeaderMalformed")


class S3Storage(Storage):
    """A prefix of a bucket. Objects appear whole: one PUT, or a multipart upload that counts only once completed."""

    is_local = False

    def __init__(self, location: str) -> None:
        self._bucket, _, prefix = location.strip("/").partition("/")
        if "@" in self._bucket or ":" in self._bucket or "?" in self._bucket:
            raise StorageError("an s3:// address holds credentials or options", fix="put them into AWS_* environment variables")
        if not self._bucket:
            raise StorageError("an s3:// address without a bucket", fix="write s3://bucket/prefix")
        self._base = self._bucket + ("/" + check_path(prefix, f"s3://{self._bucket}") if prefix else "")
        self.uri = f"s3://{self._base}"
        self._connection: arrow.S3FileSystem | None = None
        self._bucket_seen = False

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_connection": None}

    def _client(self) -> Any:
        endpoint, region = _place()
        return open_client(endpoint, region, CONNECT_TIMEOUT, REQUEST_TIMEOUT)

    @property
    def _fs(self) -> arrow.S3FileSystem:
        if self._connection is None:
            self._connection = connect()
        return self._connection

    def _full(self, path: str) -> str:
        return f"{self._base}/{check_path(path, self.uri)}"

    def read_bytes(self, path: str, offset: int = 0, length: int | None = None) -> bytes:
        """See `Storage.read_bytes`."""

        def read() -> bytes:
            with self._fs.open_input_file(self._full(path)) as file:
                wanted = max(0, file.size() - offset) if length is None else length
                if offset + wanted > file.size():
                    raise short_read(self.address(path), offset, wanted)
                data: bytes = file.read_at(wanted, offset) if wanted else b""
                return data

        return self._call(path, read)

    def _read_blocks(self, path: str, blocks: Sequence[tuple[int, int]]) -> Blocks:
        if len(blocks) == 1:
            return [self.read_bytes(path, *blocks[0])]
        with ThreadPoolExecutor(min(PARALLEL_READS, len(blocks) or 1)) as pool:
            return list(pool.map(lambda block: self.read_bytes(path, *block), blocks))

    def write_bytes(self, path: str, data: bytes | memoryview) -> None:
        """See `Storage.write_bytes`."""
        self._call(path, lambda: self._put(path, data))

    @contextlib.contextmanager
    def writing(self, path: str) -> Iterator[IO[bytes]]:
        """See `Storage.writing`: a temporary file on this machine, uploaded when it is whole."""
        with tempfile.SpooledTemporaryFile(SPOOLED_BYTES) as file:
            yield cast(IO[bytes], file)
            self._call(path, lambda: self._upload(path, cast(IO[bytes], file)))

    def create_bytes(self, path: str, data: bytes) -> bool:
        """See `Storage.create_bytes`."""
        if self.exists(path):  # for the stores that ignore the condition
            return False

        again = False

        def put() -> bool:
            nonlocal again
            repeated, again = again, True
            bucket, _, key = self._full(path).partition("/")
            try:
                if put_if_absent(self._client(), bucket, key, data):
                    return True
            except OSError as error:
                if "HTTP status 501" not in str(error):
                    raise
                self._put(path, data)  # a store that does not know the condition; we have looked whether it exists
                return True
            # After a lost answer it may be our own first attempt that is there.
            return repeated and self.read_bytes(path) == data

        return self._call(path, put)

    def _put(self, path: str, data: bytes | memoryview) -> None:
        # Not a `with` block: leaving one after a failed write would complete the upload of what had been sent.
        stream = self._fs.open_output_stream(self._full(path))
        stream.write(data)
        stream.close()

    def _upload(self, path: str, file: IO[bytes]) -> None:
        file.seek(0)
        stream = self._fs.open_output_stream(self._full(path))
        while data := file.read(UPLOAD_BYTES):
            stream.write(data)
        stream.close()

    def stat(self, path: str) -> FileInfo:
        """See `Storage.stat`."""

        def ask() -> FileInfo:
            info = self._fs.get_file_info(self._full(path))
            if info.type != arrow.FileType.File:
                raise FileNotFoundError(path)
            return FileInfo(path, info.size, str(info.mtime_ns))

        return self._call(path, ask)

    def exists(self, path: str) -> bool:
        """See `Storage.exists`."""
        try:
            self.stat(path)
        except NotFound:
            return False
        return True

    def list(self, prefix: str = "") -> Iterator[FileInfo]:
        """See `Storage.list`."""
        prefix = prefix.rstrip("/")
        folder = self._full(prefix) if prefix else self._base
        selector = arrow.FileSelector(folder, recursive=True, allow_not_found=True)

        def ask() -> list[FileInfo]:
            infos = self._fs.get_file_info(selector)
            files = (info for info in infos if info.type == arrow.FileType.File)
            return sorted(FileInfo(info.path[len(self._base) + 1 :], info.size, str(info.mtime_ns)) for info in files)

        found = self._call(prefix, ask)
        if not found:
            self._check_bucket(prefix)
        yield from found

    def delete(self, path: str) -> None:
        """See `Storage.delete`."""
        with contextlib.suppress(NotFound):
            self._call(path, lambda: self._fs.delete_file(self._full(path)))

    def child(self, path: str) -> Storage:
        """See `Storage.child`."""
        return S3Storage(self._full(path.rstrip("/")))

    def _call(self, path: str, ask: Callable[[], T]) -> T:
        def attempt() -> T:
            try:
                return ask()
            except FileNotFoundError as error:
                self._check_bucket(path)
                raise NotFound("no such object", where=self.address(path), fix="check the path") from error
            except OSError as error:
                raise self._translate(path, error) from error

        return with_retries(attempt)

    def _check_bucket(self, path: str) -> None:
        # HEAD answers 404 for a missing object and a missing bucket alike; ask once which it is. Who may not ask has a bucket there:
        # rights to a bucket's prefixes are often no rights to the bucket itself, and the store has answered the first question.
        if self._bucket_seen:
            return

        def ask() -> None:
            try:
                info = self._fs.get_file_info(self._bucket)
            except OSError as error:
                if _FORBIDDEN.search(str(error)):
                    self._bucket_seen = True
                    return
                raise self._translate(path, error) from error
            if info.type == arrow.FileType.NotFound:
                raise self._no_bucket()
            self._bucket_seen = True

        with_retries(ask)

    def _no_bucket(self) -> StorageError:
        fix = "check its name and AWS_ENDPOINT_URL, or create it"
        return StorageError(f"there is no bucket '{self._bucket}'", where=_endpoint_name(), fix=fix)

    def _translate(self, path: str, error: OSError) -> Exception:
        text = str(error)
        where = f"{self.address(path)} at {_endpoint_name()}"
        if _NO_BUCKET.search(text):
            return self._no_bucket()
        if _DENIED.search(text):
            return StorageError(
                "the S3 store refused the credentials or the access",
                where=where,
                fix="check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY (and AWS_SESSION_TOKEN) and the bucket's policy",
            )
        if _REDIRECT.search(text):
            return StorageError("the bucket is in another region", where=where, fix="set AWS_REGION to the bucket's region")
        if _TRANSIENT.search(text):
            fix = "check AWS_ENDPOINT_URL and the network"
            return TransientError(StorageError(f"the S3 store does not answer ({_clean(text)})", where=where, fix=fix))
        return StorageError(f"the S3 store refused the request ({_clean(text)})", where=where, fix="see the store's own log")


def connect() -> arrow.S3FileSystem:
    """Connect to the store that the environment names.

    Raises:
        StorageError: ``AWS_ENDPOINT_URL`` is not an http or https address.
    """
    endpoint, region = _place()
    options: dict[str, object] = {"region": region} if region else {}
    if endpoint:
        parts = urlsplit(endpoint)
        options |= {"scheme": parts.scheme, "endpoint_override": parts.netloc}
    return arrow.S3FileSystem(
        connect_timeout=CONNECT_TIMEOUT,
        request_timeout=REQUEST_TIMEOUT,
        allow_delayed_open=True,  # small objects then take one PUT
        retry_strategy=arrow.AwsStandardS3RetryStrategy(max_attempts=1),  # ours are around it
        **options,
    )


def _place() -> tuple[str | None, str | None]:
    """Return endpoint and region, and set what both S3 libraries read from the environment."""
    # They send checksum trailers by default, which several S3 stores do not understand.
    os.environ.setdefault("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")
    os.environ.setdefault("AWS_RESPONSE_CHECKSUM_VALIDATION", "when_required")
    endpoint = _endpoint()
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if endpoint is None:
        return None, region
    parts = urlsplit(endpoint)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.path.strip("/"):
        raise StorageError("AWS_ENDPOINT_URL is not an http(s)://host:port address", fix="write it like https://s3.example.org:9000")
    # A store with its own address is not Amazon's: nobody would answer the question for an instance's role.
    os.environ.setdefault("AWS_EC2_METADATA_DISABLED", "true")
    return endpoint, region or "us-east-1"


def _endpoint() -> str | None:
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or None


def _endpoint_name() -> str:
    return urlsplit(_endpoint() or "https://amazonaws.com").netloc.rpartition("@")[2]


def _clean(text: str) -> str:
    # Keep the cause, drop the preamble; no secret may pass, whatever a store writes into its answer.
    text = re.sub(r"\(Request ID: [^)]*\)", "", text.partition("AWS Error ")[2] or text).strip()
    for name in ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ACCESS_KEY_ID"):
        if secret := os.environ.get(name):
            text = text.replace(secret, "…")
    return text[:300]
