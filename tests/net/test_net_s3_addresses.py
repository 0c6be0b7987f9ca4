"""Which hosts are those of AWS S3."""

import pytest

from neuromirror.net import parse_aws_host
from neuromirror.net.urls import AwsHost


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("s3.amazonaws.com", AwsHost(None, None)),
        ("s3.eu-west-1.amazonaws.com", AwsHost(None, "eu-west-1")),
        ("s3-us-gov-west-1.amazonaws.com", AwsHost(None, "us-gov-west-1")),
        ("s3.dualstack.us-east-2.amazonaws.com", AwsHost(None, "us-east-2")),
        ("s3.cn-north-1.amazonaws.com.cn", AwsHost(None, "cn-north-1")),
        ("lab.s3.amazonaws.com", AwsHost("lab", None)),
        ("a.b_c.s3.us-west-2.amazonaws.com", AwsHost("a.b_c", "us-west-2")),
        ("lab.s3.dualstack.us-west-2.amazonaws.com", AwsHost("lab", "us-west-2")),
        ("lab.s3-accelerate.amazonaws.com", AwsHost("lab", None)),
        ("lab.s3-fips.us-east-1.amazonaws.com", AwsHost("lab", "us-east-1")),
        ("lab.s3-fips.dualstack.us-east-1.amazonaws.com", AwsHost("lab", "us-east-1")),
        ("lab.s3.s3.us-east-1.amazonaws.com", AwsHost("lab.s3", "us-east-1")),
        ("s3.amazonaws.com.example.org", None),
        ("xs3.amazonaws.com", None),
        ("ec2.us-east-1.amazonaws.com", None),
        ("lab.s3.example.org", None),
        ("", None),
    ],
)
def test_a_host_names_a_bucket_and_a_region(host: str, expected: AwsHost | None) -> None:
    assert parse_aws_host(host) == expected
