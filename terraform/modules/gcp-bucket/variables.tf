variable "project" {
  description = "Id of the project that the bucket, the roles and the service accounts belong to."
  type        = string

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{4,28}[a-z0-9]$", var.project))
    error_message = "project must be a project id: 6 to 30 lower-case letters, digits and hyphens, a letter first."
  }
}

variable "bucket_name" {
  description = "Name of the bucket, unique among all of Google Cloud."
  type        = string

  validation {
    condition     = can(regex("^[a-z0-9][a-z0-9_-]{1,61}[a-z0-9]$", var.bucket_name)) && !startswith(var.bucket_name, "goog") && !strcontains(var.bucket_name, "google")
    error_message = "bucket_name must be 3 to 63 lower-case letters, digits, hyphens and underscores, begin and end with a letter or digit, neither begin with goog nor contain google."
  }
}

variable "location" {
  description = "Where the bucket is: a region such as europe-west4, best that of the machines, or a multi-region such as EU."
  type        = string

  validation {
    condition     = can(regex("^[A-Za-z]+(-[a-z]+[0-9]+)?$|^[A-Z]+[0-9]$", var.location))
    error_message = "location must be a region such as europe-west4, a dual-region such as EUR4, or a multi-region such as EU."
  }
}

variable "prefix" {
  description = "Where runs lie in the bucket, without slashes at its ends; empty for the whole bucket. The rights reach no further."
  type        = string
  default     = ""
  nullable    = false

  validation {
    condition     = var.prefix == "" || can(regex("^[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*$", var.prefix)) && length(setintersection(split("/", var.prefix), [".", ".."])) == 0
    error_message = "prefix must be names of letters, digits, dots, hyphens and underscores with a slash between them, none at the ends, and none of them . or .. alone."
  }

  validation {
    condition = length(setintersection(split("/", var.prefix), [
      "manifests", "data", "writers", "launches", "journals", "ranks", "pins", "aliases", "leases", "quarantine",
    ])) == 0
    error_message = "prefix must not hold a name that ckptsync gives to folders of a run, such as data or leases: conditions tell records by those."
  }
}

variable "storage_class" {
  description = "Storage class of new objects. The colder ones bill for a month or more of each object, however soon it is deleted."
  type        = string
  default     = "STANDARD"

  validation {
    condition     = contains(["STANDARD", "NEARLINE", "COLDLINE", "ARCHIVE"], var.storage_class)
    error_message = "storage_class must be STANDARD, NEARLINE, COLDLINE or ARCHIVE."
  }
}

variable "kms_key_name" {
  description = "Key of Cloud KMS that encrypts objects, as projects/…/locations/…/keyRings/…/cryptoKeys/…; null for Google's own keys."
  type        = string
  default     = null

  validation {
    condition     = var.kms_key_name == null || can(regex("^projects/[^/]+/locations/[^/]+/keyRings/[^/]+/cryptoKeys/[^/]+$", var.kms_key_name))
    error_message = "kms_key_name must be projects/…/locations/…/keyRings/…/cryptoKeys/…, without a version."
  }
}

variable "soft_delete_retention_s" {
  description = "How long deleted objects can be brought back, in seconds; 0 turns that off. They are billed for as long, and retention deletes checkpoints all the time: at one an hour, a week of them is 168."
  type        = number
  default     = 0
  nullable    = false

  validation {
    condition     = var.soft_delete_retention_s == 0 || (var.soft_delete_retention_s >= 604800 && var.soft_delete_retention_s <= 7776000)
    error_message = "soft_delete_retention_s must be 0, or 604800 (7 days) to 7776000 (90 days): the service takes nothing in between."
  }
}

variable "versioning" {
  description = "Whether what is deleted or replaced stays as a noncurrent version, for noncurrent_days, and is billed for as long."
  type        = bool
  default     = false
  nullable    = false
}

