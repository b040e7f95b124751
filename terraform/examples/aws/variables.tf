variable "region" {
  description = "Region of AWS for the bucket and the machine: traffic between the two costs nothing within one."
  type        = string
  default     = "eu-central-1"
  nullable    = false

  validation {
    condition     = can(regex("^[a-z]{2}(-[a-z]+)+-[0-9]$", var.region))
    error_message = "It is the name of a region, as in eu-central-1."
  }
}

variable "bucket_name" {
  description = "Name of the bucket that is made, unique among all of AWS."
  type        = string

  validation {
    condition     = !startswith(var.bucket_name, "sg-")
    error_message = "bucket_name must not begin with sg-: the security group is named after it."
  }
}

variable "run_name" {
  description = "The run that is trained. Another training needs another one."
  type        = string
  default     = "first-run"
  nullable    = false
}

variable "repository" {
  description = "Git repository of the training, which needs no key to be read, with a train.py in its root."
  type        = string
}

variable "ckptsync_requirement" {
  description = "What pip installs as ckptsync on the machine; ckptsync[s3,agent]==1.0.0 where the index that you install from has it."
  type        = string
  default     = "ckptsync[s3,agent] @ git+https://github.com/ckptsync/ckptsync"
  nullable    = false
}

variable "train_options" {
  description = "Options of train.py. It must write its checkpoints to /var/lib/train/checkpoints, and resume from the newest there."
  type        = string
  default     = "--output-dir /var/lib/train/checkpoints"
}

variable "ami_id" {
  description = "Image of the machine, with the drivers of its GPU where it has one; null takes the newest Debian 12, which has none."
  type        = string
  default     = null
}

variable "instance_types" {
  description = "Kinds of machine that will do."
  type        = list(string)
  default     = ["m7i.large", "m7a.large", "m6i.large", "m6a.large"]
  nullable    = false
}

variable "subnet_ids" {
  description = "Where the machine may start; null takes the subnets of the region's default network."
  type        = list(string)
  default     = null

  validation {
    condition     = var.subnet_ids == null || try(length(var.subnet_ids), 0) > 0
    error_message = "Name at least one subnet, as in subnet-0123456789abcdef0, or none at all: null."
  }
}

variable "public_ip" {
  description = "Give the machine a public address, by which it reaches its packages; nobody reaches it. The default network needs that."
  type        = bool
  default     = true
  nullable    = false
}

variable "desired_size" {
  description = "1: a machine trains. 0: none does, and nothing but storage costs."
  type        = number
  default     = 1
}

variable "source_profile" {
  description = "Profile of the AWS CLI by which you take the roles, in the commands of the outputs."
  type        = string
  default     = "default"
  nullable    = false

  validation {
    condition     = can(regex("^[A-Za-z0-9_.@-]+$", var.source_profile))
    error_message = "It is the name of a profile, of letters, digits and _ . @ - alone."
  }
}

variable "create_kms_key" {
  description = "Encrypt the bucket with a key of its own, which costs, instead of S3's."
  type        = bool
  default     = false
}

variable "versioning" {
  description = "Keep for one to two days what is deleted or overwritten, which costs that storage and lets a mistaken gc be undone."
  type        = bool
  default     = true
  nullable    = false
}

variable "force_destroy" {
  description = "Let terraform destroy delete the bucket with every checkpoint in it. Set it, apply, and only then destroy."
  type        = bool
  default     = false
}
