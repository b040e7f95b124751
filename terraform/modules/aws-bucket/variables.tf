variable "bucket_name" {
  description = "Name of the bucket, unique among all of AWS. Roles are named after its first 56 letters."
  type        = string

  validation {
    condition     = can(regex("^[a-z0-9][a-z0-9-]{1,61}[a-z0-9]$", var.bucket_name)) && !can(regex("^(xn--|sthree-|amzn-s3-demo-)|(-s3alias|--ol-s3|--x-s3|--table-s3)$", var.bucket_name))
    error_message = "bucket_name must be 3 to 63 lower-case letters, digits and hyphens, begin and end with a letter or digit, and not be one that S3 keeps for itself, as xn--… or …-s3alias."
  }
}

variable "prefix" {
  description = "Folder of the bucket that holds the runs, such as `team/runs`; the roles may do nothing outside it. Empty stands for the whole bucket."
  type        = string
  default     = ""
  nullable    = false

  validation {
    condition     = var.prefix == "" || can(regex("^[A-Za-z0-9_.=-]+(/[A-Za-z0-9_.=-]+)*$", var.prefix)) && length(setintersection(split("/", var.prefix), [".", ".."])) == 0
    error_message = "prefix must be folders of letters, digits and _ . = - with / between them, without / at its ends."
  }
}

variable "versioning" {
  description = "Whether S3 keeps what is overwritten or deleted for `noncurrent_days`. It costs that storage: where checkpoints come and go all day, more than those that are kept. It lets a mistaken `gc` be undone."
  type        = bool
  default     = true
  nullable    = false
}

variable "noncurrent_days" {
  description = "Days after which overwritten and deleted versions are gone for good; S3 adds the time until the next midnight UTC. It also cleans up where versioning is no longer on."
  type        = number
  default     = 1
  nullable    = false

  validation {
    condition     = var.noncurrent_days >= 1 && floor(var.noncurrent_days) == var.noncurrent_days
    error_message = "noncurrent_days must be a whole number of days, 1 or more."
  }
}

variable "resume_window_days" {
  description = "The longest time, in days, after which a killed save may still be continued where it stopped."
  type        = number
  default     = 3
  nullable    = false

  validation {
    condition     = var.resume_window_days >= 1
    error_message = "resume_window_days must be 1 or more: ckptsync gc itself waits for a day before it takes an attempt for dead."
  }
}

variable "abort_multipart_days" {
  description = "Days after which S3 drops unfinished uploads with their parts, which cost money and are not listed. Longer than `resume_window_days`."
  type        = number
  default     = 7
  nullable    = false

  validation {
    condition     = var.abort_multipart_days >= 2 && floor(var.abort_multipart_days) == var.abort_multipart_days
    error_message = "abort_multipart_days must be a whole number of days, 2 or more."
  }
}

variable "storage_class_transitions" {
  description = "After how many days objects of 128 KiB and more move to a cheaper class; none by default. Archives are refused, because a restore cannot read them at once."
  type = list(object({
    days          = number
    storage_class = string
  }))
  default  = []
  nullable = false

  validation {
    condition = alltrue([
      for one in var.storage_class_transitions : contains(["STANDARD_IA", "ONEZONE_IA", "INTELLIGENT_TIERING", "GLACIER_IR"], one.storage_class)
    ])
    error_message = "storage_class_transitions must name STANDARD_IA, ONEZONE_IA, INTELLIGENT_TIERING or GLACIER_IR."
  }

  validation {
    condition = alltrue([
      for one in var.storage_class_transitions : floor(one.days) == one.days && one.days >= (endswith(one.storage_class, "_IA") ? 30 : 0)
    ])
    error_message = "storage_class_transitions must have whole days, and leave objects for 30 of them before STANDARD_IA or ONEZONE_IA: S3 takes no less."
  }

  validation {
    condition = alltrue([
      for number, one in var.storage_class_transitions : number == 0 ? true : (
        one.days > var.storage_class_transitions[max(number, 1) - 1].days + (endswith(var.storage_class_transitions[max(number, 1) - 1].storage_class, "_IA") ? 29 : 0)
        && try(index(["STANDARD_IA", "INTELLIGENT_TIERING", "ONEZONE_IA", "GLACIER_IR"], one.storage_class), 4) > try(index(["STANDARD_IA", "INTELLIGENT_TIERING", "ONEZONE_IA", "GLACIER_IR"], var.storage_class_transitions[max(number, 1) - 1].storage_class), -1)
      )
    ])
    error_message = "storage_class_transitions must come in their order: each on a later day, or 30 days later than STANDARD_IA, for which S3 bills 30 days, from STANDARD_IA by INTELLIGENT_TIERING to ONEZONE_IA or GLACIER_IR. S3 moves nothing back."
  }

  validation {
    condition     = length(setintersection(["ONEZONE_IA", "GLACIER_IR"], var.storage_class_transitions[*].storage_class)) < 2
    error_message = "storage_class_transitions must end with ONEZONE_IA or with GLACIER_IR: S3 moves nothing from the one to the other."
  }
}

