resource "aws_kms_key" "this" {
  count = var.create_kms_key ? 1 : 0

  description             = "Checkpoints in ${var.bucket_name}"
  enable_key_rotation     = true
  deletion_window_in_days = 30
  tags                    = var.tags

  # The account's IAM policies decide, those of roles.tf among them.
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Sid       = "TheAccountDecides"
      Effect    = "Allow"
      Principal = { AWS = "arn:${local.partition}:iam::${local.account}:root" }
      Action    = "kms:*"
      Resource  = "*"
    }]
  })
}

resource "aws_kms_alias" "this" {
  count = var.create_kms_key ? 1 : 0

  name          = "alias/ckptsync-${var.bucket_name}"
  target_key_id = aws_kms_key.this[0].key_id
}
