output "url" {
  description = "Where runs live."
  value       = module.bucket.url
}

output "run" {
  description = "The run that is trained."
  value       = module.machine.run
}

output "commands" {
  description = "What to run, by what it is for, after the one that makes you the trainer, the reader or gc: `doctor` as trainer, `gc` as gc, the others as reader. `stop` and `start` change the group, as whoever applied this."
  value = merge(module.machine.commands, {
    for who, arn in local.role_arns : "as_${who}" => join(" && ", [
      "aws configure set profile.ckptsync-${who}.role_arn ${arn}",
      "aws configure set profile.ckptsync-${who}.source_profile ${var.source_profile}",
      "export AWS_PROFILE=ckptsync-${who}",
    ])
  })
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
