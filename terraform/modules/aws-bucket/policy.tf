# What the bucket refuses, whatever anybody's own policy allows. docs/design/format.md tells the keys.

locals {
  # Letters of keys are counted, so that a checkpoint's own folder named `manifests` or `data` is not taken for ours. No run comes to a
  # million writers, so that their numbers, counted down, begin with 99, and a checkpoint's own `writers/settings.json` is none.
  id   = "????????-????????????-????????"
  runs = ["${local.bucket_arn}/${local.folder}", "${local.bucket_arn}/${local.folder}*/"]

  commits = [for key in setproduct(local.runs, ["manifests/${local.id}.json", "writers/99??????.json"]) : join("", key)]

  # What is there for good, or for gc to delete.
  kept = [for key in setproduct(local.runs, [
    "manifests/${local.id}.json",
    "data/${local.id}/*",
    "writers/????????.json",
    "launches/*",
    "journals/${local.id}/journal*.json",
    "journals/${local.id}/condemned",
    "ranks/${local.id}/*",
    "aliases/*",
    "pins/${local.id}",
  ]) : join("", key)]

  # What whoever saves or restores puts for a while.
  marks = {
    leases     = "leases/${local.id}/????????"
    quarantine = "quarantine/${local.id}.json"
    adoptions  = "journals/${local.id}/adopted-by/${local.id}"
    doctor     = "doctor-????????????????/*"
  }

  condemnations = [for run in local.runs : "${run}journals/${local.id}/condemned"]
}

resource "aws_s3_bucket_policy" "this" {
  bucket = aws_s3_bucket.this.bucket

  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Sid       = "OnlyTLS"
        Effect    = "Deny"
        Principal = "*"
        Action    = "s3:*"
        Resource  = [local.bucket_arn, "${local.bucket_arn}/*"]
        Condition = { Bool = { "aws:SecureTransport" = "false" } }
      },
      {
        # A commit and a claim are created if absent, in one put, or not at all. Copies and uploads in parts carry no such
        # condition, and are refused with the rest.
        Sid       = "CommitsAreNeverOverwritten"
        Effect    = "Deny"
        Principal = "*"
        Action    = "s3:PutObject"
        Resource  = local.commits
        Condition = { Null = { "s3:if-none-match" = "true" } }
      },
      {
        Sid       = "TrainersDeleteNoCommits"
        Effect    = "Deny"
        Principal = "*"
        Action    = ["s3:DeleteObject", "s3:DeleteObjectVersion"]
        Resource  = local.kept
        Condition = { ArnEquals = { "aws:PrincipalArn" = [local.role_arns.trainer, local.role_arns.reader] } }
      },
      {
        Sid       = "OnlyGcCondemns"
        Effect    = "Deny"
        Principal = "*"
        Action    = "s3:PutObject"
        Resource  = local.condemnations
        Condition = { ArnEquals = { "aws:PrincipalArn" = [local.role_arns.trainer, local.role_arns.reader] } }
      },
    ]
  })

  # Both change how the bucket may be accessed, and S3 takes one such change at a time.
  depends_on = [aws_s3_bucket_public_access_block.this]
}
