# One spot machine that trains one run, and is replaced whenever it ends.

locals {
  run = "${var.url}/${var.run_name}"

  startup = templatefile("${path.module}/startup.sh.tftpl", {
    repository           = var.repository
    train_options        = var.train_options
    run                  = local.run
    ask                  = var.ask
    environment          = var.environment
    command              = var.command
    checkpoint_dir       = var.checkpoint_dir
    ckptsync_requirement = var.ckptsync_requirement
    drain_timeout_s      = var.drain_timeout_s
  })
}

resource "google_compute_region_instance_template" "machine" {
  project              = var.project
  region               = var.region
  name_prefix          = "${var.name}-"
  description          = "Trains ${local.run} with ckptsync"
  instance_description = "Trains ${local.run} with ckptsync"
  machine_type         = var.machine_types[0]
  can_ip_forward       = false
  tags                 = var.network_tags
  labels               = var.labels

  metadata = {
    startup-script  = local.startup
    shutdown-script = file("${path.module}/shutdown.sh")

    # Who may log in is said by rights in the project, not by keys in its metadata; and nobody by the serial port.
    enable-oslogin         = "TRUE"
    block-project-ssh-keys = "TRUE"
    serial-port-enable     = "FALSE"
  }

  # A machine that has ended leaves nothing behind that costs: what was not uploaded yet, the next one trains again.
  scheduling {
    provisioning_model          = "SPOT"
    preemptible                 = true
    automatic_restart           = false
    on_host_maintenance         = "TERMINATE"
    instance_termination_action = "DELETE"

    dynamic "preemption_notice_duration" {
      for_each = var.preemption_notice_s > 0 ? [var.preemption_notice_s] : []

      content {
        seconds = preemption_notice_duration.value
      }
    }
  }

  service_account {
    email  = var.service_account_email
    scopes = var.scopes
  }

  disk {
    boot         = true
    auto_delete  = true
    source_image = var.image
    disk_type    = var.volume_type
    disk_size_gb = var.volume_gib
    labels       = var.labels

    dynamic "disk_encryption_key" {
      for_each = var.volume_kms_key_name == null ? [] : [var.volume_kms_key_name]

      content {
        kms_key_self_link = disk_encryption_key.value
      }
    }
  }

  network_interface {
    subnetwork = var.subnetwork

    dynamic "access_config" {
      for_each = var.public_ip ? ["it has one"] : []

      content {}
    }
  }

  dynamic "guest_accelerator" {
    for_each = var.gpu == null ? [] : [var.gpu]

    content {
      type  = guest_accelerator.value.type
      count = guest_accelerator.value.count
    }
  }

  shielded_instance_config {
    enable_secure_boot          = var.secure_boot
    enable_vtpm                 = true
    enable_integrity_monitoring = true
  }

  lifecycle {
    # A template cannot be changed, and none be deleted that a group has.
    create_before_destroy = true

    precondition {
      condition     = length(local.startup) <= 262144
      error_message = "Compute Engine takes at most 256 KiB for a script; set less in environment."
    }
  }
}

resource "google_compute_region_instance_group_manager" "machines" {
  project            = var.project
  region             = var.region
  name               = var.name
  base_instance_name = var.name
  target_size        = var.desired_size
  wait_for_instances = false # spot capacity may take long to come, and is no reason for an apply to fail

  # Wherever there is capacity. Nothing is moved for the sake of an even distribution.
  distribution_policy_zones        = length(var.zones) > 0 ? var.zones : null
  distribution_policy_target_shape = "ANY"

  version {
    instance_template = google_compute_region_instance_template.machine.id
  }

  dynamic "instance_flexibility_policy" {
    for_each = length(var.machine_types) > 1 ? ["several will do"] : []

    content {
      dynamic "instance_selections" {
        for_each = var.machine_types

        content {
          name          = instance_selections.value
          machine_types = [instance_selections.value]
          rank          = instance_selections.key + 1
        }
      }
    }
  }

  # A training is not ended by an apply: what changes is for the next machine.
  update_policy {
    type                         = "OPPORTUNISTIC"
    minimal_action               = "REPLACE"
    instance_redistribution_type = "NONE"
  }

  instance_lifecycle_policy {
    default_action_on_failure = "REPAIR"
    force_update_on_repair    = "YES"

    on_repair {
      allow_changing_zone = "YES"
    }
  }

  dynamic "auto_healing_policies" {
    for_each = var.health_check_id == null ? [] : [var.health_check_id]

    content {
      health_check      = auto_healing_policies.value
      initial_delay_sec = var.health_check_grace_s
    }
  }

  lifecycle {
    precondition {
      condition     = var.gpu == null || length(var.machine_types) == 1
      error_message = "GPUs that are attached go with one machine type only."
    }
  }
}
