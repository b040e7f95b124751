variable "bucket_name" {
  description = "Name of the bucket, unique among all of AWS."
  type        = string

  validation {
    condition     = can(regex("^[a-z0-9][a-z0-9-]{1,61}[a-z0-9]$", var.bucket_name))
    error_message = "bucket_name must be 3 to 63 lower-case letters, digits and hyphens, and begin and end with a letter or digit."
  }
}
