output "url" {
  description = "Where runs live."
  value       = module.bucket.url
}

output "run" {
  description = "The run that is trained."
  value       = module.machine.run
}

output "commands" {
  description = "What to run, by what it is for: look at the run, bring its newest checkpoint, keep the bill small, stop and start the machine."
  value       = module.machine.commands
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
