output "run" {
  description = "URL of the run that the machine trains."
  value       = module.machine.run
}

output "bucket" {
  description = "Name of the bucket."
  value       = module.bucket.bucket
}

output "mig_name" {
  description = "The managed instance group."
  value       = module.machine.mig_name
}

output "commands" {
  description = "What to run, by what it is for, after the one that makes you the trainer, the reader or gc: `doctor` as trainer, `gc` as gc, the others as reader."
  value = merge(module.machine.commands, {
    for who, email in local.accounts : "as_${who}" => "gcloud auth application-default login --impersonate-service-account ${email}"
  })
}
