output "instance_template_id" {
  description = "The instance template."
  value       = google_compute_region_instance_template.machine.id
}

output "mig_name" {
  description = "The managed instance group."
  value       = google_compute_region_instance_group_manager.machines.name
}

output "service_account_email" {
  description = "Service account that the machine acts as."
  value       = one(google_compute_region_instance_template.machine.service_account[*].email)
}

output "run" {
  description = "URL of the run that the machine trains."
  value       = local.run
}

output "commands" {
  description = "What to run, by what it is for: `doctor` with the trainer's account, `gc` with gc's, the others with the reader's. `stop` and `start` change the group."
  value = {
    doctor  = "ckptsync doctor ${local.run}"
    status  = "ckptsync status ${local.run}"
    ls      = "ckptsync ls ${local.run}"
    report  = "ckptsync report ${local.run}"
    restore = "ckptsync restore ${local.run} restored"
    gc      = "ckptsync gc ${local.run} --keep-last 3"
    stop    = "gcloud compute instance-groups managed resize ${var.name} --project ${var.project} --region ${var.region} --size 0"
    start   = "gcloud compute instance-groups managed resize ${var.name} --project ${var.project} --region ${var.region} --size 1"
  }
}
