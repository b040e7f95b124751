# Each property of the machine and of its group is one assertion, so that its loss is told by its name.

mock_provider "aws" {
  mock_data "aws_region" {
    defaults = { name = "eu-central-1" }
  }

  mock_data "aws_ami" {
    defaults = { root_device_name = "/dev/sda1" }
  }
}

variables {
  name                  = "train"
  url                   = "s3://my-bucket/runs"
  run_name              = "first"
  instance_profile_name = "my-bucket-trainer"
  ami_id                = "ami-0123456789abcdef0"
  instance_types        = ["g6.xlarge", "g5.xlarge"]
  subnet_ids            = ["subnet-0aaa", "subnet-0bbb"]
  security_group_ids    = ["sg-0ccc"]
  repository            = "https://git.example.org/you/training.git"
  tags                  = { team = "vision" }
}

run "machine" {
  command = plan

  assert {
    condition     = aws_launch_template.machine.metadata_options[0].http_tokens == "required"
    error_message = "The metadata service answers without a session (IMDSv1)."
  }

  assert {
    condition     = aws_launch_template.machine.metadata_options[0].http_endpoint == "enabled"
    error_message = "Without the metadata service there is neither a role nor a notice."
  }

  assert {
    condition     = aws_launch_template.machine.metadata_options[0].http_put_response_hop_limit == 2
    error_message = "A container on the machine cannot hear the notice."
  }

  assert {
    condition     = aws_launch_template.machine.iam_instance_profile[0].name == "my-bucket-trainer"
    error_message = "The machine has not the rights of the trainer."
  }

  assert {
    condition     = tobool(aws_launch_template.machine.block_device_mappings[0].ebs[0].encrypted) == true
    error_message = "The disk is not encrypted."
  }

  assert {
    condition     = aws_launch_template.machine.block_device_mappings[0].ebs[0].volume_type == "gp3"
    error_message = "The disk is not of the kind gp3."
  }

  assert {
    condition     = tobool(aws_launch_template.machine.block_device_mappings[0].ebs[0].delete_on_termination) == true
    error_message = "The disk outlives the machine, and costs."
  }

  assert {
    condition     = length(aws_launch_template.machine.block_device_mappings) == 1 && aws_launch_template.machine.block_device_mappings[0].device_name == "/dev/sda1"
    error_message = "The disk is not the image's root device."
  }

  assert {
    condition     = tobool(aws_launch_template.machine.network_interfaces[0].associate_public_ip_address) == false
    error_message = "The machine gets a public address that nobody asked for."
  }

  assert {
    condition     = aws_launch_template.machine.network_interfaces[0].security_groups == toset(["sg-0ccc"])
    error_message = "The machine is in another security group than that asked for."
  }

  assert {
    condition     = aws_launch_template.machine.key_name == null
    error_message = "Somebody's SSH key lets them in."
  }

  assert {
    condition     = alltrue([for made in aws_launch_template.machine.tag_specifications : made.tags == tomap({ Name = "train", team = "vision" })])
    error_message = "Machines or disks lack the tags."
  }

  assert {
    condition     = toset(aws_launch_template.machine.tag_specifications[*].resource_type) == toset(["instance", "volume"])
    error_message = "Machines and disks are not both tagged."
  }
}

run "group" {
  command = plan

  assert {
    condition     = aws_autoscaling_group.machines.mixed_instances_policy[0].instances_distribution[0].on_demand_base_capacity == 0
    error_message = "The first machine is bought on demand."
  }

  assert {
    condition     = aws_autoscaling_group.machines.mixed_instances_policy[0].instances_distribution[0].on_demand_percentage_above_base_capacity == 0
    error_message = "A share of the machines is bought on demand."
  }

  assert {
    condition     = aws_autoscaling_group.machines.mixed_instances_policy[0].instances_distribution[0].spot_allocation_strategy == "price-capacity-optimized"
    error_message = "Machines are not taken from where they are cheap and last."
  }

  assert {
    condition     = aws_autoscaling_group.machines.mixed_instances_policy[0].launch_template[0].override[*].instance_type == tolist(["g6.xlarge", "g5.xlarge"])
    error_message = "The group does not choose among the kinds of machine that were named."
  }

  assert {
    condition     = aws_autoscaling_group.machines.capacity_rebalance == true
    error_message = "The next machine is not started before this one ends."
  }

  assert {
    condition     = aws_autoscaling_group.machines.max_size == 1
    error_message = "Two machines would take the run from one another."
  }

  assert {
    condition     = aws_autoscaling_group.machines.desired_capacity == 1
    error_message = "No machine is started."
  }

  assert {
    condition     = aws_autoscaling_group.machines.min_size == 0
    error_message = "The group cannot be stopped."
  }

  assert {
    condition     = aws_autoscaling_group.machines.health_check_grace_period == 300
    error_message = "A machine that still starts counts as ill."
  }

  assert {
    condition     = aws_autoscaling_group.machines.vpc_zone_identifier == toset(["subnet-0aaa", "subnet-0bbb"])
    error_message = "The group does not use all the subnets."
  }

  assert {
    condition     = aws_autoscaling_group.machines.wait_for_capacity_timeout == "0"
    error_message = "An apply fails where spot capacity has to be waited for."
  }
}

