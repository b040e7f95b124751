# Values that would do harm or make no sense are refused, each by its own variable.

mock_provider "aws" {
  mock_data "aws_region" {
    defaults = { name = "eu-central-1" }
  }
}

variables {
  name                  = "train"
  url                   = "s3://my-bucket/runs"
  run_name              = "first"
  instance_profile_name = "my-bucket-trainer"
  ami_id                = "ami-0123456789abcdef0"
  root_device_name      = "/dev/xvda"
  instance_types        = ["g6.xlarge"]
  subnet_ids            = ["subnet-0aaa"]
  security_group_ids    = ["sg-0ccc"]
  repository            = "https://git.example.org/you/training.git"
}

run "first_of_each" {
  command = plan

  variables {
    name                  = "x"
    url                   = "gs://bucket/runs"
    run_name              = "first run"
    instance_profile_name = "arn:aws:iam::111122223333:instance-profile/x"
    ami_id                = "debian-12"
    root_device_name      = "xvda"
    instance_types        = []
    spot_max_price        = "cheap"
    subnet_ids            = []
    security_group_ids    = []
    volume_gib            = 4
    volume_kms_key_arn    = "alias/aws/ebs"
    desired_size          = 2
    health_check_grace_s  = 5
    repository            = "https://user:secret@git.example.org/x.git"
    train_options         = "--name \"quoted\""
    command               = "python train.py"
    checkpoint_dir        = "/checkpoints"
    ask                   = "SIGUSR1"
    environment           = { "A-B" = "1" }
    ckptsync_requirement  = "ckptsync'; reboot; '"
    drain_timeout_s       = 5
  }

  expect_failures = [
    var.name,
    var.url,
    var.run_name,
    var.instance_profile_name,
    var.ami_id,
    var.root_device_name,
    var.instance_types,
    var.spot_max_price,
    var.subnet_ids,
    var.security_group_ids,
    var.volume_gib,
    var.volume_kms_key_arn,
    var.desired_size,
    var.health_check_grace_s,
    var.repository,
    var.train_options,
    var.command,
    var.checkpoint_dir,
    var.ask,
    var.environment,
    var.ckptsync_requirement,
    var.drain_timeout_s,
  ]
}

run "second_of_each" {
  command = plan

  variables {
    name               = "a b c"
    url                = "s3://bucket/runs/"
    run_name           = "/first"
    instance_types     = ["g6"]
    subnet_ids         = ["vpc-1"]
    security_group_ids = ["default"]
    volume_gib         = 10.5
    desired_size       = -1
    repository         = "git@git.example.org:x.git"
    train_options      = "$(reboot)"
    command            = "/bin/sh -c 'reboot'"
    checkpoint_dir     = "/var/lib/train"
    ask                = "command:reboot"
    environment        = { "A" = "$(reboot)" }
    drain_timeout_s    = 7200
  }

  expect_failures = [
    var.name,
    var.url,
    var.run_name,
    var.instance_types,
    var.subnet_ids,
    var.security_group_ids,
    var.volume_gib,
    var.desired_size,
    var.repository,
    var.train_options,
    var.command,
    var.checkpoint_dir,
    var.ask,
    var.environment,
    var.drain_timeout_s,
  ]
}

run "third_of_each" {
  command = plan

  variables {
    url            = "s3://Bucket"
    run_name       = ""
    instance_types = ["g6.xlarge", "g6.xlarge"]
    repository     = "https://git.example.org/x.git\nEVIL=1"
    train_options  = "a\nEVIL=1"
    command        = "/bin/true %n"
    checkpoint_dir = "/var/lib/train/journal"
    environment    = { "CKPTSYNC_RUN" = "s3://other" }
  }

  expect_failures = [
    var.url,
    var.run_name,
    var.instance_types,
    var.repository,
    var.train_options,
    var.command,
    var.checkpoint_dir,
    var.environment,
  ]
}

run "fourth_of_each" {
  command = plan

  variables {
    command        = "/bin/true\nUser=root"
    checkpoint_dir = "/var/lib/train/../x"
    environment    = { "AWS_SECRET_ACCESS_KEY" = "x" }
  }

  expect_failures = [
    var.command,
    var.checkpoint_dir,
    var.environment,
  ]
}

run "a_tag_of_aws_itself" {
  command = plan

  variables {
    tags = { "AWS:team" = "vision" }
  }

  expect_failures = [var.tags]
}

run "a_tag_that_no_service_takes" {
  command = plan

  variables {
    tags = { team = "vision; audio" }
  }

  expect_failures = [var.tags]
}

run "a_run_that_goes_up" {
  command = plan

  variables {
    run_name = "team/../other"
  }

  expect_failures = [var.run_name]
}

run "a_run_that_stays_where_it_is" {
  command = plan

  variables {
    run_name = "./first"
  }

  expect_failures = [var.run_name]
}

run "a_run_called_as_a_folder_of_runs" {
  command = plan

  variables {
    run_name = "aliases/x"
  }

  expect_failures = [var.run_name]
}
