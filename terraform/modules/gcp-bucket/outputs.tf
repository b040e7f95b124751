output "bucket" {
  description = "Name of the bucket."
  value       = google_storage_bucket.this.name
}

output "url" {
  description = "Where runs lie: the address of a run is this, a slash and its name."
  value       = local.url
}

output "trainer_service_account_email" {
  description = "Service account for machines that train; null when none was made."
  value       = var.create_service_accounts ? "${google_service_account.this["trainer"].account_id}@${var.project}.iam.gserviceaccount.com" : null
}

output "reader_service_account_email" {
  description = "Service account for what restores only; null when none was made."
  value       = var.create_service_accounts ? "${google_service_account.this["reader"].account_id}@${var.project}.iam.gserviceaccount.com" : null
}

output "gc_service_account_email" {
  description = "Service account for a job that deletes what retention says; null when none was made."
  value       = var.create_service_accounts ? "${google_service_account.this["gc"].account_id}@${var.project}.iam.gserviceaccount.com" : null
}

output "kms_key_name" {
  description = "Key that encrypts objects; null for Google's own."
  value       = var.kms_key_name
}

output "commands" {
  description = "What to run, by what it is for; put your run's name for `my-run`. `gc` and `rm` with the gc account, the others with the trainer's."
  value = {
    doctor  = "ckptsync doctor ${local.url}/my-run"
    run     = "ckptsync run ${local.url}/my-run --dir checkpoints -- python train.py"
    save    = "ckptsync save checkpoints ${local.url}/my-run --step 100"
    restore = "ckptsync restore ${local.url}/my-run checkpoints"
    ls      = "ckptsync ls ${local.url}/my-run"
    gc      = "ckptsync gc ${local.url}/my-run --keep-last 3"
  }
}

locals {
  url = join("/", compact(["gs://${google_storage_bucket.this.name}", var.prefix]))
}
