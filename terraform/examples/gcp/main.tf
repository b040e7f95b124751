provider "google" {
  project = var.project
  region  = var.region
}

# What a new project has not switched on yet. It stays on when the rest goes: others may need it.
resource "google_project_service" "used" {
  for_each = toset(["compute.googleapis.com", "iam.googleapis.com", "iamcredentials.googleapis.com", "storage.googleapis.com"])

  project            = var.project
  service            = each.key
  disable_on_destroy = false
}

module "bucket" {
  source = "../../modules/gcp-bucket"

  project       = var.project
  bucket_name   = var.bucket_name
  location      = var.region
  prefix        = var.prefix
  role_prefix   = var.role_prefix
  force_destroy = var.force_destroy

  depends_on = [google_project_service.used]
}

module "machine" {
  source = "../../modules/gcp-spot"

  project               = var.project
  region                = var.region
  name                  = "ckptsync-train"
  url                   = module.bucket.url
  run_name              = var.run_name
  service_account_email = module.bucket.trainer_service_account_email
  machine_types         = var.machine_types
  image                 = var.image
  secure_boot           = var.secure_boot
  subnetwork            = google_compute_subnetwork.machines.id
  repository            = var.repository
  train_options         = var.train_options
  ckptsync_requirement  = var.ckptsync_requirement
  desired_size          = var.desired_size

  # Without it the training could not be installed.
  depends_on = [google_compute_router_nat.out]
}

# Who acts as one of the accounts has its rights, and no key that could be lost.
resource "google_service_account_iam_member" "operator" {
  for_each = {
    for pair in setproduct(["trainer", "reader", "gc"], var.operators) : join(" ", pair) => { who = pair[0], member = pair[1] }
  }

  service_account_id = "projects/${var.project}/serviceAccounts/${local.accounts[each.value.who]}"
  role               = "roles/iam.serviceAccountTokenCreator"
  member             = each.value.member
}

locals {
  acts_as = {
    doctor  = "trainer"
    status  = "reader"
    ls      = "reader"
    report  = "reader"
    restore = "reader"
    gc      = "gc"
  }
  accounts = {
    trainer = module.bucket.trainer_service_account_email
    reader  = module.bucket.reader_service_account_email
    gc      = module.bucket.gc_service_account_email
  }
}
