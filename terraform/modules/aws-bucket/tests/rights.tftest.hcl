# Who may do what: the statements themselves. What they amount to is simulated, case by case, by tests/terraform/test_iam.py.

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
  prefix      = "runs"
}

run "policy" {
  assert {
    condition     = toset([for one in jsondecode(aws_s3_bucket_policy.this.policy).Statement : one.Effect]) == toset(["Deny"])
    error_message = "the bucket's policy lets somebody in"
  }

  assert {
    condition     = one([for one in jsondecode(aws_s3_bucket_policy.this.policy).Statement : one if one.Sid == "OnlyTLS"]).Condition == { Bool = { "aws:SecureTransport" = "false" } }
    error_message = "requests without TLS are not denied"
  }

  assert {
    condition     = one([for one in jsondecode(aws_s3_bucket_policy.this.policy).Statement : one if one.Sid == "OnlyTLS"]).Resource == ["arn:aws:s3:::team-checkpoints", "arn:aws:s3:::team-checkpoints/*"]
    error_message = "TLS is not asked for everywhere in the bucket"
  }

  assert {
    condition     = one([for one in jsondecode(aws_s3_bucket_policy.this.policy).Statement : one if one.Sid == "OnlyTLS"]).Action == "s3:*"
    error_message = "TLS is not asked for every action"
  }

  assert {
    condition     = alltrue([for one in jsondecode(aws_s3_bucket_policy.this.policy).Statement : one.Principal == "*"])
    error_message = "a denial does not hold for everybody"
  }

  assert {
    condition     = one([for one in jsondecode(aws_s3_bucket_policy.this.policy).Statement : one if one.Sid == "CommitsAreNeverOverwritten"]).Condition == { Null = { "s3:if-none-match" = "true" } }
    error_message = "a commit can be written without If-None-Match"
  }

  assert {
    condition     = [for key in ["Effect", "Principal", "Action"] : one([for one in jsondecode(aws_s3_bucket_policy.this.policy).Statement : one if one.Sid == "CommitsAreNeverOverwritten"])[key]] == ["Deny", "*", "s3:PutObject"]
    error_message = "somebody can write a commit without If-None-Match"
  }

  assert {
    condition     = [for key in ["Effect", "Principal", "Action", "Condition"] : one([for one in jsondecode(aws_s3_bucket_policy.this.policy).Statement : one if one.Sid == "OnlyGcCondemns"])[key]] == ["Deny", "*", "s3:PutObject", { ArnEquals = { "aws:PrincipalArn" = ["arn:aws:iam::123456789012:role/team-checkpoints-trainer", "arn:aws:iam::123456789012:role/team-checkpoints-reader"] } }]
    error_message = "others than gc can condemn attempts"
  }

  assert {
    condition     = contains(one([for one in jsondecode(aws_s3_bucket_policy.this.policy).Statement : one if one.Sid == "CommitsAreNeverOverwritten"]).Resource, "arn:aws:s3:::team-checkpoints/runs/*/manifests/????????-????????????-????????.json")
    error_message = "manifests are not protected"
  }

  assert {
    condition     = contains(one([for one in jsondecode(aws_s3_bucket_policy.this.policy).Statement : one if one.Sid == "CommitsAreNeverOverwritten"]).Resource, "arn:aws:s3:::team-checkpoints/runs/*/writers/99??????.json")
    error_message = "claims are not protected"
  }

  assert {
    condition     = contains(one([for one in jsondecode(aws_s3_bucket_policy.this.policy).Statement : one if one.Sid == "CommitsAreNeverOverwritten"]).Resource, "arn:aws:s3:::team-checkpoints/runs/manifests/????????-????????????-????????.json")
    error_message = "manifests of a run at the prefix itself are not protected"
  }

  assert {
    condition     = toset(one([for one in jsondecode(aws_s3_bucket_policy.this.policy).Statement : one if one.Sid == "TrainersDeleteNoCommits"]).Action) == toset(["s3:DeleteObject", "s3:DeleteObjectVersion"])
    error_message = "a trainer can delete objects or their versions"
  }

  assert {
    condition     = toset(one([for one in jsondecode(aws_s3_bucket_policy.this.policy).Statement : one if one.Sid == "TrainersDeleteNoCommits"]).Condition.ArnEquals["aws:PrincipalArn"]) == toset(["arn:aws:iam::123456789012:role/team-checkpoints-trainer", "arn:aws:iam::123456789012:role/team-checkpoints-reader"])
    error_message = "other roles than the trainer's and the reader's are kept from deleting"
  }

  assert {
    condition = alltrue([for key in ["manifests/????????-????????????-????????.json", "data/????????-????????????-????????/*"] :
    contains(one([for one in jsondecode(aws_s3_bucket_policy.this.policy).Statement : one if one.Sid == "TrainersDeleteNoCommits"]).Resource, "arn:aws:s3:::team-checkpoints/runs/*/${key}")])
    error_message = "a trainer can delete data or manifests"
  }

  assert {
    condition     = contains(one([for one in jsondecode(aws_s3_bucket_policy.this.policy).Statement : one if one.Sid == "OnlyGcCondemns"]).Resource, "arn:aws:s3:::team-checkpoints/runs/*/journals/????????-????????????-????????/condemned")
    error_message = "a trainer can condemn attempts"
  }
}