variable "create_kms_key" {
  description = "Whether to make a KMS key for this bucket. Without any, S3's own keys encrypt it (SSE-S3)."
  type        = bool
  default     = false
  nullable    = false
}

variable "kms_key_arn" {
  description = "ARN of a KMS key that exists, in the bucket's region. Its own policy must let this account's IAM policies count."
  type        = string
  default     = null

  validation {
    condition     = var.kms_key_arn == null || can(regex("^arn:aws[a-z-]*:kms:[a-z0-9-]+:[0-9]{12}:key/[A-Za-z0-9-]+$", var.kms_key_arn))
    error_message = "kms_key_arn must be the ARN of a key, arn:aws:kms:REGION:ACCOUNT:key/ID; an alias is not enough for a role's policy."
  }
}

variable "access_log_bucket" {
  description = "Name of a bucket that receives S3's access logs; it must let S3 deliver them. Null logs nothing."
  type        = string
  default     = null

  validation {
    condition     = var.access_log_bucket == null || var.access_log_bucket != var.bucket_name
    error_message = "access_log_bucket must be another bucket: logs of a bucket in itself never end."
  }

  validation {
    condition     = var.access_log_bucket == null || can(regex("^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$", var.access_log_bucket))
    error_message = "access_log_bucket must be the name of a bucket, not its ARN or its address."
  }
}

variable "principals" {
  description = "Who may take the role of the `trainer`, which saves and restores, the `reader`, which only restores, and `gc`, which deletes (`gc`, `rm`, `unpin`): services, ARNs, or service accounts of Kubernetes by OIDC. A trainer that is not named is EC2. Any other role that names nobody is for whom IAM lets in this account."
  type = map(object({
    services = optional(list(string), [])
    arns     = optional(list(string), [])
    oidc = optional(list(object({
      provider_arn = string
      subjects     = list(string)
    })), [])
  }))
  default  = {}
  nullable = false

  validation {
    condition     = length(setsubtract(keys(var.principals), ["trainer", "reader", "gc"])) == 0
    error_message = "principals must be those of trainer, reader and gc; there are no other roles."
  }

  validation {
    condition = alltrue(flatten([
      for role in values(var.principals) : [for one in role.services : can(regex("^[a-z0-9.-]+\\.amazonaws\\.com(\\.cn)?$", one))]
    ]))
    error_message = "services must be names such as ec2.amazonaws.com or pods.eks.amazonaws.com."
  }

  validation {
    condition = alltrue(flatten([
      for role in values(var.principals) : [for one in role.arns : can(regex("^arn:aws[a-z-]*:(iam::[0-9]{12}:(root|(role|user)/([^*?\\s]*/)?[\\w+=,.@-]+)|sts::[0-9]{12}:(assumed-role/[\\w+=,.@-]+|federated-user)/[\\w+=,.@-]+)$", one))]
    ]))
    error_message = "arns must be whole ARNs of accounts, roles or users, without wildcards."
  }

  validation {
    condition = alltrue(flatten([
      for role in values(var.principals) : [
        for one in role.oidc : [
          can(regex("^arn:aws[a-z-]*:iam::[0-9]{12}:oidc-provider/.+$", one.provider_arn)),
          length(one.subjects) > 0,
          [for subject in one.subjects : can(regex("^system:serviceaccount:[^:*?]+:[^:]+$", subject))],
        ]
      ]
    ]))
    error_message = "oidc must hold ARNs of OIDC providers, and subjects such as system:serviceaccount:NAMESPACE:NAME."
  }
}

variable "permissions_boundary_arn" {
  description = "ARN of a policy that bounds what the roles may do, where an organisation asks for one."
  type        = string
  default     = null

  validation {
    condition     = var.permissions_boundary_arn == null || can(regex("^arn:aws[a-z-]*:iam::([0-9]{12}|aws):policy/.+$", var.permissions_boundary_arn))
    error_message = "permissions_boundary_arn must be the ARN of a policy, arn:aws:iam::ACCOUNT:policy/NAME."
  }
}

variable "force_destroy" {
  description = "Whether `terraform destroy` may delete a bucket that still holds checkpoints. Leave it off for anything you would miss."
  type        = bool
  default     = false
  nullable    = false
}

variable "tags" {
  description = "Tags of everything that can bear them."
  type        = map(string)
  default     = {}
  nullable    = false

  validation {
    condition = length(var.tags) < 50 && alltrue([
      for name, value in var.tags : can(regex("^[\\p{L}\\p{Z}\\p{N}_.:/=+@-]{1,128}$", name)) && can(regex("^[\\p{L}\\p{Z}\\p{N}_.:/=+@-]{0,256}$", value))
    ])
    error_message = "tags must be fewer than 50, with letters, digits, spaces and _ . : / = + - @ alone, 1 to 128 in a name and at most 256 in a value."
  }

  validation {
    condition     = !anytrue([for name in keys(var.tags) : startswith(lower(name), "aws:")])
    error_message = "tags must not begin with aws:, which AWS keeps for itself."
  }
}
