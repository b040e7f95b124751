# Every value that would make a bucket that loses work, or none at all, is refused before anything is made.

mock_provider "aws" {}

variables {
  bucket_name = "team-checkpoints"
}

run "a_name_s3_does_not_take" {
  command = plan

  variables {
    bucket_name = "Team_Checkpoints"
  }

  expect_failures = [var.bucket_name]
}

run "a_prefix_with_a_slash_at_its_end" {
  command = plan

  variables {
    prefix = "runs/"
  }

  expect_failures = [var.prefix]
}

run "a_prefix_with_a_wildcard" {
  command = plan

  variables {
    prefix = "runs*"
  }

  expect_failures = [var.prefix]
}

run "no_days_for_old_versions" {
  command = plan

  variables {
    noncurrent_days = 0
  }

  expect_failures = [var.noncurrent_days]
}

run "half_a_day_of_resuming" {
  command = plan

  variables {
    resume_window_days = 0.5
  }

  expect_failures = [var.resume_window_days]
}

run "parts_dropped_after_a_day" {
  command = plan

  variables {
    abort_multipart_days = 1
    resume_window_days   = 1
  }

  expect_failures = [var.abort_multipart_days]
}

run "parts_dropped_before_saves_are_continued" {
  command = plan

  variables {
    abort_multipart_days = 7
    resume_window_days   = 7
  }

  expect_failures = [aws_s3_bucket.this]
}

run "an_archive" {
  command = plan

  variables {
    storage_class_transitions = [{ days = 90, storage_class = "DEEP_ARCHIVE" }]
  }

  expect_failures = [var.storage_class_transitions]
}

run "a_move_too_soon" {
  command = plan

  variables {
    storage_class_transitions = [{ days = 7, storage_class = "STANDARD_IA" }]
  }

  expect_failures = [var.storage_class_transitions]
}

run "an_alias_for_a_key" {
  command = plan

  variables {
    kms_key_arn = "arn:aws:kms:eu-central-1:123456789012:alias/ours"
  }

  expect_failures = [var.kms_key_arn]
}

run "two_keys" {
  command = plan

  variables {
    create_kms_key = true
    kms_key_arn    = "arn:aws:kms:eu-central-1:123456789012:key/given"
  }

  expect_failures = [aws_s3_bucket.this]
}

run "logs_in_the_bucket_itself" {
  command = plan

  variables {
    access_log_bucket = "team-checkpoints"
  }

  expect_failures = [var.access_log_bucket]
}

run "a_boundary_that_is_no_policy" {
  command = plan

  variables {
    permissions_boundary_arn = "boundary"
  }

  expect_failures = [var.permissions_boundary_arn]
}

run "everybody_as_trainer" {
  command = plan

  variables {
    principals = { trainer = { arns = ["*"] } }
  }

  expect_failures = [var.principals]
}

run "every_role_of_an_account_as_trainer" {
  command = plan

  variables {
    principals = { trainer = { arns = ["arn:aws:iam::123456789012:role/*"] } }
  }

  expect_failures = [var.principals]
}

run "no_service_as_trainer" {
  command = plan

  variables {
    principals = { trainer = { services = ["ec2"] } }
  }

  expect_failures = [var.principals]
}

run "every_service_account_as_trainer" {
  command = plan

  variables {
    principals = { trainer = { oidc = [{ provider_arn = "arn:aws:iam::123456789012:oidc-provider/oidc.eks.eu-central-1.amazonaws.com/id/A", subjects = ["*"] }] } }
  }

  expect_failures = [var.principals]
}

run "no_service_account_as_trainer" {
  command = plan

  variables {
    principals = { trainer = { oidc = [{ provider_arn = "arn:aws:iam::123456789012:oidc-provider/oidc.eks.eu-central-1.amazonaws.com/id/A", subjects = [] }] } }
  }

  expect_failures = [var.principals]
}

run "everybody_as_gc" {
  command = plan

  variables {
    principals = { gc = { arns = ["*"] } }
  }

  expect_failures = [var.principals]
}

run "a_role_that_there_is_not" {
  command = plan

  variables {
    principals = { writer = { services = ["ec2.amazonaws.com"] } }
  }

  expect_failures = [var.principals]
}

