mock_provider "aws" {
  mock_data "aws_region" {
    defaults = { name = "eu-central-1" }
  }

  mock_data "aws_partition" {
    defaults = { partition = "aws" }
  }

  mock_data "aws_caller_identity" {
    defaults = { account_id = "123456789012" }
  }

  mock_data "aws_ami" {
    defaults = {
      id               = "ami-0123456789abcdef0"
      root_device_name = "/dev/xvda"
    }
  }

  mock_data "aws_vpc" {
    defaults = { id = "vpc-0aaa" }
  }

  mock_data "aws_subnets" {
    defaults = { ids = ["subnet-0aaa", "subnet-0bbb"] }
  }

  mock_data "aws_subnet" {
    defaults = { vpc_id = "vpc-0aaa" }
  }

  mock_resource "aws_s3_bucket" {
    defaults = { region = "eu-central-1" }
  }

  mock_resource "aws_iam_role" {
    defaults = { arn = "arn:aws:iam::123456789012:role/made" }
  }

  mock_resource "aws_kms_key" {
    defaults = { arn = "arn:aws:kms:eu-central-1:123456789012:key/0a1b2c3d" }
  }

  mock_resource "aws_security_group" {
    defaults = { id = "sg-0ccc" }
  }

  mock_resource "aws_launch_template" {
    defaults = { id = "lt-0ddd", latest_version = 1 }
  }
}

variables {
  bucket_name = "a-bucket"
  repository  = "https://git.example.org/you/training.git"
}

run "as_it_comes" {
  assert {
    condition     = output.url == "s3://a-bucket/runs" && output.run == "s3://a-bucket/runs/first-run"
    error_message = "The machine trains another run than one below the bucket's prefix."
  }

  assert {
    condition     = output.commands.doctor == "env -u AWS_ACCESS_KEY_ID -u AWS_SECRET_ACCESS_KEY -u AWS_SESSION_TOKEN AWS_PROFILE=ckptsync-trainer ckptsync doctor s3://a-bucket/runs/first-run --region eu-central-1"
    error_message = "The doctor is sent to another run."
  }

  assert {
    condition     = output.commands.gc == "env -u AWS_ACCESS_KEY_ID -u AWS_SECRET_ACCESS_KEY -u AWS_SESSION_TOKEN AWS_PROFILE=ckptsync-gc ckptsync gc s3://a-bucket/runs/first-run --region eu-central-1 --keep-last 3"
    error_message = "The command that deletes old checkpoints is another."
  }

  assert {
    condition     = output.commands.stop == "aws autoscaling set-desired-capacity --region eu-central-1 --auto-scaling-group-name a-bucket-first-run --desired-capacity 0"
    error_message = "The command that stops the machine is another."
  }

  assert {
    condition     = toset(keys(output.commands)) == toset(["as_trainer", "as_reader", "as_gc", "doctor", "interrupt", "status", "ls", "report", "restore", "gc", "stop", "start"])
    error_message = "A command that is left to run is not told."
  }

  assert {
    condition     = output.commands.as_gc == "aws configure set profile.ckptsync-gc.role_arn arn:aws:iam::123456789012:role/made && aws configure set profile.ckptsync-gc.source_profile default"
    error_message = "The command that makes one gc is another."
  }

  assert {
    condition     = alltrue([for name in ["status", "ls", "report", "restore"] : startswith(output.commands[name], "env -u AWS_ACCESS_KEY_ID -u AWS_SECRET_ACCESS_KEY -u AWS_SESSION_TOKEN AWS_PROFILE=ckptsync-reader ckptsync ")])
    error_message = "Looking and restoring is done with more rights than the reader's."
  }

  assert {
    condition     = output.commands.interrupt == "aws autoscaling terminate-instance-in-auto-scaling-group --region eu-central-1 --no-should-decrement-desired-capacity --instance-id $(aws autoscaling describe-auto-scaling-groups --region eu-central-1 --auto-scaling-group-names a-bucket-first-run --query 'AutoScalingGroups[0].Instances[0].InstanceId' --output text)"
    error_message = "The command that takes the machine away is another."
  }

  assert {
    condition     = jsonencode(local.principals) == jsonencode({ trainer = { arns = ["arn:aws:iam::123456789012:root"], services = ["ec2.amazonaws.com"] } })
    error_message = "Others than the machine and this account may take the trainer's role."
  }

  assert {
    condition     = module.machine.instance_profile_name == "a-bucket-trainer"
    error_message = "The machine has other rights than the trainer's."
  }

  assert {
    condition     = output.asg_name == "a-bucket-first-run"
    error_message = "The group that stops and starts the machine is told wrong."
  }

  assert {
    condition     = length(module.machine.launch_template_id) > 0
    error_message = "There is no machine."
  }

  assert {
    condition     = aws_security_group.machine.vpc_id == "vpc-0aaa" && length(aws_security_group.machine.ingress) == 0
    error_message = "Something can reach the machine."
  }

  assert {
    condition     = aws_vpc_security_group_egress_rule.everything.ip_protocol == "-1" && aws_vpc_security_group_egress_rule.everything.cidr_ipv4 == "0.0.0.0/0"
    error_message = "The machine cannot reach its packages."
  }

  assert {
    condition     = one(data.aws_ami.debian[0].filter).values == toset(["debian-12-amd64-*"]) && data.aws_ami.debian[0].owners == tolist(["136693071363"])
    error_message = "The image is not Debian's own."
  }
}

run "of_ones_own" {
  command = plan

  variables {
    ami_id     = "ami-0fedcba9876543210"
    subnet_ids = ["subnet-0eee"]
    run_name   = "vision/run-7"
  }

  assert {
    condition     = length(data.aws_ami.debian) == 0 && length(data.aws_vpc.default) == 0
    error_message = "The image or network that was named is not used."
  }

  assert {
    condition     = aws_security_group.machine.name == "a-bucket-vision-run-7"
    error_message = "A run in a folder makes a name that AWS does not take."
  }

  assert {
    condition     = output.run == "s3://a-bucket/runs/vision/run-7"
    error_message = "The run in a folder is another."
  }
}

run "no_region" {
  command = plan

  variables {
    region = "Frankfurt"
  }

  expect_failures = [var.region]
}

run "no_subnets" {
  command = plan

  variables {
    subnet_ids = []
  }

  expect_failures = [var.subnet_ids]
}

run "null_for_what_has_a_default" {
  command = plan

  variables {
    run_name       = null
    instance_types = null
  }

  assert {
    condition     = output.run == "s3://a-bucket/runs/first-run" && contains(var.instance_types, "m7i.large")
    error_message = "Null does not stand for the default."
  }
}
