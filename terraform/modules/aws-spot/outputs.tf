output "launch_template_id" {
  description = "The launch template."
  value       = aws_launch_template.machine.id
}

output "asg_name" {
  description = "The Auto Scaling group."
  value       = aws_autoscaling_group.machines.name
}

output "instance_profile_name" {
  description = "Instance profile that gives the machine its rights."
  value       = one(aws_launch_template.machine.iam_instance_profile[*].name)
}

output "run" {
  description = "URL of the run that the machine trains."
  value       = local.run
}

output "commands" {
  description = "What to run, by what it is for: `doctor` with the trainer's role, `gc` with gc's, the others with the reader's. `stop` and `start` change the group."
  value = {
    doctor  = "ckptsync doctor ${local.run} --region ${local.region}"
    status  = "ckptsync status ${local.run} --region ${local.region}"
    ls      = "ckptsync ls ${local.run} --region ${local.region}"
    report  = "ckptsync report ${local.run} --region ${local.region}"
    restore = "ckptsync restore ${local.run} restored --region ${local.region}"
    gc      = "ckptsync gc ${local.run} --region ${local.region} --keep-last 3"
    stop    = "aws autoscaling set-desired-capacity --region ${local.region} --auto-scaling-group-name ${var.name} --desired-capacity 0"
    start   = "aws autoscaling set-desired-capacity --region ${local.region} --auto-scaling-group-name ${var.name} --desired-capacity 1"
  }
}