run "trainer" {
  assert {
    condition     = one([for one in jsondecode(aws_iam_role_policy.this["trainer"].policy).Statement : one if one.Sid == "ListRuns"]).Condition == { StringLike = { "s3:prefix" = "runs/*" } }
    error_message = "the trainer can list beyond the prefix"
  }

  assert {
    condition     = one([for one in jsondecode(aws_iam_role_policy.this["trainer"].policy).Statement : one if one.Sid == "SaveAndRestore"]).Resource == "arn:aws:s3:::team-checkpoints/runs/*"
    error_message = "the trainer can read or write beyond the prefix"
  }

  assert {
    condition     = toset(flatten([for one in jsondecode(aws_iam_role_policy.this["trainer"].policy).Statement : one.Action])) == toset(["s3:ListBucket", "s3:ListBucketMultipartUploads", "s3:GetObject", "s3:PutObject", "s3:ListMultipartUploadParts", "s3:AbortMultipartUpload", "s3:DeleteObject"])
    error_message = "the trainer has other rights than it needs"
  }

  assert {
    condition     = alltrue([for key in one([for one in jsondecode(aws_iam_role_policy.this["trainer"].policy).Statement : one if contains(flatten([one.Action]), "s3:DeleteObject")]).Resource : length(regexall("/(leases|quarantine|adopted-by|doctor-[?]+)/", key)) == 1])
    error_message = "the trainer can delete more than its marks"
  }

  assert {
    condition     = jsondecode(aws_iam_role.this["trainer"].assume_role_policy).Statement == [{ Effect = "Allow", Principal = { Service = "ec2.amazonaws.com" }, Action = ["sts:AssumeRole"] }]
    error_message = "others than EC2 can take the trainer's role"
  }

  assert {
    condition     = output.trainer_instance_profile_name == "team-checkpoints-trainer" && aws_iam_instance_profile.trainer[0].role == "team-checkpoints-trainer"
    error_message = "instances are not given the trainer's role"
  }

  assert {
    condition     = output.trainer_role_name == "team-checkpoints-trainer"
    error_message = "the trainer's role has another name"
  }
}

run "reader" {
  assert {
    condition     = toset(flatten([for one in jsondecode(aws_iam_role_policy.this["reader"].policy).Statement : one.Action])) == toset(["s3:ListBucket", "s3:GetObject", "s3:PutObject", "s3:DeleteObject"])
    error_message = "the reader has other rights than it needs"
  }

  assert {
    condition     = toset(flatten([for one in jsondecode(aws_iam_role_policy.this["reader"].policy).Statement : one.Resource if contains(flatten([one.Action]), "s3:PutObject")])) == toset(["arn:aws:s3:::team-checkpoints/runs/leases/????????-????????????-????????/????????", "arn:aws:s3:::team-checkpoints/runs/*/leases/????????-????????????-????????/????????"])
    error_message = "the reader can write more than its leases"
  }

  assert {
    condition     = jsondecode(aws_iam_role.this["reader"].assume_role_policy).Statement == [{ Effect = "Allow", Principal = { AWS = "arn:aws:iam::123456789012:root" }, Action = "sts:AssumeRole" }]
    error_message = "others than this account can take the reader's role"
  }
}

run "gc" {
  assert {
    condition     = toset(flatten([for one in jsondecode(aws_iam_role_policy.this["gc"].policy).Statement : one.Action])) == toset(["s3:ListBucket", "s3:ListBucketMultipartUploads", "s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:ListMultipartUploadParts", "s3:AbortMultipartUpload"])
    error_message = "gc has other rights than it needs"
  }

  assert {
    condition     = alltrue([for key in one([for one in jsondecode(aws_iam_role_policy.this["gc"].policy).Statement : one if one.Action == "s3:PutObject"]).Resource : endswith(key, "/condemned")])
    error_message = "gc can write more than condemnations"
  }

  assert {
    condition     = one([for one in jsondecode(aws_iam_role_policy.this["gc"].policy).Statement : one if one.Sid == "Collect"]).Resource == "arn:aws:s3:::team-checkpoints/runs/*"
    error_message = "gc can delete beyond the prefix"
  }

  assert {
    condition     = jsondecode(aws_iam_role.this["gc"].assume_role_policy).Statement == [{ Effect = "Allow", Principal = { AWS = "arn:aws:iam::123456789012:root" }, Action = "sts:AssumeRole" }]
    error_message = "others than this account can take gc's role"
  }
}

