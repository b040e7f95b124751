# What the bucket is, with nothing but its name given; and every option.

mock_provider "aws" {
  mock_data "aws_caller_identity" {
    defaults = { account_id = "123456789012" }
  }
  mock_data "aws_partition" {
    defaults = { partition = "aws" }
  }
  mock_resource "aws_kms_key" {
    defaults = { arn = "arn:aws:kms:eu-central-1:123456789012:key/1234", key_id = "1234" }
  }
  mock_resource "aws_s3_bucket" {
    defaults = { region = "eu-central-1" }
  }
  mock_resource "aws_iam_role" {
    defaults = { arn = "arn:aws:iam::123456789012:role/mocked" }
  }
}

variables {
  bucket_name = "team-checkpoints"
}

run "by_default" {
  assert {
    condition     = aws_s3_bucket_public_access_block.this.block_public_acls
    error_message = "public ACLs can be set"
  }

  assert {
    condition     = aws_s3_bucket_public_access_block.this.ignore_public_acls
    error_message = "public ACLs count"
  }

  assert {
    condition     = aws_s3_bucket_public_access_block.this.block_public_policy
    error_message = "a public policy can be set"
  }

  assert {
    condition     = aws_s3_bucket_public_access_block.this.restrict_public_buckets
    error_message = "a public policy counts"
  }

  assert {
    condition     = aws_s3_bucket_public_access_block.this.bucket == "team-checkpoints"
    error_message = "public access is blocked elsewhere"
  }

  assert {
    condition     = aws_s3_bucket_ownership_controls.this.rule[0].object_ownership == "BucketOwnerEnforced"
    error_message = "objects can have owners and ACLs of their own"
  }

  assert {
    condition     = aws_s3_bucket_versioning.this.versioning_configuration[0].status == "Enabled"
    error_message = "what is overwritten or deleted is lost at once"
  }

  assert {
    condition     = one(aws_s3_bucket_server_side_encryption_configuration.this.rule).apply_server_side_encryption_by_default[0].sse_algorithm == "AES256"
    error_message = "objects are not encrypted with S3's keys"
  }

  assert {
    condition     = one([for rule in aws_s3_bucket_lifecycle_configuration.this.rule : rule if rule.id == "drop-unfinished-uploads"]).abort_incomplete_multipart_upload[0].days_after_initiation == 7
    error_message = "unfinished uploads are not dropped after 7 days"
  }

  assert {
    condition     = one([for rule in aws_s3_bucket_lifecycle_configuration.this.rule : rule if rule.id == "forget-old-versions"]).noncurrent_version_expiration[0].noncurrent_days == 1
    error_message = "old versions are not forgotten after 7 days"
  }

  assert {
    condition     = one([for rule in aws_s3_bucket_lifecycle_configuration.this.rule : rule if rule.id == "forget-old-versions"]).expiration[0].expired_object_delete_marker
    error_message = "delete markers stay for ever"
  }

  assert {
    condition     = alltrue([for rule in aws_s3_bucket_lifecycle_configuration.this.rule : rule.status == "Enabled"])
    error_message = "a rule of the lifecycle is off"
  }

  assert {
    condition     = alltrue([for rule in aws_s3_bucket_lifecycle_configuration.this.rule : length(rule.transition) == 0])
    error_message = "objects move to another class, and nobody asked for it"
  }

  assert {
    condition     = alltrue([for rule in aws_s3_bucket_lifecycle_configuration.this.rule : alltrue([for one in rule.expiration : one.days == null || one.days == 0])])
    error_message = "a rule of the lifecycle deletes checkpoints by their age"
  }

  assert {
    condition     = length(aws_s3_bucket_logging.this) == 0
    error_message = "accesses are logged, and nobody said where to"
  }

  assert {
    condition     = length(aws_kms_key.this) == 0 && output.kms_key_arn == null
    error_message = "a KMS key is made, and nobody asked for it"
  }

  assert {
    condition     = !aws_s3_bucket.this.force_destroy
    error_message = "a bucket with checkpoints can be destroyed"
  }

  assert {
    condition     = output.url == "s3://team-checkpoints"
    error_message = "the URL of the whole bucket is another"
  }

  assert {
    condition     = output.commands.doctor == "ckptsync doctor s3://team-checkpoints/my-run --region eu-central-1"
    error_message = "the doctor is called otherwise"
  }

  assert {
    condition     = output.bucket == "team-checkpoints" && output.region == "eu-central-1"
    error_message = "the bucket's name or region is told wrong"
  }
}

run "with_a_prefix" {
  variables {
    prefix = "team/runs"
  }

  assert {
    condition     = output.url == "s3://team-checkpoints/team/runs"
    error_message = "the URL of a prefix is another"
  }

  assert {
    condition     = output.commands.gc == "ckptsync gc s3://team-checkpoints/team/runs/my-run --region eu-central-1 --keep-last 3"
    error_message = "gc is called otherwise"
  }

  assert {
    condition     = alltrue([for rule in aws_s3_bucket_lifecycle_configuration.this.rule : rule.filter[0].prefix == "team/runs/"])
    error_message = "a rule of the lifecycle reaches beyond the prefix"
  }
}

