"""Run one S3 server until its input ends: ``listing COUNT ZARRS`` or ``moto`` with its objects.

The first line of output is the address. Every further line of input is the key, in hex, of an
object whose bytes are replaced; an empty line is printed when that is done.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor


def serve_listing(count: int, zarrs: int) -> None:
    """Run the listing server with this many objects, in Zarrs if requested.

    All pages are cached, also for a lister that requests other pages than the previous one.
    """
    from benchmarks.listing_server import BigBucket

    ready = 3 * count // 1000 + 1000
    with BigBucket(count, prefixes=zarrs or 8, zarrs=zarrs > 0, ready=ready) as bucket:
        _print_json({"endpoint": bucket.endpoint, "bucket": bucket.name})
        _obey(bucket.change)


def serve_moto(contents: Mapping[bytes, bytes]) -> None:
    """Run moto's server with a bucket of these objects."""
    import boto3
    from botocore.config import Config
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    client = boto3.client(
        "s3",
        endpoint_url=f"http://{host}:{port}",
        region_name="us-east-1",
        aws_access_key_id="bench",
        aws_secret_access_key="bench",
        config=Config(proxies={}, max_pool_connections=4),
    )
    client.create_bucket(Bucket="bench", ACL="public-read")

    def put(key: bytes, content: bytes) -> None:
        client.put_object(Bucket="bench", Key=key.decode(), Body=content)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(put, contents.keys(), contents.values()))
    _print_json({"endpoint": f"http://{host}:{port}", "bucket": "bench"})
    _obey(lambda key: put(key, contents[key] + b" changed"))
    server.stop()


def _print_json(value: object) -> None:
    print(json.dumps(value), flush=True)


def _obey(change: Callable[[bytes], object]) -> None:
    for line in sys.stdin:
        change(bytes.fromhex(line))
        _print_json(None)


if __name__ == "__main__":
    if sys.argv[1] == "listing":
        serve_listing(int(sys.argv[2]), int(sys.argv[3]))
    else:
        held = json.loads(sys.stdin.readline())
        serve_moto({bytes.fromhex(key): text.encode() for key, text in held.items()})
