# The bucket. Who may do what in it is in policy.tf and roles.tf, its key in kms.tf.

data "aws_caller_identity" "current" {}

data "aws_partition" "current" {}

locals {
  account   = data.aws_caller_identity.current.account_id
  partition = data.aws_partition.current.partition

  folder     = var.prefix == "" ? "" : "${var.prefix}/"
  url        = trimsuffix("s3://${var.bucket_name}/${local.folder}", "/")
  bucket_arn = "arn:${local.partition}:s3:::${aws_s3_bucket.this.bucket}"

  encrypts_with_kms = var.create_kms_key || var.kms_key_arn != null
  kms_key_arn       = var.create_kms_key ? one(aws_kms_key.this[*].arn) : var.kms_key_arn
}

resource "aws_s3_bucket" "this" {
  bucket        = var.bucket_name
  force_destroy = var.force_destroy
  tags          = var.tags

  # What cannot be deleted because checkpoints are in it keeps its key: Terraform destroys the bucket first.
  depends_on = [aws_kms_key.this]

  lifecycle {
    precondition {
      condition     = var.abort_multipart_days > var.resume_window_days
      error_message = "abort_multipart_days must be more than resume_window_days, or S3 drops the parts of saves that are still to be continued."
    }

    precondition {
      condition     = !(var.create_kms_key && var.kms_key_arn != null)
      error_message = "create_kms_key and kms_key_arn exclude each other: give a key, or have one made."
    }
  }
}

resource "aws_s3_bucket_public_access_block" "this" {
  bucket                  = aws_s3_bucket.this.bucket
  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

# No object has an owner or rights of its own: policies alone count.
resource "aws_s3_bucket_ownership_controls" "this" {
  bucket = aws_s3_bucket.this.bucket

  rule {
    object_ownership = "BucketOwnerEnforced"
  }
}

resource "aws_s3_bucket_versioning" "this" {
  bucket = aws_s3_bucket.this.bucket

  versioning_configuration {
    status = var.versioning ? "Enabled" : "Suspended"
  }
}

resource "aws_s3_bucket_server_side_encryption_configuration" "this" {
  bucket = aws_s3_bucket.this.bucket

  rule {
    # With a bucket key, S3 asks KMS once in a while and not for every object.
    bucket_key_enabled = local.encrypts_with_kms

    apply_server_side_encryption_by_default {
      sse_algorithm     = local.encrypts_with_kms ? "aws:kms" : "AES256"
      kms_master_key_id = local.kms_key_arn
    }
  }
}

resource "aws_s3_bucket_lifecycle_configuration" "this" {
  bucket = aws_s3_bucket.this.bucket

  rule {
    id     = "drop-unfinished-uploads"
    status = "Enabled"

    filter {
      prefix = local.folder
    }

    abort_incomplete_multipart_upload {
      days_after_initiation = var.abort_multipart_days
    }
  }

  rule {
    id     = "forget-old-versions"
    status = "Enabled"

    filter {
      prefix = local.folder
    }

    noncurrent_version_expiration {
      noncurrent_days = var.noncurrent_days
    }

    # What remains of a deletion when all versions are gone.
    expiration {
      expired_object_delete_marker = true
    }
  }

  dynamic "rule" {
    for_each = length(var.storage_class_transitions) > 0 ? [1] : []

    content {
      id     = "move-to-cheaper-classes"
      status = "Enabled"

      # Smaller ones are billed as if they had 128 KiB. S3 takes two conditions together, and one alone.
      filter {
        object_size_greater_than = local.folder == "" ? 131071 : null

        dynamic "and" {
          for_each = local.folder == "" ? [] : [local.folder]

          content {
            prefix                   = and.value
            object_size_greater_than = 131071
          }
        }
      }

      dynamic "transition" {
        for_each = var.storage_class_transitions

        content {
          days          = transition.value.days
          storage_class = transition.value.storage_class
        }
      }
    }
  }

  # S3 takes the rule about old versions only once it knows of versions.
  depends_on = [aws_s3_bucket_versioning.this]
}

resource "aws_s3_bucket_logging" "this" {
  count = var.access_log_bucket == null ? 0 : 1

  bucket        = aws_s3_bucket.this.bucket
  target_bucket = var.access_log_bucket
  target_prefix = "${var.bucket_name}/"
}
