# Three roles, each with what its verbs need and no more; README.md tells which verb needs which.

locals {
  nobody = { services = [], arns = [], oidc = [] }
  principals = {
    trainer = lookup(var.principals, "trainer", merge(local.nobody, { services = ["ec2.amazonaws.com"] }))
    reader  = lookup(var.principals, "reader", local.nobody)
    gc      = lookup(var.principals, "gc", local.nobody)
  }
  role_names = { for role in keys(local.principals) : role => "${substr(var.bucket_name, 0, 56)}-${role}" }
  role_arns  = { for role, name in local.role_names : role => "arn:${local.partition}:iam::${local.account}:role/${name}" }

  objects = "${local.bucket_arn}/${local.folder}*"

  lists_runs = merge(
    {
      Sid      = "ListRuns"
      Effect   = "Allow"
      Action   = "s3:ListBucket"
      Resource = local.bucket_arn
    },
    # S3 takes the key of an object that is not there for such a prefix, when it decides between 404 and 403 (Ceph does as S3 here: #68577).
    [for condition in [{ StringLike = { "s3:prefix" = "${local.folder}*" } }] : { Condition = condition } if local.folder != ""]...
  )
  lists_uploads = { # S3 knows no condition that narrows this to a prefix
    Sid      = "ListUnfinishedUploads"
    Effect   = "Allow"
    Action   = "s3:ListBucketMultipartUploads"
    Resource = local.bucket_arn
  }
  uses_key = {
    Sid       = "UseTheKey"
    Effect    = "Allow"
    Action    = ["kms:Decrypt", "kms:GenerateDataKey"]
    Resource  = local.kms_key_arn
    Condition = { StringLike = { "kms:ViaService" = "s3.*.amazonaws.com*" } }
  }

  statements = {
    trainer = [
      local.lists_runs,
      local.lists_uploads,
      {
        Sid      = "SaveAndRestore"
        Effect   = "Allow"
        Action   = ["s3:GetObject", "s3:PutObject", "s3:ListMultipartUploadParts", "s3:AbortMultipartUpload"]
        Resource = local.objects
      },
      {
        Sid      = "TakeBackMarks"
        Effect   = "Allow"
        Action   = "s3:DeleteObject"
        Resource = [for key in setproduct(local.runs, values(local.marks)) : join("", key)]
      },
    ]
    reader = [
      local.lists_runs,
      {
        Sid      = "Restore"
        Effect   = "Allow"
        Action   = "s3:GetObject"
        Resource = local.objects
      },
      {
        # So that gc spares what is being read.
        Sid      = "SayWhatIsBeingRead"
        Effect   = "Allow"
        Action   = ["s3:PutObject", "s3:DeleteObject"]
        Resource = [for run in local.runs : "${run}${local.marks.leases}"]
      },
    ]
    gc = [
      local.lists_runs,
      local.lists_uploads,
      {
        Sid      = "Collect"
        Effect   = "Allow"
        Action   = ["s3:GetObject", "s3:DeleteObject", "s3:ListMultipartUploadParts", "s3:AbortMultipartUpload"]
        Resource = local.objects
      },
      {
        # What is to go is marked first, so that nobody continues it.
        Sid      = "Condemn"
        Effect   = "Allow"
        Action   = "s3:PutObject"
        Resource = local.condemnations
      },
    ]
  }
}

resource "aws_iam_role" "this" {
  for_each = local.principals

  name                 = local.role_names[each.key]
  description          = "ckptsync ${each.key} of ${local.url}"
  permissions_boundary = var.permissions_boundary_arn
  tags                 = var.tags

  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = concat(
      [for arns in [each.value.arns] : {
        Effect    = "Allow"
        Principal = { AWS = arns }
        Action    = "sts:AssumeRole"
      } if length(arns) > 0],
      [for service in each.value.services : {
        Effect    = "Allow"
        Principal = { Service = service }
        # EKS Pod Identity tags its sessions.
        Action = service == "pods.eks.amazonaws.com" ? ["sts:AssumeRole", "sts:TagSession"] : ["sts:AssumeRole"]
      }],
      [for provider in each.value.oidc : {
        Effect    = "Allow"
        Principal = { Federated = provider.provider_arn }
        Action    = "sts:AssumeRoleWithWebIdentity"
        Condition = {
          StringEquals = { "${split("oidc-provider/", provider.provider_arn)[1]}:aud" = "sts.amazonaws.com" }
          StringLike   = { "${split("oidc-provider/", provider.provider_arn)[1]}:sub" = provider.subjects }
        }
      }],
      # Nobody was named: whom the account's own policies let.
      [for account in [local.account] : {
        Effect    = "Allow"
        Principal = { AWS = "arn:${local.partition}:iam::${account}:root" }
        Action    = "sts:AssumeRole"
      } if length(concat(each.value.arns, each.value.services, each.value.oidc[*].provider_arn)) == 0],
    )
  })
}

resource "aws_iam_role_policy" "this" {
  for_each = local.principals

  name = "ckptsync-${each.key}"
  role = aws_iam_role.this[each.key].name

  policy = jsonencode({
    Version   = "2012-10-17"
    Statement = concat(local.statements[each.key], [for one in [local.uses_key] : one if local.encrypts_with_kms])
  })
}

resource "aws_iam_instance_profile" "trainer" {
  count = contains(local.principals.trainer.services, "ec2.amazonaws.com") ? 1 : 0

  name = local.role_names.trainer
  role = aws_iam_role.this["trainer"].name
  tags = var.tags
}