run "commands" {
  command = plan

  assert {
    condition     = output.run == "s3://my-bucket/runs/first"
    error_message = "The run is not the one below the bucket's URL."
  }

  assert {
    condition     = output.commands.doctor == "ckptsync doctor s3://my-bucket/runs/first --region eu-central-1"
    error_message = "The command that proves the bucket is another one."
  }

  assert {
    condition     = output.commands.status == "ckptsync status s3://my-bucket/runs/first --region eu-central-1"
    error_message = "The command that tells how far the run is is another one."
  }

  assert {
    condition     = output.commands.ls == "ckptsync ls s3://my-bucket/runs/first --region eu-central-1"
    error_message = "The command that lists snapshots is another one."
  }

  assert {
    condition     = output.commands.report == "ckptsync report s3://my-bucket/runs/first --region eu-central-1"
    error_message = "The command that tells what was lost is another one."
  }

  assert {
    condition     = output.commands.restore == "ckptsync restore s3://my-bucket/runs/first restored --region eu-central-1"
    error_message = "The command that brings a checkpoint is another one."
  }

  assert {
    condition     = output.commands.gc == "ckptsync gc s3://my-bucket/runs/first --region eu-central-1 --keep-last 3"
    error_message = "The command that deletes old checkpoints is another one."
  }

  assert {
    condition     = output.commands.stop == "aws autoscaling set-desired-capacity --region eu-central-1 --auto-scaling-group-name train --desired-capacity 0"
    error_message = "The command that stops the machine is another one."
  }

  assert {
    condition     = output.commands.start == "aws autoscaling set-desired-capacity --region eu-central-1 --auto-scaling-group-name train --desired-capacity 1"
    error_message = "The command that starts the machine is another one."
  }
}

run "as_asked" {
  command = plan

  variables {
    root_device_name   = "/dev/xvda"
    public_ip          = true
    desired_size       = 0
    capacity_rebalance = false
    spot_max_price     = "0.35"
    volume_gib         = 500
    volume_kms_key_arn = "arn:aws:kms:eu-central-1:111122223333:key/0a1b2c3d"
  }

  assert {
    condition     = length(data.aws_ami.image) == 0 && aws_launch_template.machine.block_device_mappings[0].device_name == "/dev/xvda"
    error_message = "The root device that was named is not used."
  }

  assert {
    condition     = tobool(aws_launch_template.machine.network_interfaces[0].associate_public_ip_address) == true
    error_message = "The machine gets no public address."
  }

  assert {
    condition     = aws_autoscaling_group.machines.desired_capacity == 0
    error_message = "A machine is started."
  }

  assert {
    condition     = aws_autoscaling_group.machines.capacity_rebalance == false
    error_message = "The next machine is started before this one ends."
  }

  assert {
    condition     = aws_autoscaling_group.machines.mixed_instances_policy[0].instances_distribution[0].spot_max_price == "0.35"
    error_message = "The highest price is not kept."
  }

  assert {
    condition     = aws_launch_template.machine.block_device_mappings[0].ebs[0].volume_size == 500
    error_message = "The disk has another size."
  }

  assert {
    condition     = aws_launch_template.machine.block_device_mappings[0].ebs[0].kms_key_id == "arn:aws:kms:eu-central-1:111122223333:key/0a1b2c3d"
    error_message = "The disk is encrypted with another key."
  }
}
