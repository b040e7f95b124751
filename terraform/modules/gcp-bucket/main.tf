resource "google_storage_bucket" "this" {
  project       = var.project
  name          = var.bucket_name
  location      = var.location
  storage_class = var.storage_class
  force_destroy = var.force_destroy
  labels        = var.labels

  # Conditions on rights ask for it; no object has rights of its own.
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"

  # Left out, it would be on for a week, which is billed.
  soft_delete_policy {
    retention_duration_seconds = var.soft_delete_retention_s
  }

  versioning {
    enabled = var.versioning
  }

  lifecycle_rule {
    action {
      type = "AbortIncompleteMultipartUpload"
    }
    condition {
      age = var.abort_multipart_days
    }
  }

  # Also without versioning: what was kept while it was on would stay for good, and be billed.
  lifecycle_rule {
    action {
      type = "Delete"
    }
    condition {
      days_since_noncurrent_time = var.noncurrent_days
      with_state                 = "ARCHIVED"
    }
  }

  dynamic "encryption" {
    for_each = var.kms_key_name == null ? [] : [var.kms_key_name]

    content {
      default_kms_key_name = encryption.value
    }
  }

  dynamic "retention_policy" {
    for_each = var.retention_s == null ? [] : [var.retention_s]

    content {
      retention_period = retention_policy.value
    }
  }

  dynamic "logging" {
    for_each = var.access_log_bucket == null ? [] : [var.access_log_bucket]

    content {
      log_bucket = logging.value
    }
  }

  lifecycle {
    precondition {
      condition     = !(var.versioning && var.retention_s != null)
      error_message = "versioning and retention_s exclude each other: what may not be deleted has no noncurrent versions."
    }
  }

  # A bucket with a key can only be made once the service may use it.
  depends_on = [google_kms_crypto_key_iam_member.service]
}

# Cloud Storage itself encrypts and decrypts: whoever reads and writes objects needs no right to the key.
data "google_storage_project_service_account" "service" {
  count = var.kms_key_name == null ? 0 : 1

  project = var.project
}

resource "google_kms_crypto_key_iam_member" "service" {
  count = var.kms_key_name == null ? 0 : 1

  crypto_key_id = var.kms_key_name
  role          = "roles/cloudkms.cryptoKeyEncrypterDecrypter"
  member        = "serviceAccount:${data.google_storage_project_service_account.service[0].email_address}"
}
