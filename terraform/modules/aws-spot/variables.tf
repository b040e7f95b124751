variable "name" {
  description = "Name of the launch template, the Auto Scaling group and its machines."
  type        = string

  validation {
    condition     = can(regex("^[A-Za-z0-9][A-Za-z0-9._-]{2,99}$", var.name))
    error_message = "A name has 3 to 100 letters, digits, points, hyphens and underscores."
  }
}

variable "url" {
  description = "Where runs live, as in s3://bucket/prefix: the output url of aws-bucket."
  type        = string

  validation {
    condition     = can(regex("^s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[A-Za-z0-9._=-]+)*$", var.url))
    error_message = "It is s3://bucket or s3://bucket/prefix, without a slash at its end."
  }
}

variable "run_name" {
  description = "The run below url that the machine trains. Another training needs another one."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*$", var.run_name))
    error_message = "A run's name consists of letters, digits, points, hyphens and underscores, with slashes between them."
  }

  validation {
    condition = length(setintersection(split("/", var.run_name), [
      "..", ".", "aliases", "data", "journals", "launches", "leases", "manifests", "pins", "quarantine", "ranks", "writers"
    ])) == 0
    error_message = "No folder of a run's name may be called as those within runs, such as data or leases: the rights tell records by these."
  }
}

variable "instance_profile_name" {
  description = "Gives the machine its rights: the output trainer_instance_profile_name of aws-bucket."
  type        = string

  validation {
    condition     = can(regex("^[A-Za-z0-9+=,.@_-]{1,128}$", var.instance_profile_name))
    error_message = "It is the name of an instance profile, not its ARN."
  }
}

variable "ami_id" {
  description = "Image of Debian 12, Ubuntu 24.04 or newer, with cloud-init and, where the training needs them, the drivers of its GPU."
  type        = string

  validation {
    condition     = can(regex("^ami-[0-9a-f]{8,17}$", var.ami_id))
    error_message = "It is the id of an image, as in ami-0123456789abcdef0."
  }
}

variable "root_device_name" {
  description = "The image's root device, as in /dev/xvda or /dev/sda1; null asks EC2."
  type        = string
  default     = null

  validation {
    condition     = var.root_device_name == null || can(regex("^/dev/[a-z0-9]+$", var.root_device_name))
    error_message = "It is a path such as /dev/xvda."
  }
}

variable "instance_types" {
  description = "Kinds of machine that will do, all of the image's architecture. The more there are, the rarer is a wait for spot capacity."
  type        = list(string)
  nullable    = false

  validation {
    condition     = length(var.instance_types) > 0 && alltrue([for kind in var.instance_types : can(regex("^[a-z0-9-]+\\.[a-z0-9-]+$", kind))])
    error_message = "Name at least one, as in g6.xlarge."
  }

  validation {
    condition     = length(distinct(var.instance_types)) == length(var.instance_types)
    error_message = "Name each only once."
  }
}

variable "spot_max_price" {
  description = "Pay at most so many US$ an hour; null: up to the price on demand, and always the spot price of the hour."
  type        = string
  default     = null

  validation {
    condition     = var.spot_max_price == null || can(regex("^[0-9]+(\\.[0-9]+)?$", var.spot_max_price))
    error_message = "It is a number of US$ in quotes, as in \"0.35\"."
  }
}

variable "subnet_ids" {
  description = "Where machines may start. Name subnets of several zones."
  type        = list(string)

  validation {
    condition     = length(var.subnet_ids) > 0 && alltrue([for id in var.subnet_ids : can(regex("^subnet-[0-9a-f]+$", id))])
    error_message = "Name at least one subnet, as in subnet-0123456789abcdef0."
  }
}

variable "security_group_ids" {
  description = "Security groups of the machine. It needs to be reached by nobody."
  type        = list(string)

  validation {
    condition     = length(var.security_group_ids) > 0 && alltrue([for id in var.security_group_ids : can(regex("^sg-[0-9a-f]+$", id))])
    error_message = "Name at least one, as in sg-0123456789abcdef0; without one EC2 takes the network's default."
  }
}

variable "public_ip" {
  description = "Give the machine a public address. Needed where its subnets have neither a NAT gateway nor endpoints."
  type        = bool
  default     = false
  nullable    = false
}

variable "volume_gib" {
  description = "Size of the disk in GiB: system, environment, and three times a checkpoint."
  type        = number
  default     = 100
  nullable    = false

  validation {
    condition     = var.volume_gib >= 8 && var.volume_gib <= 16384 && floor(var.volume_gib) == var.volume_gib
    error_message = "A gp3 volume has 8 to 16384 GiB here."
  }
}

variable "volume_kms_key_arn" {
  description = "Key that encrypts the disk; null takes the account's key for EBS. Auto Scaling's own role needs a grant on one of yours."
  type        = string
  default     = null

  validation {
    condition     = var.volume_kms_key_arn == null || can(regex("^arn:aws[a-z-]*:kms:[a-z0-9-]+:[0-9]{12}:key/.+$", var.volume_kms_key_arn))
    error_message = "It is the ARN of a key, as in arn:aws:kms:eu-central-1:111122223333:key/…; an alias will not do."
  }
}

