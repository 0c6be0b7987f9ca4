"""Buckets that only signed requests can read, and the credential files of AWS programs."""

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import requests

SERVER = Path(__file__).with_name("signing_server.py")
PROFILE = "canarylab"


@dataclass(frozen=True)
class Keys:
    """AWS credentials."""

    access: str
    secret: str
    token: str = ""

    def environment(self) -> dict[str, str]:
        named = {
            "AWS_ACCESS_KEY_ID": self.access,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_SESSION_TOKEN": self.token,
        }
        return {name: value for name, value in named.items() if value}

    def file_lines(self) -> str:
        return "".join(f"{name.lower()} = {one}\n" for name, one in self.environment().items())


class SignedBuckets:
    """A running server that checks signatures."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self._rules: dict[str, Any] = {"payer": [], "regions": {}, "expired": False}
        self._count = 0
        self._enforce(False)
        self.admin = self._new_user("admin", [])
        self._enforce(True)

    def client(self, service: str) -> Any:
        return _client(self.endpoint, service)

    def _enforce(self, on: bool) -> None:
        count = b"0" if on else b"inf"
        requests.post(f"{self.endpoint}/moto-api/reset-auth", data=count, timeout=60)
        rules = self._rules if on else {}
        requests.put(f"{self.endpoint}/control", data=json.dumps(rules), timeout=60)

    def _new_user(self, name: str, denied: list[str]) -> Keys:
        iam = self.client("iam")
        iam.create_user(UserName=name)
        statements = [{"Effect": "Allow", "Action": "*", "Resource": "*"}]
        if denied:
            actions = ["s3:GetObject", "s3:GetObjectVersion"]
            statements.append({"Effect": "Deny", "Action": actions, "Resource": denied})
        policy = {"Version": "2012-10-17", "Statement": statements}
        iam.put_user_policy(UserName=name, PolicyName="all", PolicyDocument=json.dumps(policy))
        made = iam.create_access_key(UserName=name)["AccessKey"]
        return Keys(made["AccessKeyId"], made["SecretAccessKey"])

    def new_user(self, *denied: str) -> Keys:
        """Return the keys of a user who may read everything but some objects."""
        self._count += 1
        self._enforce(False)
        try:
            return self._new_user(f"user{self._count}", [f"arn:aws:s3:::{one}" for one in denied])
        finally:
            self._enforce(True)

    def session_keys(self) -> Keys:
        """Return temporary credentials with a session token."""
        self._enforce(False)
        try:
            allow = {"Effect": "Allow", "Action": "*", "Resource": "*"}
            iam = self.client("iam")
            self._count += 1
            role = f"role{self._count}"
            trust = {"Version": "2012-10-17", "Statement": []}
            arn = iam.create_role(RoleName=role, AssumeRolePolicyDocument=json.dumps(trust))
            policy = {"Version": "2012-10-17", "Statement": [allow]}
            iam.put_role_policy(RoleName=role, PolicyName="p", PolicyDocument=json.dumps(policy))
            made = self.client("sts").assume_role(
                RoleArn=arn["Role"]["Arn"], RoleSessionName="test"
            )["Credentials"]
            return Keys(made["AccessKeyId"], made["SecretAccessKey"], made["SessionToken"])
        finally:
            self._enforce(True)

    def make(self, contents: Mapping[str, bytes], *, versioned: bool = True) -> str:
        """Create a bucket with objects; return its name."""
        self._enforce(False)
        try:
            self._count += 1
            name = f"canarybucket-{self._count}"
            s3 = self.client("s3")
            s3.create_bucket(Bucket=name)
            if versioned:
                enabled = {"Status": "Enabled"}
                s3.put_bucket_versioning(Bucket=name, VersioningConfiguration=enabled)
            for key, data in contents.items():
                s3.put_object(Bucket=name, Key=key, Body=data)
            return name
        finally:
            self._enforce(True)

    def put(self, bucket: str, key: str, data: bytes, **more: Any) -> None:
        self._enforce(False)
        try:
            self.client("s3").put_object(Bucket=bucket, Key=key, Body=data, **more)
        finally:
            self._enforce(True)

    def delete(self, bucket: str, key: str) -> None:
        self._enforce(False)
        try:
            self.client("s3").delete_object(Bucket=bucket, Key=key)
        finally:
            self._enforce(True)

    def rule(self, **rules: Any) -> None:
        """Change what is refused: ``payer``, ``regions`` or ``expired``."""
        self._rules.update(rules)
        self._enforce(True)

    def requests(self) -> list[dict[str, str]]:
        """Return the requests for objects since the last change of a rule or a bucket."""
        found: list[dict[str, str]] = requests.get(f"{self.endpoint}/control", timeout=60).json()
        return found


@cache
def _client(endpoint: str, service: str) -> Any:
    import boto3
    from botocore.config import Config

    return boto3.client(
        service,
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
        config=Config(s3={"addressing_style": "path"}),
    )


@contextmanager
def signing_server() -> Iterator[SignedBuckets]:
    """Serve buckets; the process ends when its standard input is closed."""
    process = subprocess.Popen(
        [sys.executable, str(SERVER)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield SignedBuckets(process.stdout.readline().strip())
    finally:
        process.stdin.close()
        process.wait(timeout=60)
        process.stdout.close()


def write_profile(home: Path, keys: Keys | None = None, *more: str, name: str = PROFILE) -> None:
    """Add a profile to ``~/.aws/config``; its keys to ``~/.aws/credentials``."""
    folder = home / ".aws"
    folder.mkdir(exist_ok=True)
    with (folder / "config").open("a") as file:
        file.write(f"[profile {name}]\n" + "".join(f"{line}\n" for line in more))
    if keys is not None:
        with (folder / "credentials").open("a") as file:
            file.write(f"[{name}]\n{keys.file_lines()}")


def write_sso_profile(home: Path, expires: str) -> None:
    """Add a profile with SSO, and botocore's own cache of a session that expires at a time."""
    url = "https://canary.awsapps.example/start"
    lines = (
        f"sso_start_url = {url}",
        "sso_region = us-east-1",
        "sso_account_id = 123456789012",
        "sso_role_name = Reader",
    )
    write_profile(home, None, *lines)
    cache = home / ".aws" / "sso" / "cache"
    cache.mkdir(parents=True)
    name = hashlib.sha1(url.encode(), usedforsecurity=False).hexdigest()
    token = {
        "startUrl": url,
        "region": "us-east-1",
        "accessToken": "canaryssotoken",
        "expiresAt": expires,
    }
    (cache / f"{name}.json").write_text(json.dumps(token))
