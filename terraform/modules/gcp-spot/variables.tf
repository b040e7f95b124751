variable "project" {
  description = "Id of the project that the machine belongs to."
  type        = string

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{4,28}[a-z0-9]$", var.project))
    error_message = "It is a project id: 6 to 30 lower-case letters, digits and hyphens, a letter first."
  }
}

variable "region" {
  description = "Where the machine may start, best where the bucket is."
  type        = string

  validation {
    condition     = can(regex("^[a-z]+-[a-z]+[0-9]+$", var.region))
    error_message = "It is a region, as in europe-west4."
  }
}

variable "zones" {
  description = "Zones of the region that will do, as those that have the GPU; empty: those that Compute Engine takes."
  type        = list(string)
  default     = []
  nullable    = false

  validation {
    condition     = alltrue([for zone in var.zones : can(regex("^[a-z]+-[a-z]+[0-9]+-[a-z]$", zone))])
    error_message = "They are written as in europe-west4-a."
  }

  validation {
    condition     = alltrue([for zone in var.zones : startswith(zone, "${var.region}-")])
    error_message = "They are zones of region."
  }
}

variable "name" {
  description = "Name of the instance template, the managed instance group and its machine."
  type        = string

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{2,34}[a-z0-9]$", var.name))
    error_message = "A name has 4 to 36 lower-case letters, digits and hyphens, a letter first and no hyphen last."
  }
}

