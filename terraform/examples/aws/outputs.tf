output "url" {
  description = "Where runs live."
  value       = module.bucket.url
}

output "run" {
  description = "The run that is trained."
  value       = module.machine.run
}

output "commands" {
  description = "What to run, by what it is for. `as_trainer`, `as_reader` and `as_gc` each make a profile of the AWS CLI, once; `doctor` acts as the trainer, `gc` as gc, and what looks and restores as the reader, whoever you are signed in as."
  value = merge(
    module.machine.commands,
    {
      # Keys in the environment would count for more than a profile.
      for name, who in local.acts_as :
      name => "env -u AWS_ACCESS_KEY_ID -u AWS_SECRET_ACCESS_KEY -u AWS_SESSION_TOKEN AWS_PROFILE=ckptsync-${who} ${module.machine.commands[name]}"
    },
    {
      for who, arn in local.role_arns : "as_${who}" => join(" && ", [
        "aws configure set profile.ckptsync-${who}.role_arn ${arn}",
        "aws configure set profile.ckptsync-${who}.source_profile ${var.source_profile}",
      ])
    },
    {
      interrupt = join(" ", [
        "aws autoscaling terminate-instance-in-auto-scaling-group --region ${var.region} --no-should-decrement-desired-capacity --instance-id",
        "$(aws autoscaling describe-auto-scaling-groups --region ${var.region} --auto-scaling-group-names ${module.machine.asg_name}",
        "--query 'AutoScalingGroups[0].Instances[0].InstanceId' --output text)",
      ])
    },
  )
}

output "trainer_role_arn" {
  description = "Role of the machine."
  value       = module.bucket.trainer_role_arn
}

output "reader_role_arn" {
  description = "Role of who restores."
  value       = module.bucket.reader_role_arn
}

output "gc_role_arn" {
  description = "Role of who deletes what retention does not keep."
  value       = module.bucket.gc_role_arn
}

output "asg_name" {
  description = "The Auto Scaling group of the machine."
  value       = module.machine.asg_name
}
