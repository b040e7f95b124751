mock_provider "google" {}

variables {
  project     = "a-project"
  bucket_name = "a-bucket"
  location    = "europe-west4"
  prefix      = "team/runs"
}

run "as_it_comes" {
  assert {
    condition     = toset([for role in google_project_iam_custom_role.this : role.project]) == toset(["a-project"])
    error_message = "roles are made in another project"
  }

  assert {
    condition = [for name, role in google_project_iam_custom_role.this : name if contains(role.permissions, "storage.objects.delete")] == [
      "collect", "lease", "release"
    ]
    error_message = "other roles than these three may delete, and so overwrite"
  }

  assert {
    condition = toset([for name in keys(google_storage_bucket_iam_member.this) : split(" ", name)[1] if startswith(name, "trainer ")]) == toset([
      "write", "release", "list", "uploads"
    ])
    error_message = "trainers have other rights"
  }

  assert {
    condition = toset([for name in keys(google_storage_bucket_iam_member.this) : split(" ", name)[1] if startswith(name, "reader ")]) == toset([
      "read", "list", "lease"
    ])
    error_message = "readers have other rights"
  }

  assert {
    condition = toset([for name in keys(google_storage_bucket_iam_member.this) : split(" ", name)[1] if startswith(name, "gc ")]) == toset([
      "collect", "list", "uploads"
    ])
    error_message = "gc has other rights"
  }

  assert {
    condition     = google_project_iam_custom_role.this["read"].permissions == toset(["storage.objects.get"])
    error_message = "whoever reads may do more than read"
  }

  assert {
    condition     = alltrue([for role in google_project_iam_custom_role.this : alltrue([for name in role.permissions : !startswith(name, "storage.buckets.") && !endswith(name, "etIamPolicy")])])
    error_message = "a role is about the bucket itself, or about rights"
  }

  assert {
    condition     = length([for grant in google_storage_bucket_iam_member.this : grant if length(grant.condition) == 0]) == 0
    error_message = "a right has no condition"
  }

  assert {
    condition     = google_storage_bucket_iam_member.this["trainer write account"].condition[0].expression == "resource.name.startsWith(\"projects/_/buckets/a-bucket/objects/team/runs/\")"
    error_message = "trainers write outside of the prefix, or not within"
  }

  assert {
    condition     = google_storage_bucket_iam_member.this["gc collect account"].condition[0].expression == "resource.name.startsWith(\"projects/_/buckets/a-bucket/objects/team/runs/\")"
    error_message = "gc deletes outside of the prefix, or not within"
  }

  assert {
    condition     = google_storage_bucket_iam_member.this["reader read account"].condition[0].expression == "resource.name.startsWith(\"projects/_/buckets/a-bucket/objects/team/runs/\")"
    error_message = "readers read outside of the prefix, or not within"
  }

  assert {
    condition     = google_storage_bucket_iam_member.this["reader list account"].condition[0].expression == "resource.name == \"projects/_/buckets/a-bucket\" || resource.name.startsWith(\"projects/_/buckets/a-bucket/objects/team/runs/\")"
    error_message = "readers cannot list, or cannot tell what is missing from what is forbidden"
  }

  assert {
    condition     = alltrue([for grant in google_storage_bucket_iam_member.this : length(regexall("&&|\\|\\||!(?:[^=])", one(grant.condition).expression)) <= 12])
    error_message = "a condition has more operators than the service takes"
  }

  assert {
    condition     = !strcontains(join("", [for grant in google_storage_bucket_iam_member.this : one(grant.condition).expression]), "api.")
    error_message = "a condition asks for what only access boundaries may ask for, and makes requests fail"
  }

  assert {
    condition     = toset([for account in google_service_account.this : account.account_id]) == toset(["ckptsync-trainer", "ckptsync-reader", "ckptsync-gc"])
    error_message = "the service accounts are others"
  }

  assert {
    condition     = length(toset([for who in ["trainer write", "reader read", "gc collect"] : google_storage_bucket_iam_member.this["${who} account"].member])) == 3
    error_message = "two of the three are one"
  }

  assert {
    condition     = output.url == "gs://a-bucket/team/runs"
    error_message = "the address is another"
  }

  assert {
    condition     = output.commands.doctor == "ckptsync doctor gs://a-bucket/team/runs/my-run"
    error_message = "the command does not name a run below the prefix"
  }

  assert {
    condition     = output.trainer_service_account_email == "${google_service_account.this["trainer"].account_id}@a-project.iam.gserviceaccount.com"
    error_message = "machines are told another account than the trainer's"
  }
}

run "whole_bucket" {
  variables {
    prefix = ""
  }

  assert {
    condition     = toset([for name, grant in google_storage_bucket_iam_member.this : split(" ", name)[1] if length(grant.condition) > 0]) == toset(["release", "lease"])
    error_message = "rights to the whole bucket are limited, or those to records are not"
  }

  assert {
    condition     = startswith(google_storage_bucket_iam_member.this["trainer release account"].condition[0].expression, "resource.name.startsWith(\"projects/_/buckets/a-bucket/objects/\") && (")
    error_message = "trainers delete what is no object of this bucket, or any"
  }

  assert {
    condition     = output.url == "gs://a-bucket"
    error_message = "the address without a prefix is another"
  }
}

run "others" {
  variables {
    create_service_accounts = false
    reader_leases           = false
    role_prefix             = "ours"
    trainer_members         = ["serviceAccount:train@a-project.iam.gserviceaccount.com"]
    reader_members          = ["group:research@example.org", "user:a@example.org"]
    gc_members              = []
  }

  assert {
    condition = toset(keys(google_storage_bucket_iam_member.this)) == toset([
      "trainer write serviceAccount:train@a-project.iam.gserviceaccount.com",
      "trainer release serviceAccount:train@a-project.iam.gserviceaccount.com",
      "trainer list serviceAccount:train@a-project.iam.gserviceaccount.com",
      "trainer uploads serviceAccount:train@a-project.iam.gserviceaccount.com",
      "reader read group:research@example.org",
      "reader list group:research@example.org",
      "reader read user:a@example.org",
      "reader list user:a@example.org",
    ])
    error_message = "others have rights, or these have not"
  }

  assert {
    condition     = length(google_service_account.this) == 0 && output.trainer_service_account_email == null
    error_message = "service accounts are made though nobody wants them"
  }

  assert {
    condition     = google_project_iam_custom_role.this["list"].role_id == "ours_list"
    error_message = "the roles' ids do not begin as asked for"
  }
}
