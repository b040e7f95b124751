# A bucket, the rights to it, and a spot machine that trains one run and resumes.

provider "aws" {
  region = var.region

  default_tags {
    tags = { made-by = "ckptsync-example" }
  }
}

data "aws_caller_identity" "current" {}

data "aws_partition" "current" {}

data "aws_vpc" "default" {
  count   = var.subnet_ids == null ? 1 : 0
  default = true
}

data "aws_subnets" "default" {
  count = var.subnet_ids == null ? 1 : 0

  filter {
    name   = "vpc-id"
    values = [data.aws_vpc.default[0].id]
  }

  filter {
    name   = "default-for-az"
    values = ["true"]
  }
}

data "aws_subnet" "first" {
  id = local.subnet_ids[0]
}

# Debian's own account.
data "aws_ami" "debian" {
  count       = var.ami_id == null ? 1 : 0
  owners      = ["136693071363"]
  most_recent = true

  filter {
    name   = "name"
    values = ["debian-12-amd64-*"]
  }
}

locals {
  subnet_ids = var.subnet_ids != null ? var.subnet_ids : data.aws_subnets.default[0].ids
  ami_id     = var.ami_id != null ? var.ami_id : data.aws_ami.debian[0].id

  # The machine, and whom IAM lets in this account: who operates it tries the trainer's rights with the doctor.
  principals = {
    trainer = {
      services = ["ec2.amazonaws.com"]
      arns     = ["arn:${data.aws_partition.current.partition}:iam::${data.aws_caller_identity.current.account_id}:root"]
    }
  }
  acts_as = {
    doctor  = "trainer"
    status  = "reader"
    ls      = "reader"
    report  = "reader"
    restore = "reader"
    gc      = "gc"
  }
  role_arns = {
    trainer = module.bucket.trainer_role_arn
    reader  = module.bucket.reader_role_arn
    gc      = module.bucket.gc_role_arn
  }
}

module "bucket" {
  source         = "../../modules/aws-bucket"
  bucket_name    = var.bucket_name
  prefix         = "runs"
  create_kms_key = var.create_kms_key
  versioning     = var.versioning
  force_destroy  = var.force_destroy

  principals = local.principals
}

# The machine asks, and is never asked.
resource "aws_security_group" "machine" {
  name        = "${var.bucket_name}-${replace(var.run_name, "/", "-")}"
  description = "A training machine: everything out, nothing in"
  vpc_id      = data.aws_subnet.first.vpc_id
}

resource "aws_vpc_security_group_egress_rule" "everything" {
  security_group_id = aws_security_group.machine.id
  description       = "Packages, the repository and the bucket"
  cidr_ipv4         = "0.0.0.0/0"
  ip_protocol       = "-1"
}

module "machine" {
  source                = "../../modules/aws-spot"
  name                  = "${var.bucket_name}-${replace(var.run_name, "/", "-")}"
  url                   = module.bucket.url
  run_name              = var.run_name
  instance_profile_name = module.bucket.trainer_instance_profile_name
  ami_id                = local.ami_id
  instance_types        = var.instance_types
  subnet_ids            = local.subnet_ids
  security_group_ids    = [aws_security_group.machine.id]
  public_ip             = var.public_ip
  desired_size          = var.desired_size
  repository            = var.repository
  train_options         = var.train_options
  ckptsync_requirement  = var.ckptsync_requirement
  tags                  = { made-by = "ckptsync-example" } # default_tags do not reach what a launch template starts
}