variable "url" {
  description = "Where runs live, as in gs://bucket/prefix: the output url of gcp-bucket."
  type        = string

  validation {
    condition     = can(regex("^gs://[a-z0-9][a-z0-9._-]{1,61}[a-z0-9](/[A-Za-z0-9._-]+)*$", var.url))
    error_message = "It is gs://bucket or gs://bucket/prefix, without a slash at its end."
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

variable "service_account_email" {
  description = "Gives the machine its rights: the output trainer_service_account_email of gcp-bucket."
  type        = string

  validation {
    condition     = can(regex("^[a-z0-9-]+@[a-z0-9.-]+\\.gserviceaccount\\.com$", var.service_account_email)) && !endswith(var.service_account_email, "@developer.gserviceaccount.com")
    error_message = "It is the address of a service account, and not of Compute Engine's own, which may often change everything in the project."
  }
}

variable "scopes" {
  description = "What the service account's rights are cut down to on this machine."
  type        = list(string)
  default = [
    "https://www.googleapis.com/auth/devstorage.read_write",
    "https://www.googleapis.com/auth/logging.write",
    "https://www.googleapis.com/auth/monitoring.write",
  ]
  nullable = false

  validation {
    condition     = length(setintersection(var.scopes, ["cloud-platform", "https://www.googleapis.com/auth/cloud-platform", "storage-rw", "https://www.googleapis.com/auth/devstorage.read_write", "storage-full", "https://www.googleapis.com/auth/devstorage.full_control"])) > 0
    error_message = "One of them must let the machine write to Cloud Storage, as https://www.googleapis.com/auth/devstorage.read_write."
  }
}

variable "image" {
  description = "Image or family of Debian 12, Ubuntu 24.04 or newer, and, where the training needs them, with the drivers of its GPU."
  type        = string
  default     = "projects/debian-cloud/global/images/family/debian-12"
  nullable    = false

  validation {
    condition     = can(regex("^(https://[a-z.]+/compute/v1/)?projects/[a-z0-9.:-]+/global/images/(family/)?[a-z0-9-]+$", var.image))
    error_message = "It is projects/…/global/images/…, or projects/…/global/images/family/…."
  }
}

variable "machine_types" {
  description = "Kinds of machine that will do, all of the image's architecture, the best first. The more there are, the rarer is a wait for spot capacity."
  type        = list(string)

  validation {
    condition     = length(var.machine_types) > 0 && alltrue([for kind in var.machine_types : can(regex("^[a-z][a-z0-9]*-[a-z0-9-]+$", kind))])
    error_message = "Name at least one, as in g2-standard-8."
  }

  validation {
    condition     = length(distinct(var.machine_types)) == length(var.machine_types)
    error_message = "Name each only once."
  }
}

variable "gpu" {
  description = "GPUs for machines whose type does not bring them, as N1; null: none."
  type = object({
    type  = string
    count = number
  })
  default = null

  validation {
    condition     = var.gpu == null ? true : can(regex("^[a-z0-9-]+$", var.gpu.type)) && contains([1, 2, 4, 8, 16], var.gpu.count)
    error_message = "It is a type, as in nvidia-tesla-t4, and 1, 2, 4, 8 or 16 of them."
  }
}

variable "subnetwork" {
  description = "Subnetwork of the machine, as in projects/…/regions/…/subnetworks/…. It needs to be reached by nobody."
  type        = string

  validation {
    condition     = can(regex("^(https://[a-z.]+/compute/v1/)?projects/[a-z0-9.:-]+/regions/[a-z0-9-]+/subnetworks/[a-z0-9-]+$", var.subnetwork))
    error_message = "It is projects/…/regions/…/subnetworks/…, as a subnetwork's id and self_link are."
  }
}

variable "public_ip" {
  description = "Give the machine a public address. Needed where its subnetwork has no Cloud NAT, because the training is installed from the Internet."
  type        = bool
  default     = false
  nullable    = false
}

variable "network_tags" {
  description = "Tags by which firewall rules know the machine."
  type        = list(string)
  default     = []
  nullable    = false

  validation {
    condition     = alltrue([for tag in var.network_tags : can(regex("^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$", tag))])
    error_message = "A tag has 1 to 63 lower-case letters, digits and hyphens, a letter first and no hyphen last."
  }
}

variable "volume_gib" {
  description = "Size of the disk in GiB: system, environment, and three times a checkpoint."
  type        = number
  default     = 100
  nullable    = false

  validation {
    condition     = var.volume_gib >= 10 && var.volume_gib <= 65536 && floor(var.volume_gib) == var.volume_gib
    error_message = "A disk has 10 to 65536 GiB."
  }
}

variable "volume_type" {
  description = "Kind of disk, as the machine types take it."
  type        = string
  default     = "pd-balanced"
  nullable    = false

  validation {
    condition     = contains(["pd-standard", "pd-balanced", "pd-ssd", "hyperdisk-balanced"], var.volume_type)
    error_message = "It is pd-standard, pd-balanced, pd-ssd or hyperdisk-balanced."
  }
}

variable "volume_kms_key_name" {
  description = "Key of Cloud KMS that encrypts the disk; null for Google's own. Compute Engine's service agent needs the right to use it."
  type        = string
  default     = null

  validation {
    condition     = var.volume_kms_key_name == null || can(regex("^projects/[^/]+/locations/[^/]+/keyRings/[^/]+/cryptoKeys/[^/]+$", var.volume_kms_key_name))
    error_message = "It is projects/…/locations/…/keyRings/…/cryptoKeys/…, without a version."
  }
}

variable "secure_boot" {
  description = "Start nothing but what is signed. Drivers that were built on the machine are not; turn it off where your GPU needs such ones."
  type        = bool
  default     = true
  nullable    = false
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

variable "preemption_notice_s" {
  description = "How long before its shutdown a machine is told that it will be preempted, in seconds: time for a last checkpoint. 0: not before the shutdown itself, which takes 30 seconds at most."
  type        = number
  default     = 120
  nullable    = false

  validation {
    condition     = contains([0, 120], var.preemption_notice_s)
    error_message = "It is 120 seconds, or 0."
  }
}

variable "health_check_id" {
  description = "Health check by which a machine is replaced that runs and is ill; null: only one that has ended is. The training's unit starts a failed training again by itself."
  type        = string
  default     = null
}

variable "health_check_grace_s" {
  description = "How long a machine may take to install and restore before its health is looked at, in seconds."
  type        = number
  default     = 1800
  nullable    = false

  validation {
    condition     = var.health_check_grace_s >= 300 && var.health_check_grace_s <= 7200
    error_message = "It is 300 to 7200 seconds: sooner, and a machine that still restores is replaced by one that begins anew."
  }
}

variable "labels" {
  description = "Labels of everything here, machine and disk included."
  type        = map(string)
  default     = {}
  nullable    = false

  validation {
    condition = length(var.labels) <= 64 && alltrue([
      for name, value in var.labels : can(regex("^[\\p{Ll}\\p{Lo}][\\p{Ll}\\p{Lo}\\p{N}_-]{0,62}$", name)) && can(regex("^[\\p{Ll}\\p{Lo}\\p{N}_-]{0,63}$", value))
    ])
    error_message = "labels must be at most 64, with at most 63 lower-case letters, digits, underscores and hyphens in a name, a letter first, and in a value."
  }
}

# What the machine is told to do. Values stand in a file that systemd and a shell read, and in a unit: what either of them would take apart is refused.

variable "repository" {
  description = "Git repository of the training, which needs no key to be read."
  type        = string

  validation {
    condition     = can(regex("^https://[A-Za-z0-9._:/%+-]+$", var.repository))
    error_message = "It is an https:// address without a user or password: metadata is no place for secrets."
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
  description = "More environment of the training and of ckptsync, as in CKPTSYNC_AGENT_PORT. No secrets: they would stand in the state and in the metadata."
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
    condition     = length(setintersection(keys(var.environment), ["TRAIN_REPOSITORY", "TRAIN_OPTIONS", "CKPTSYNC_RUN", "CKPTSYNC_AGENT_ASK"])) == 0
    error_message = "TRAIN_REPOSITORY, TRAIN_OPTIONS, CKPTSYNC_RUN and CKPTSYNC_AGENT_ASK are set by other variables."
  }

  validation {
    condition     = length(setintersection(keys(var.environment), ["GOOGLE_APPLICATION_CREDENTIALS", "CLOUDSDK_AUTH_ACCESS_TOKEN"])) == 0
    error_message = "Keys do not belong here: the machine has the rights of its service account."
  }
}

variable "ckptsync_requirement" {
  description = "What pip installs as ckptsync, with its version where it is to stay: ckptsync[gcs,agent]==1.0.0."
  type        = string
  default     = "ckptsync[gcs,agent]"
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
