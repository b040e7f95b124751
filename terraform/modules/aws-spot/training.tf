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
