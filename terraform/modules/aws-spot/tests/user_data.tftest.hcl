# What the machine is told. tests/terraform checks the same text with cloud-init, systemd and shellcheck.

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

run "by_itself" {
  command = plan

  assert {
    condition     = startswith(base64decode(aws_launch_template.machine.user_data), "#cloud-config\n")
    error_message = "cloud-init does not know it for its own."
  }

  assert {
    condition     = strcontains(base64decode(aws_launch_template.machine.user_data), "\n      CKPTSYNC_RUN=s3://my-bucket/runs/first\n")
    error_message = "The machine trains another run."
  }

  assert {
    condition     = strcontains(base64decode(aws_launch_template.machine.user_data), "\n      AWS_REGION=eu-central-1\n")
    error_message = "The machine looks for its bucket in another region."
  }

  assert {
    condition     = strcontains(base64decode(aws_launch_template.machine.user_data), "\n      # CKPTSYNC_AGENT_ASK=signal:USR1\n")
    error_message = "The training is asked by a signal that it may not know."
  }

  assert {
    condition     = strcontains(base64decode(aws_launch_template.machine.user_data), "\n    permissions: \"0600\"\n")
    error_message = "Others than root read the environment."
  }

  assert {
    condition     = strcontains(base64decode(aws_launch_template.machine.user_data), "\n      User=trainer\n")
    error_message = "The training has the rights of root."
  }
}

run "as_asked" {
  command = plan

  variables {
    train_options        = "--data /srv/data --output-dir /var/lib/train/run-1"
    checkpoint_dir       = "/var/lib/train/run-1"
    command              = "/srv/train/venv/bin/torchrun --nproc-per-node gpu train.py $TRAIN_OPTIONS"
    ask                  = "signal:USR1"
    environment          = { CKPTSYNC_AGENT_PORT = "9464", OMP_NUM_THREADS = "4" }
    ckptsync_requirement = "ckptsync[s3,agent,zstd]>=1.0,<2"
    drain_timeout_s      = 90
  }

  assert {
    condition     = strcontains(base64decode(aws_launch_template.machine.user_data), "\n      TRAIN_OPTIONS=\"--data /srv/data --output-dir /var/lib/train/run-1\"\n")
    error_message = "The training gets other options."
  }

  assert {
    condition     = strcontains(base64decode(aws_launch_template.machine.user_data), "ckptsync run --dir /var/lib/train/run-1 --state-dir ")
    error_message = "Another folder is watched."
  }

  assert {
    condition     = strcontains(base64decode(aws_launch_template.machine.user_data), " --drain-timeout 90s -- /srv/train/venv/bin/torchrun --nproc-per-node gpu train.py $TRAIN_OPTIONS\n")
    error_message = "Another command is started."
  }

  assert {
    condition     = strcontains(base64decode(aws_launch_template.machine.user_data), "\n      TimeoutStopSec=100\n")
    error_message = "systemd does not wait for the drain."
  }

  assert {
    condition     = strcontains(base64decode(aws_launch_template.machine.user_data), "\n      CKPTSYNC_AGENT_ASK=signal:USR1\n")
    error_message = "The training is not asked."
  }

  assert {
    condition     = strcontains(base64decode(aws_launch_template.machine.user_data), "\n      CKPTSYNC_AGENT_PORT=\"9464\"\n      OMP_NUM_THREADS=\"4\"\n")
    error_message = "The environment that was asked for is not there."
  }

  assert {
    condition     = strcontains(base64decode(aws_launch_template.machine.user_data), " install --quiet 'ckptsync[s3,agent,zstd]>=1.0,<2'\n")
    error_message = "Another version of ckptsync is installed."
  }
}