variable "desired_size" {
  description = "1: a machine trains. 0: none does, and nothing but storage costs."
  type        = number
  default     = 1
  nullable    = false

  validation {
    condition     = contains([0, 1], var.desired_size)
    error_message = "It is 0 or 1: a second machine would take the run over from the first."
  }
}

variable "capacity_rebalance" {
  description = "Start the next machine when EC2 holds this one to be at risk. false: only when it has ended, which loses less work and more time."
  type        = bool
  default     = true
  nullable    = false
}

variable "health_check_grace_s" {
  description = "How long a machine may take to start before Auto Scaling looks at its health, in seconds."
  type        = number
  default     = 300
  nullable    = false

  validation {
    condition     = var.health_check_grace_s >= 60 && var.health_check_grace_s <= 7200
    error_message = "It is 60 to 7200 seconds."
  }
}

variable "tags" {
  description = "Tags of everything here, machines and disks included."
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

# What the machine is told to do. Values stand in a file that systemd and a shell read, and in a unit: what either of them would take apart is refused.

variable "repository" {
  description = "Git repository of the training, which needs no key to be read."
  type        = string

  validation {
    condition     = can(regex("^https://[A-Za-z0-9._:/%+-]+$", var.repository))
    error_message = "It is an https:// address without a user or password: user data is no place for secrets."
  }
}

variable "train_options" {
  description = "TRAIN_OPTIONS: the training's own options, which command hands on."
  type        = string
  default     = "--output-dir /var/lib/train/checkpoints"
  nullable    = false

  validation {
    condition     = can(regex("^[A-Za-z0-9 ._~:/@%+=,-]*$", var.train_options))
    error_message = "It consists of letters, digits, spaces and ._~:/@%+=,- alone; the rest can stand in a file of the repository."
  }
}

variable "command" {
  description = "Starts the training, in the root of its repository. $TRAIN_OPTIONS becomes words."
  type        = string
  default     = "/srv/train/venv/bin/python train.py $TRAIN_OPTIONS"
  nullable    = false

  validation {
    condition     = can(regex("^/[A-Za-z0-9 ._~:/@+=,$-]*$", var.command))
    error_message = "It begins with the path of a program and consists of letters, digits, spaces and ._~:/@+=,$- alone."
  }
}

variable "checkpoint_dir" {
  description = "Where the training writes its checkpoints, and nothing else."
  type        = string
  default     = "/var/lib/train/checkpoints"
  nullable    = false

  validation {
    condition     = can(regex("^/var/lib/train(/[A-Za-z0-9_-][A-Za-z0-9._-]*)+$", var.checkpoint_dir)) && !can(regex("^/var/lib/train/journal(/|$)", var.checkpoint_dir))
    error_message = "It lies below /var/lib/train, where the training may write, and not in its folder journal, which is ckptsync's."
  }
}

variable "ask" {
  description = "How the training is asked for a last checkpoint, as in signal:USR1; null: not at all. A training that does not know the signal is ended by it."
  type        = string
  default     = null

  validation {
    condition     = var.ask == null || can(regex("^(signal:[A-Z0-9]+|file:/[A-Za-z0-9._/-]+)$", var.ask))
    error_message = "It is signal:NAME or file:/path."
  }
}

variable "environment" {
  description = "More environment of the training and of ckptsync, as in CKPTSYNC_AGENT_PORT. No secrets: they would stand in the state and in the user data."
  type        = map(string)
  default     = {}
  nullable    = false

  validation {
    condition     = alltrue([for name in keys(var.environment) : can(regex("^[A-Za-z_][A-Za-z0-9_]*$", name))])
    error_message = "A name consists of letters, digits and underscores."
  }

  validation {
    condition     = alltrue([for value in values(var.environment) : can(regex("^[A-Za-z0-9 ._~:/@%+=,-]*$", value))])
    error_message = "A value consists of letters, digits, spaces and ._~:/@%+=,- alone."
  }

  validation {
    condition     = length(setintersection(keys(var.environment), ["TRAIN_REPOSITORY", "TRAIN_OPTIONS", "CKPTSYNC_RUN", "CKPTSYNC_AGENT_ASK", "AWS_REGION"])) == 0
    error_message = "TRAIN_REPOSITORY, TRAIN_OPTIONS, CKPTSYNC_RUN, CKPTSYNC_AGENT_ASK and AWS_REGION are set by other variables."
  }

  validation {
    condition     = length(setintersection(keys(var.environment), ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"])) == 0
    error_message = "Keys do not belong here: the machine has the rights of its instance profile."
  }
}

variable "ckptsync_requirement" {
  description = "What pip installs as ckptsync, with its version where it is to stay: ckptsync[s3,agent]==1.0.0."
  type        = string
  default     = "ckptsync[s3,agent]"
  nullable    = false

  validation {
    condition     = can(regex("^[A-Za-z0-9 ._~:/@%+=<>!,;\\[\\]-]+$", var.ckptsync_requirement))
    error_message = "It is a requirement as pip takes it, without quotes, $ and backslashes."
  }
}

variable "drain_timeout_s" {
  description = "How long the last checkpoint may take at the end, in seconds."
  type        = number
  default     = 300
  nullable    = false

  validation {
    condition     = var.drain_timeout_s >= 10 && var.drain_timeout_s <= 3600 && floor(var.drain_timeout_s) == var.drain_timeout_s
    error_message = "It is 10 to 3600 seconds."
  }
}
