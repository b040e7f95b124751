output "launch_template_id" {
  description = "The launch template."
  value       = aws_launch_template.machine.id
}

output "asg_name" {
  description = "The Auto Scaling group."
  value       = aws_autoscaling_group.machines.name
}

output "run" {
  description = "URL of the run that the machine trains."
  value       = local.run
}

output "commands" {
  description = "Command lines, from anywhere with the rights of a reader: how far the run is, what it took and lost, and its newest checkpoint. stop and start change the group."
  value = {
    status  = "ckptsync status ${local.run}"
    report  = "ckptsync report ${local.run}"
    restore = "ckptsync restore ${local.run} restored"
    stop    = "aws autoscaling set-desired-capacity --auto-scaling-group-name ${var.name} --desired-capacity 0"
    start   = "aws autoscaling set-desired-capacity --auto-scaling-group-name ${var.name} --desired-capacity 1"
  }
}
