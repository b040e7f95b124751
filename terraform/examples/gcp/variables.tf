variable "project" {
  description = "Id of your project, for which billing is on."
  type        = string
}

variable "region" {
  description = "Where bucket and machine are: within one region nothing is paid for what goes between them."
  type        = string
  default     = "europe-west4"
  nullable    = false
}

variable "bucket_name" {
  description = "Name of the bucket, unique among all of Google Cloud."
  type        = string
}

variable "prefix" {
  description = "Where runs lie in the bucket. The rights reach no further."
  type        = string
  default     = "runs"
  nullable    = false
}

variable "run_name" {
  description = "The run that the machine trains. Another training needs another one."
  type        = string
  default     = "run-1"
  nullable    = false
}

variable "repository" {
  description = "Git repository of the training, with a train.py that saves to --output-dir and resumes from there. It needs no key to be read."
  type        = string
}

variable "ckptsync_requirement" {
  description = "What pip installs as ckptsync on the machine; ckptsync[gcs,agent]==1.0.0 where the index that you install from has it."
  type        = string
  default     = "ckptsync[gcs,agent] @ git+https://github.com/ckptsync/ckptsync"
  nullable    = false
}

variable "train_options" {
  description = "The training's own options."
  type        = string
  default     = "--output-dir /var/lib/train/checkpoints"
  nullable    = false
}

variable "machine_types" {
  description = "Kinds of machine that will do, the best first."
  type        = list(string)
  default     = ["e2-standard-4", "n2-standard-4", "n2d-standard-4"]
  nullable    = false
}

variable "image" {
  description = "Image of the machine, with the drivers of its GPU where the training needs them."
  type        = string
  default     = "projects/debian-cloud/global/images/family/debian-12"
  nullable    = false
}

variable "secure_boot" {
  description = "Whether the machine starts nothing but what is signed; drivers that are built on it are not."
  type        = bool
  default     = true
  nullable    = false
}

variable "desired_size" {
  description = "1: a machine trains. 0: none does, and nothing but storage costs."
  type        = number
  default     = 1
  nullable    = false
}

variable "role_prefix" {
  description = "What the custom roles' ids begin with; null makes one of the bucket's name. An id cannot be used again from a week to six weeks after its role was deleted: take another one then."
  type        = string
  default     = null
}

variable "operators" {
  description = "Who may act as the trainer, the reader and gc from elsewhere, as user:you@example.org, to run the commands of the outputs."
  type        = list(string)
  default     = []
  nullable    = false

  validation {
    condition     = alltrue([for member in var.operators : can(regex("^(user|group|serviceAccount|principal|principalSet):.+$", member))])
    error_message = "operators must be written as user:…, group:…, serviceAccount:…, principal:… or principalSet:…; everybody is none."
  }
}

variable "force_destroy" {
  description = "Whether `terraform destroy` deletes the bucket with its checkpoints."
  type        = bool
  default     = false
  nullable    = false
}
