# One spot machine that trains one run, and is replaced whenever it ends.

data "aws_region" "here" {}

data "aws_ami" "image" {
  count              = var.root_device_name == null ? 1 : 0
  include_deprecated = true

  filter {
    name   = "image-id"
    values = [var.ami_id]
  }
}

locals {
  run    = "${var.url}/${var.run_name}"
  region = data.aws_region.here.name
  tags   = merge({ Name = var.name }, var.tags)

  # Under another name the disk would be a second one, and the root volume would stay as the image has it.
  root_device_name = var.root_device_name != null ? var.root_device_name : data.aws_ami.image[0].root_device_name

  user_data = templatefile("${path.module}/user-data.yaml.tftpl", {
    repository           = var.repository
    train_options        = var.train_options
    run                  = local.run
    region               = local.region
    ask                  = var.ask
    environment          = var.environment
    command              = var.command
    checkpoint_dir       = var.checkpoint_dir
    ckptsync_requirement = var.ckptsync_requirement
    drain_timeout_s      = var.drain_timeout_s
  })
}

resource "aws_launch_template" "machine" {
  name                   = var.name
  description            = "Trains ${local.run} with ckptsync"
  image_id               = var.ami_id
  instance_type          = var.instance_types[0]
  update_default_version = true
  user_data              = base64encode(local.user_data)
  tags                   = local.tags

  iam_instance_profile {
    name = var.instance_profile_name
  }

  # Sessions alone (IMDSv2). Two hops: a container on the machine must hear the notice, too.
  metadata_options {
    http_endpoint               = "enabled"
    http_tokens                 = "required"
    http_put_response_hop_limit = 2
  }

  network_interfaces {
    device_index                = 0
    associate_public_ip_address = var.public_ip
    security_groups             = var.security_group_ids
    delete_on_termination       = true
  }

  block_device_mappings {
    device_name = local.root_device_name

    ebs {
      volume_type           = "gp3"
      volume_size           = var.volume_gib
      encrypted             = true
      kms_key_id            = var.volume_kms_key_arn
      delete_on_termination = true
    }
  }

  tag_specifications {
    resource_type = "instance"
    tags          = local.tags
  }

  tag_specifications {
    resource_type = "volume"
    tags          = local.tags
  }

  lifecycle {
    precondition {
      condition     = length(local.user_data) <= 16384
      error_message = "EC2 takes at most 16 KiB of user data; set less in environment."
    }
  }
}

resource "aws_autoscaling_group" "machines" {
  name                      = var.name
  min_size                  = 0
  max_size                  = 1
  desired_capacity          = var.desired_size
  vpc_zone_identifier       = var.subnet_ids
  capacity_rebalance        = var.capacity_rebalance
  health_check_type         = "EC2"
  health_check_grace_period = var.health_check_grace_s
  wait_for_capacity_timeout = "0" # spot capacity may take long to come, and is no reason for an apply to fail

  mixed_instances_policy {
    instances_distribution {
      on_demand_base_capacity                  = 0
      on_demand_percentage_above_base_capacity = 0
      spot_allocation_strategy                 = "price-capacity-optimized"
      spot_max_price                           = var.spot_max_price
    }

    launch_template {
      launch_template_specification {
        launch_template_id = aws_launch_template.machine.id
        version            = aws_launch_template.machine.latest_version
      }

      dynamic "override" {
        for_each = var.instance_types
        content {
          instance_type = override.value
        }
      }
    }
  }

  # The launch template tags machines and disks.
  dynamic "tag" {
    for_each = local.tags
    content {
      key                 = tag.key
      value               = tag.value
      propagate_at_launch = false
    }
  }
}