run "a_name_that_s3_keeps" {
  command = plan

  variables {
    bucket_name = "team--x-s3"
  }

  expect_failures = [var.bucket_name]
}

run "a_prefix_that_goes_up" {
  command = plan

  variables {
    prefix = "runs/../others"
  }

  expect_failures = [var.prefix]
}

run "half_a_day_in_a_class" {
  command = plan

  variables {
    storage_class_transitions = [{ days = 30.5, storage_class = "STANDARD_IA" }]
  }

  expect_failures = [var.storage_class_transitions]
}

run "a_class_that_s3_moves_back_from" {
  command = plan

  variables {
    storage_class_transitions = [{ days = 30, storage_class = "GLACIER_IR" }, { days = 60, storage_class = "STANDARD_IA" }]
  }

  expect_failures = [var.storage_class_transitions]
}

run "from_one_zone_to_glacier" {
  command = plan

  variables {
    storage_class_transitions = [{ days = 30, storage_class = "ONEZONE_IA" }, { days = 90, storage_class = "GLACIER_IR" }]
  }

  expect_failures = [var.storage_class_transitions]
}

run "one_letter_as_a_wildcard" {
  command = plan

  variables {
    principals = { gc = { arns = ["arn:aws:iam::123456789012:role/a?b"] } }
  }

  expect_failures = [var.principals]
}

run "a_group_of_users" {
  command = plan

  variables {
    principals = { gc = { arns = ["arn:aws:iam::123456789012:group/ops"] } }
  }

  expect_failures = [var.principals]
}

run "a_tag_of_aws_itself" {
  command = plan

  variables {
    tags = { "AWS:team" = "vision" }
  }

  expect_failures = [var.tags]
}

run "a_tag_that_no_service_takes" {
  command = plan

  variables {
    tags = { team = "vision; audio" }
  }

  expect_failures = [var.tags]
}

run "every_key" {
  command = plan

  variables {
    kms_key_arn = "arn:aws:kms:eu-central-1:123456789012:key/*"
  }

  expect_failures = [var.kms_key_arn]
}

run "logs_in_an_address" {
  command = plan

  variables {
    access_log_bucket = "s3://team-logs"
  }

  expect_failures = [var.access_log_bucket]
}

run "logs_in_no_name" {
  command = plan

  variables {
    access_log_bucket = ""
  }

  expect_failures = [var.access_log_bucket]
}

run "a_role_without_a_name" {
  command = plan

  variables {
    principals = { gc = { arns = ["arn:aws:iam::123456789012:role/"] } }
  }

  expect_failures = [var.principals]
}

run "a_role_that_is_a_folder" {
  command = plan

  variables {
    principals = { gc = { arns = ["arn:aws:iam::123456789012:role/ops/"] } }
  }

  expect_failures = [var.principals]
}

run "a_user_without_a_name" {
  command = plan

  variables {
    principals = { gc = { arns = ["arn:aws:iam::123456789012:user/"] } }
  }

  expect_failures = [var.principals]
}

run "an_account_with_something_behind" {
  command = plan

  variables {
    principals = { gc = { arns = ["arn:aws:iam::123456789012:root/ops"] } }
  }

  expect_failures = [var.principals]
}

run "a_session_without_a_name" {
  command = plan

  variables {
    principals = { gc = { arns = ["arn:aws:sts::123456789012:assumed-role/ops"] } }
  }

  expect_failures = [var.principals]
}

run "whom_a_role_may_name" {
  command = plan

  variables {
    principals = { gc = { arns = [
      "arn:aws:iam::123456789012:root",
      "arn:aws:iam::123456789012:role/ops",
      "arn:aws-cn:iam::123456789012:role/teams/vision/ops_1@example.org",
      "arn:aws:iam::123456789012:user/somebody",
      "arn:aws:sts::123456789012:assumed-role/ops/somebody@example.org",
      "arn:aws:sts::123456789012:federated-user/somebody",
    ] } }
  }

  assert {
    condition     = length(var.principals.gc.arns) == 6
    error_message = "a principal that AWS knows is refused"
  }
}

run "a_class_for_a_day" {
  command = plan

  variables {
    storage_class_transitions = [{ days = 30, storage_class = "STANDARD_IA" }, { days = 59, storage_class = "GLACIER_IR" }]
  }

  expect_failures = [var.storage_class_transitions]
}
