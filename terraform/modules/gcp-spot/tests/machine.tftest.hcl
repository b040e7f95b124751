# Each property of the machine and of its group is one assertion, so that its loss is told by its name.

mock_provider "google" {}

variables {
  project               = "a-project"
  region                = "europe-west4"
  name                  = "train"
  url                   = "gs://a-bucket/runs"
  run_name              = "first"
  service_account_email = "ckptsync-trainer@a-project.iam.gserviceaccount.com"
  machine_types         = ["g2-standard-8", "g2-standard-12"]
  subnetwork            = "projects/a-project/regions/europe-west4/subnetworks/default"
  repository            = "https://git.example.org/you/training.git"
  labels                = { team = "vision" }
}

run "machine" {
  assert {
    condition     = google_compute_region_instance_template.machine.scheduling[0].provisioning_model == "SPOT" && google_compute_region_instance_template.machine.scheduling[0].preemptible
    error_message = "The machine is bought at the full price."
  }

  assert {
    condition     = google_compute_region_instance_template.machine.scheduling[0].automatic_restart == false
    error_message = "A spot machine is to restart by itself, which the service refuses."
  }

  assert {
    condition     = google_compute_region_instance_template.machine.scheduling[0].on_host_maintenance == "TERMINATE"
    error_message = "A spot machine is to be moved, which the service refuses."
  }

  assert {
    condition     = google_compute_region_instance_template.machine.scheduling[0].instance_termination_action == "DELETE"
    error_message = "What has ended stays, and costs."
  }

  assert {
    condition     = google_compute_region_instance_template.machine.scheduling[0].preemption_notice_duration[0].seconds == 120
    error_message = "The notice comes with the shutdown, and leaves no time for a last checkpoint."
  }

  assert {
    condition     = google_compute_region_instance_template.machine.service_account[0].email == "ckptsync-trainer@a-project.iam.gserviceaccount.com"
    error_message = "The machine has not the rights of the trainer."
  }

  assert {
    condition     = !contains(google_compute_region_instance_template.machine.service_account[0].scopes, "https://www.googleapis.com/auth/cloud-platform")
    error_message = "The machine may use whatever right the account has in any service."
  }

  assert {
    condition     = contains(google_compute_region_instance_template.machine.service_account[0].scopes, "https://www.googleapis.com/auth/devstorage.read_write")
    error_message = "The machine cannot write to the bucket."
  }

  assert {
    condition     = google_compute_region_instance_template.machine.shielded_instance_config[0].enable_secure_boot
    error_message = "The machine starts what nobody signed."
  }

  assert {
    condition     = google_compute_region_instance_template.machine.shielded_instance_config[0].enable_vtpm
    error_message = "The machine has no module that measures how it starts."
  }

  assert {
    condition     = google_compute_region_instance_template.machine.shielded_instance_config[0].enable_integrity_monitoring
    error_message = "Nobody compares how the machine starts."
  }

  assert {
    condition     = google_compute_region_instance_template.machine.metadata["block-project-ssh-keys"] == "TRUE"
    error_message = "SSH keys of the project let people in."
  }

  assert {
    condition     = google_compute_region_instance_template.machine.metadata["enable-oslogin"] == "TRUE"
    error_message = "Who may log in is not said by rights."
  }

  assert {
    condition     = google_compute_region_instance_template.machine.metadata["serial-port-enable"] == "FALSE"
    error_message = "The serial port lets people in."
  }

  assert {
    condition     = length(google_compute_region_instance_template.machine.network_interface[0].access_config) == 0
    error_message = "The machine gets a public address that nobody asked for."
  }

  assert {
    condition     = google_compute_region_instance_template.machine.can_ip_forward == false
    error_message = "The machine may send what is not its own."
  }

  assert {
    condition     = google_compute_region_instance_template.machine.disk[0].auto_delete && length(google_compute_region_instance_template.machine.disk) == 1
    error_message = "A disk outlives the machine, and costs."
  }

  assert {
    condition     = length(google_compute_region_instance_template.machine.guest_accelerator) == 0
    error_message = "GPUs are attached that nobody asked for."
  }

  assert {
    condition     = google_compute_region_instance_template.machine.labels["team"] == "vision" && google_compute_region_instance_template.machine.disk[0].labels["team"] == "vision"
    error_message = "Machine or disk lack the labels."
  }

  assert {
    condition     = google_compute_region_instance_template.machine.metadata["shutdown-script"] == file("shutdown.sh")
    error_message = "Nothing waits for the drain when the machine ends."
  }

  assert {
    condition     = strcontains(google_compute_region_instance_template.machine.metadata["startup-script"], "CKPTSYNC_RUN=gs://a-bucket/runs/first\n")
    error_message = "The machine trains another run."
  }
}