run "with_a_key" {
  variables {
    create_kms_key = true
  }

  assert {
    condition     = alltrue([for role in ["trainer", "reader", "gc"] : toset(one([for one in jsondecode(aws_iam_role_policy.this[role].policy).Statement : one if one.Sid == "UseTheKey"]).Action) == toset(["kms:Decrypt", "kms:GenerateDataKey"])])
    error_message = "a role lacks kms:Decrypt or kms:GenerateDataKey"
  }

  assert {
    condition     = alltrue([for role in ["trainer", "reader", "gc"] : one([for one in jsondecode(aws_iam_role_policy.this[role].policy).Statement : one if one.Sid == "UseTheKey"]).Resource == "arn:aws:kms:eu-central-1:123456789012:key/1234"])
    error_message = "a role can use other keys"
  }

  assert {
    condition     = alltrue([for role in ["trainer", "reader", "gc"] : one([for one in jsondecode(aws_iam_role_policy.this[role].policy).Statement : one if one.Sid == "UseTheKey"]).Condition == { StringLike = { "kms:ViaService" = "s3.*.amazonaws.com*" } }])
    error_message = "a role can use the key past S3"
  }
}

run "with_other_principals" {
  variables {
    principals = {
      trainer = {
        services = ["pods.eks.amazonaws.com"]
        oidc = [{
          provider_arn = "arn:aws:iam::123456789012:oidc-provider/oidc.eks.eu-central-1.amazonaws.com/id/A1"
          subjects     = ["system:serviceaccount:training:trainer"]
        }]
      }
      gc = { arns = ["arn:aws:iam::123456789012:role/nightly"] }
    }
    permissions_boundary_arn = "arn:aws:iam::123456789012:policy/boundary"
  }

  assert {
    condition     = one([for one in jsondecode(aws_iam_role.this["trainer"].assume_role_policy).Statement : one if can(one.Principal.Service)]).Action == ["sts:AssumeRole", "sts:TagSession"]
    error_message = "EKS Pod Identity cannot take the trainer's role"
  }

  assert {
    condition = one([for one in jsondecode(aws_iam_role.this["trainer"].assume_role_policy).Statement : one if can(one.Principal.Federated)]).Condition == {
      StringEquals = { "oidc.eks.eu-central-1.amazonaws.com/id/A1:aud" = "sts.amazonaws.com" }
      StringLike   = { "oidc.eks.eu-central-1.amazonaws.com/id/A1:sub" = ["system:serviceaccount:training:trainer"] }
    }
    error_message = "other service accounts than the one that was named can take the trainer's role"
  }

  assert {
    condition     = length(jsondecode(aws_iam_role.this["trainer"].assume_role_policy).Statement) == 2
    error_message = "others than those who were named can take the trainer's role"
  }

  assert {
    condition     = jsondecode(aws_iam_role.this["gc"].assume_role_policy).Statement == [{ Effect = "Allow", Principal = { AWS = ["arn:aws:iam::123456789012:role/nightly"] }, Action = "sts:AssumeRole" }]
    error_message = "others than the role that was named can take gc's role"
  }

  assert {
    condition     = output.trainer_instance_profile_name == null
    error_message = "there is an instance profile, and no instances"
  }

  assert {
    condition     = alltrue([for role in ["trainer", "reader", "gc"] : aws_iam_role.this[role].permissions_boundary == "arn:aws:iam::123456789012:policy/boundary"])
    error_message = "a role has no boundary"
  }
}

run "of_the_whole_bucket" {
  variables {
    prefix = ""
  }

  assert {
    condition     = !can(one([for one in jsondecode(aws_iam_role_policy.this["trainer"].policy).Statement : one if one.Sid == "ListRuns"]).Condition)
    error_message = "the trainer cannot list the whole bucket"
  }

  assert {
    condition     = toset(one([for one in jsondecode(aws_s3_bucket_policy.this.policy).Statement : one if one.Sid == "CommitsAreNeverOverwritten"]).Resource) == toset([for key in ["manifests/????????-????????????-????????.json", "*/manifests/????????-????????????-????????.json", "writers/99??????.json", "*/writers/99??????.json"] : "arn:aws:s3:::team-checkpoints/${key}"])
    error_message = "commits of the whole bucket are not protected"
  }
}
