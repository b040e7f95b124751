mock_provider "google" {}

variables {
  project     = "a-project"
  bucket_name = "a-bucket"
  location    = "europe-west4"
}

run "as_it_comes" {
  assert {
    condition     = google_storage_bucket.this.uniform_bucket_level_access
    error_message = "objects can have rights of their own"
  }

  assert {
    condition     = google_storage_bucket.this.public_access_prevention == "enforced"
    error_message = "the bucket can be made public"
  }

  assert {
    condition     = google_storage_bucket.this.soft_delete_policy[0].retention_duration_seconds == 0
    error_message = "what retention deleted is billed on"
  }

  assert {
    condition     = !google_storage_bucket.this.versioning[0].enabled
    error_message = "versions are kept though nobody asked"
  }

  assert {
    condition = [for rule in google_storage_bucket.this.lifecycle_rule : one(rule.condition).age if one(rule.action).type == "AbortIncompleteMultipartUpload"] == [
      7
    ]
    error_message = "unfinished uploads are not dropped after a week"
  }

  assert {
    condition = [
      for rule in google_storage_bucket.this.lifecycle_rule : [one(rule.action).type, one(rule.condition).days_since_noncurrent_time, one(rule.condition).with_state]
      if one(rule.action).type != "AbortIncompleteMultipartUpload"
    ] == [["Delete", 7, "ARCHIVED"]]
    error_message = "versions of a time when they were kept stay for good, or live ones end"
  }

  assert {
    condition     = google_storage_bucket.this.force_destroy == false
    error_message = "checkpoints can be destroyed with the bucket"
  }

  assert {
    condition     = length(google_storage_bucket.this.encryption) + length(google_kms_crypto_key_iam_member.service) == 0
    error_message = "a key is asked for that nobody gave"
  }

  assert {
    condition     = length(google_storage_bucket.this.retention_policy) == 0
    error_message = "objects cannot be deleted for some time though nobody asked"
  }
}

run "soft_delete" {
  variables {
    soft_delete_retention_s = 604800
  }

  assert {
    condition     = google_storage_bucket.this.soft_delete_policy[0].retention_duration_seconds == 604800
    error_message = "deleted objects cannot be brought back for a week"
  }
}

run "versions" {
  variables {
    versioning      = true
    noncurrent_days = 3
  }

  assert {
    condition     = google_storage_bucket.this.versioning[0].enabled
    error_message = "versions are not kept though they were asked for"
  }

  assert {
    condition = [
      for rule in google_storage_bucket.this.lifecycle_rule : [one(rule.condition).days_since_noncurrent_time, one(rule.condition).with_state]
      if one(rule.action).type == "Delete"
    ] == [[3, "ARCHIVED"]]
    error_message = "noncurrent versions do not end after three days, or live ones do"
  }
}

run "own_key" {
  variables {
    kms_key_name = "projects/a-project/locations/europe-west4/keyRings/a/cryptoKeys/b"
  }

  override_data {
    target = data.google_storage_project_service_account.service
    values = { email_address = "service-1@gs-project-accounts.iam.gserviceaccount.com" }
  }

  assert {
    condition     = google_storage_bucket.this.encryption[0].default_kms_key_name == var.kms_key_name
    error_message = "objects are not encrypted with the key"
  }

  assert {
    condition     = google_kms_crypto_key_iam_member.service[0].member == "serviceAccount:service-1@gs-project-accounts.iam.gserviceaccount.com"
    error_message = "the service is not the one that may use the key"
  }

  assert {
    condition     = google_kms_crypto_key_iam_member.service[0].role == "roles/cloudkms.cryptoKeyEncrypterDecrypter"
    error_message = "the service may not encrypt and decrypt with the key"
  }
}

run "retention_and_logs" {
  variables {
    retention_s       = 86400
    access_log_bucket = "logs"
  }

  assert {
    condition     = google_storage_bucket.this.retention_policy[0].retention_period == "86400"
    error_message = "objects can be deleted within the day"
  }

  assert {
    condition     = google_storage_bucket.this.retention_policy[0].is_locked != true
    error_message = "the retention policy can never be lifted"
  }

  assert {
    condition     = google_storage_bucket.this.logging[0].log_bucket == "logs"
    error_message = "usage is not logged"
  }
}

run "versions_and_retention" {
  command = plan

  variables {
    versioning  = true
    retention_s = 86400
  }

  expect_failures = [google_storage_bucket.this]
}

run "wrong_values" {
  command = plan

  variables {
    project                 = "A Project"
    bucket_name             = "Bad"
    location                = "here and there"
    prefix                  = "/runs/"
    storage_class           = "WARM"
    kms_key_name            = "a-key"
    soft_delete_retention_s = 3600
    noncurrent_days         = 0
    abort_multipart_days    = 1
    retention_s             = 0
    trainer_members         = ["allUsers"]
    reader_members          = ["allAuthenticatedUsers"]
    gc_members              = ["somebody@example.org"]
    service_account_prefix  = "x"
    role_prefix             = "a role"
  }

  expect_failures = [
    var.project,
    var.bucket_name,
    var.location,
    var.prefix,
    var.storage_class,
    var.kms_key_name,
    var.soft_delete_retention_s,
    var.noncurrent_days,
    var.abort_multipart_days,
    var.retention_s,
    var.trainer_members,
    var.reader_members,
    var.gc_members,
    var.service_account_prefix,
    var.role_prefix,
  ]
}

run "prefix_that_looks_like_a_record" {
  command = plan

  variables {
    prefix = "team/leases"
  }

  expect_failures = [var.prefix]
}

run "a_label_in_capitals" {
  command = plan

  variables {
    labels = { Team = "vision" }
  }

  expect_failures = [var.labels]
}

run "a_labels_value_in_capitals" {
  command = plan

  variables {
    labels = { team = "Vision" }
  }

  expect_failures = [var.labels]
}

run "a_prefix_that_goes_up" {
  command = plan

  variables {
    prefix = "runs/../others"
  }

  expect_failures = [var.prefix]
}

run "a_prefix_that_stays_where_it_is" {
  command = plan

  variables {
    prefix = "."
  }

  expect_failures = [var.prefix]
}