variable "noncurrent_days" {
  description = "After how many days a noncurrent version is deleted for good. It also cleans up where versioning is no longer on."
  type        = number
  default     = 7
  nullable    = false

  validation {
    condition     = var.noncurrent_days >= 1 && floor(var.noncurrent_days) == var.noncurrent_days
    error_message = "noncurrent_days must be a whole number, 1 or more."
  }
}

variable "abort_multipart_days" {
  description = "After how many days an unfinished upload is dropped. Longer than the longest time after which a killed training may go on: its uploads are continued."
  type        = number
  default     = 7
  nullable    = false

  validation {
    condition     = var.abort_multipart_days >= 2 && floor(var.abort_multipart_days) == var.abort_multipart_days
    error_message = "abort_multipart_days must be a whole number, 2 or more: a machine may come back a day later and continue its upload."
  }
}

variable "retention_s" {
  description = "How long nobody can delete or replace an object, in seconds; null for no such time. Leases and journals are bound by it too: readers leave leases that die of age, and ranks that restart in the same launch cannot go on with their step."
  type        = number
  default     = null

  validation {
    condition     = var.retention_s == null ? true : var.retention_s >= 1 && var.retention_s <= 3155760000
    error_message = "retention_s must be 1 to 3155760000 seconds, or null."
  }
}

variable "access_log_bucket" {
  description = "Bucket that receives usage logs of this one; null for none. Cloud Audit Logs are another thing, and set for a project."
  type        = string
  default     = null
}

variable "trainer_members" {
  description = "Who else may train, as serviceAccount:…, principal:… or the like, beside the service account made here."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for member in var.trainer_members : can(regex("^(user|group|serviceAccount|principal|principalSet):.+$", member))])
    error_message = "trainer_members must be written as user:…, group:…, serviceAccount:…, principal:… or principalSet:…; everybody is none."
  }
}

variable "reader_members" {
  description = "Who else may restore, as serviceAccount:…, principal:… or the like, beside the service account made here."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for member in var.reader_members : can(regex("^(user|group|serviceAccount|principal|principalSet):.+$", member))])
    error_message = "reader_members must be written as user:…, group:…, serviceAccount:…, principal:… or principalSet:…; everybody is none."
  }
}

variable "gc_members" {
  description = "Who else may delete checkpoints, as serviceAccount:…, principal:… or the like, beside the service account made here."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for member in var.gc_members : can(regex("^(user|group|serviceAccount|principal|principalSet):.+$", member))])
    error_message = "gc_members must be written as user:…, group:…, serviceAccount:…, principal:… or principalSet:…; everybody is none."
  }
}

variable "create_service_accounts" {
  description = "Whether to make a service account each for trainer, reader and gc."
  type        = bool
  default     = true
  nullable    = false
}

variable "service_account_prefix" {
  description = "What the service accounts' names begin with; -trainer, -reader and -gc follow. Unique in the project: a second bucket needs another."
  type        = string
  default     = "ckptsync"

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{2,20}[a-z0-9]$", var.service_account_prefix))
    error_message = "service_account_prefix must be 4 to 22 lower-case letters, digits and hyphens, a letter first and no hyphen last."
  }
}

variable "role_prefix" {
  description = "What the custom roles' ids begin with, unique in the project; null makes one of the bucket's name. An id cannot be used again for weeks after its role was deleted."
  type        = string
  default     = null

  validation {
    condition     = var.role_prefix == null || can(regex("^[A-Za-z0-9_.]{1,50}$", var.role_prefix))
    error_message = "role_prefix must be at most 50 letters, digits, underscores and dots."
  }
}

variable "reader_leases" {
  description = "Whether readers may put and delete leases, so that gc spares what they are reading. Without, they go on unprotected."
  type        = bool
  default     = true
  nullable    = false
}

variable "force_destroy" {
  description = "Whether `terraform destroy` deletes a bucket that still holds checkpoints."
  type        = bool
  default     = false
  nullable    = false
}

variable "labels" {
  description = "Labels of the bucket."
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