run "with_a_key_of_its_own" {
  variables {
    create_kms_key = true
  }

  assert {
    condition     = aws_kms_key.this[0].enable_key_rotation
    error_message = "the key is not renewed"
  }

  assert {
    condition     = aws_kms_key.this[0].deletion_window_in_days == 30
    error_message = "a deleted key, and with it every checkpoint, is lost in less than 30 days"
  }

  assert {
    condition     = one(jsondecode(aws_kms_key.this[0].policy).Statement).Principal.AWS == "arn:aws:iam::123456789012:root"
    error_message = "others than this account decide about the key"
  }

  assert {
    condition     = one(aws_s3_bucket_server_side_encryption_configuration.this.rule).apply_server_side_encryption_by_default[0].sse_algorithm == "aws:kms"
    error_message = "objects are not encrypted with KMS"
  }

  assert {
    condition     = one(aws_s3_bucket_server_side_encryption_configuration.this.rule).apply_server_side_encryption_by_default[0].kms_master_key_id == "arn:aws:kms:eu-central-1:123456789012:key/1234"
    error_message = "objects are encrypted with another key than the one that was made"
  }

  assert {
    condition     = one(aws_s3_bucket_server_side_encryption_configuration.this.rule).bucket_key_enabled
    error_message = "every object costs a request to KMS"
  }

  assert {
    condition     = output.kms_key_arn == "arn:aws:kms:eu-central-1:123456789012:key/1234"
    error_message = "the key that was made is not told"
  }
}

run "with_a_given_key" {
  variables {
    kms_key_arn = "arn:aws:kms:eu-central-1:123456789012:key/given"
  }

  assert {
    condition     = one(aws_s3_bucket_server_side_encryption_configuration.this.rule).apply_server_side_encryption_by_default[0].kms_master_key_id == "arn:aws:kms:eu-central-1:123456789012:key/given"
    error_message = "objects are encrypted with another key than the given one"
  }
}

run "with_classes_in_the_whole_bucket" {
  variables {
    storage_class_transitions = [{ days = 30, storage_class = "STANDARD_IA" }]
  }

  assert {
    condition     = one([for rule in aws_s3_bucket_lifecycle_configuration.this.rule : rule if rule.id == "move-to-cheaper-classes"]).filter[0].object_size_greater_than == 131071 && length(one([for rule in aws_s3_bucket_lifecycle_configuration.this.rule : rule if rule.id == "move-to-cheaper-classes"]).filter[0].and) == 0
    error_message = "S3 is given one condition where it wants two"
  }
}

run "with_everything_else" {
  variables {
    prefix               = "runs"
    versioning           = false
    noncurrent_days      = 30
    resume_window_days   = 10
    abort_multipart_days = 14
    access_log_bucket    = "team-logs"
    force_destroy        = true
    tags                 = { team = "vision" }
    storage_class_transitions = [
      { days = 30, storage_class = "STANDARD_IA" },
      { days = 90, storage_class = "GLACIER_IR" },
    ]
  }

  assert {
    condition     = aws_s3_bucket_versioning.this.versioning_configuration[0].status == "Suspended"
    error_message = "versions are kept although nobody wants them"
  }

  assert {
    condition     = one([for rule in aws_s3_bucket_lifecycle_configuration.this.rule : rule if rule.id == "drop-unfinished-uploads"]).abort_incomplete_multipart_upload[0].days_after_initiation == 14
    error_message = "unfinished uploads are dropped after another time than was asked for"
  }

  assert {
    condition     = one([for rule in aws_s3_bucket_lifecycle_configuration.this.rule : rule if rule.id == "forget-old-versions"]).noncurrent_version_expiration[0].noncurrent_days == 30
    error_message = "old versions are forgotten after another time than was asked for"
  }

  assert {
    condition     = aws_s3_bucket_logging.this[0].target_bucket == "team-logs" && aws_s3_bucket_logging.this[0].target_prefix == "team-checkpoints/"
    error_message = "accesses are not logged where they should be"
  }

  assert {
    condition     = [for one in one([for rule in aws_s3_bucket_lifecycle_configuration.this.rule : rule if rule.id == "move-to-cheaper-classes"]).transition : one.storage_class] == ["STANDARD_IA", "GLACIER_IR"]
    error_message = "objects do not move to the classes that were asked for"
  }

  assert {
    condition     = one([for rule in aws_s3_bucket_lifecycle_configuration.this.rule : rule if rule.id == "move-to-cheaper-classes"]).filter[0].and[0].object_size_greater_than == 131071
    error_message = "small records move to a class in which they cost more"
  }

  assert {
    condition     = aws_s3_bucket.this.force_destroy && aws_s3_bucket.this.tags == tomap({ team = "vision" })
    error_message = "tags or force_destroy are not passed on"
  }
}
