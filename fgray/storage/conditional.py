"""Conditional PUT, which pyarrow cannot do: it drops ``If-None-Match``. Used for locks only, through botocore."""

from __future__ import annotations

from typing import Any


def put_if_absent(client: Any, bucket: str, key: str, data: bytes) -> bool:
    """Write an object unless it exists; return False if it does.

    Args:
        client: from `open_client`.
        bucket: its name.
        key: of the object.
        data: its content.

    Raises:
        OSError: the store refused or did not answer; the text carries its error code and HTTP status.
    """
    from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

    try:
        client.put_object(Bucket=bucket, Key=key, Body=data, IfNoneMatch="*")
    except ClientError as error:
        status, code = error.response["ResponseMetadata"].get("HTTPStatusCode"), error.response["Error"].get("Code")
        if status == 412:
            return False
        raise OSError(f"AWS Error {code} (HTTP status {status})") from error
    except NoCredentialsError as error:
        raise OSError("AWS Error MISSING_AUTHENTICATION_TOKEN: no credentials found") from error
    except BotoCoreError as error:
        raise OSError(f"AWS Error NETWORK_CONNECTION: {type(error).__name__}") from error
    return True


def open_client(endpoint: str | None, region: str | None, connect_timeout: float, read_timeout: float) -> Any:
    """Return a botocore S3 client that makes one attempt per call, with the credentials of the environment.

    Args:
        endpoint: address of the store; None for Amazon's.
        region: its region.
        connect_timeout: in seconds.
        read_timeout: in seconds without a byte.
    """
    import botocore.session
    from botocore.config import Config

    config = Config(
        s3={"addressing_style": "path"} if endpoint else {},
        connect_timeout=connect_timeout,
        read_timeout=read_timeout,
        retries={"total_max_attempts": 1},
    )
    return botocore.session.get_session().create_client("s3", endpoint_url=endpoint, region_name=region, config=config)
