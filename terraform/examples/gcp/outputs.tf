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
  description = "What to run, by what it is for. `as_trainer`, `as_reader` and `as_gc` sign you in once, each in a folder of its own; `doctor` acts as the trainer, `gc` as gc, and what looks and restores as the reader, whoever you are signed in as."
  value = merge(
    module.machine.commands,
    {
      # A file of credentials in the environment would count for more than the folder. The shell expands ~ here, and env would not.
      for name, who in local.acts_as :
      name => "CLOUDSDK_CONFIG=~/.config/ckptsync-${who} env -u GOOGLE_APPLICATION_CREDENTIALS ${module.machine.commands[name]}"
    },
    {
      for who, email in local.accounts :
      "as_${who}" => "CLOUDSDK_CONFIG=~/.config/ckptsync-${who} env -u GOOGLE_APPLICATION_CREDENTIALS gcloud auth application-default login --impersonate-service-account ${email}"
    },
  )
}