run "group" {
  assert {
    condition     = google_compute_region_instance_group_manager.machines.target_size == 1
    error_message = "Not one machine trains the run."
  }

  assert {
    condition     = google_compute_region_instance_group_manager.machines.version[0].instance_template == google_compute_region_instance_template.machine.id
    error_message = "The group makes machines of another template."
  }

  assert {
    condition     = google_compute_region_instance_group_manager.machines.distribution_policy_target_shape == "ANY"
    error_message = "The machine waits for one zone while another has capacity."
  }

  assert {
    condition     = google_compute_region_instance_group_manager.machines.update_policy[0].instance_redistribution_type == "NONE"
    error_message = "A machine is ended so that zones are used evenly."
  }

  assert {
    condition     = google_compute_region_instance_group_manager.machines.update_policy[0].type == "OPPORTUNISTIC"
    error_message = "An apply ends a training."
  }

  assert {
    condition     = google_compute_region_instance_group_manager.machines.instance_lifecycle_policy[0].default_action_on_failure == "REPAIR"
    error_message = "A machine that has ended is not replaced."
  }

  assert {
    condition     = google_compute_region_instance_group_manager.machines.instance_lifecycle_policy[0].force_update_on_repair == "YES"
    error_message = "The next machine is made of an old template."
  }

  assert {
    condition     = google_compute_region_instance_group_manager.machines.instance_lifecycle_policy[0].on_repair[0].allow_changing_zone == "YES"
    error_message = "The next machine waits for the zone that has just run out of capacity."
  }

  assert {
    condition     = length(google_compute_region_instance_group_manager.machines.auto_healing_policies) == 0
    error_message = "A machine that still installs is held to be ill."
  }

  assert {
    condition     = google_compute_region_instance_group_manager.machines.wait_for_instances == false
    error_message = "An apply fails where spot capacity is long in coming."
  }

  assert {
    condition = { for kind in google_compute_region_instance_group_manager.machines.instance_flexibility_policy[0].instance_selections : one(kind.machine_types) => kind.rank } == {
      g2-standard-8  = 1
      g2-standard-12 = 2
    }
    error_message = "The group does not choose among the kinds of machine that were named, the best first."
  }

  assert {
    condition     = output.commands.stop == "gcloud compute instance-groups managed resize train --project a-project --region europe-west4 --size 0"
    error_message = "The command that stops the machine is another."
  }

  assert {
    condition     = output.commands.status == "ckptsync status gs://a-bucket/runs/first"
    error_message = "The command that shows the run is about another."
  }
}

run "everything_else" {
  variables {
    machine_types        = ["n1-standard-8"]
    gpu                  = { type = "nvidia-tesla-t4", count = 1 }
    zones                = ["europe-west4-a", "europe-west4-b"]
    public_ip            = true
    preemption_notice_s  = 0
    secure_boot          = false
    desired_size         = 0
    volume_kms_key_name  = "projects/a-project/locations/europe-west4/keyRings/a/cryptoKeys/b"
    health_check_id      = "projects/a-project/global/healthChecks/agent"
    health_check_grace_s = 3600
    network_tags         = ["train"]
  }

  assert {
    condition     = google_compute_region_instance_template.machine.guest_accelerator[0].type == "nvidia-tesla-t4" && google_compute_region_instance_template.machine.guest_accelerator[0].count == 1
    error_message = "The GPU is not attached."
  }

  assert {
    condition     = google_compute_region_instance_group_manager.machines.distribution_policy_zones == toset(["europe-west4-a", "europe-west4-b"])
    error_message = "The machine starts in other zones than those that were named."
  }

  assert {
    condition     = length(google_compute_region_instance_template.machine.network_interface[0].access_config) == 1
    error_message = "The machine has no public address though one was asked for."
  }

  assert {
    condition     = length(google_compute_region_instance_template.machine.scheduling[0].preemption_notice_duration) == 0
    error_message = "A notice is asked for that nobody wants."
  }

  assert {
    condition     = google_compute_region_instance_template.machine.disk[0].disk_encryption_key[0].kms_key_self_link == var.volume_kms_key_name
    error_message = "The disk is not encrypted with the key."
  }

  assert {
    condition     = google_compute_region_instance_group_manager.machines.auto_healing_policies[0].initial_delay_sec == 3600
    error_message = "The machine is looked at before it can have restored."
  }

  assert {
    condition     = google_compute_region_instance_group_manager.machines.target_size == 0
    error_message = "A machine trains though none should."
  }

  assert {
    condition     = length(google_compute_region_instance_group_manager.machines.instance_flexibility_policy) == 0
    error_message = "The group chooses among kinds of machine where there is one."
  }
}
