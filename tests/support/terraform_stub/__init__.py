"""A stand-in for a Terraform provider whose program cannot be had: it knows the provider's schema, and nothing else.

The schema is read out of the binding that is published for CDK Terrain (formerly CDK for Terraform), which pip fetches. Served by
a plugin of our own it lets the true `terraform init`, `validate` and mocked `terraform test` run. That it tells the truth is
shown with the AWS provider, which has both: tests/terraform/test_stub.py.
"""

from support.terraform_stub.mirror import mirror

__all__ = ["mirror"]
