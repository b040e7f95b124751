mock_provider "google" {
  mock_resource "google_service_account" {
    defaults = {
      email  = "ckptsync-trainer@a-project.iam.gserviceaccount.com"
      member = "serviceAccount:ckptsync-trainer@a-project.iam.gserviceaccount.com"
    }
  }

  mock_resource "google_compute_subnetwork" {
    defaults = { id = "projects/a-project/regions/europe-west4/subnetworks/ckptsync-train" }
  }
}

variables {
  project     = "a-project"
  bucket_name = "a-bucket"
  repository  = "https://git.example.org/you/training.git"
}

run "as_it_comes" {
  assert {
    condition     = output.run == "gs://a-bucket/runs/run-1"
    error_message = "The machine trains another run than one below the bucket's prefix."
  }

  assert {
    condition     = module.machine.commands.doctor == "ckptsync doctor gs://a-bucket/runs/run-1"
    error_message = "The doctor is sent to another run."
  }

  assert {
    condition     = output.commands.doctor == "CLOUDSDK_CONFIG=~/.config/ckptsync-trainer env -u GOOGLE_APPLICATION_CREDENTIALS ckptsync doctor gs://a-bucket/runs/run-1"
    error_message = "The doctor does not prove the trainer's rights."
  }

  assert {
    condition     = output.commands.gc == "CLOUDSDK_CONFIG=~/.config/ckptsync-gc env -u GOOGLE_APPLICATION_CREDENTIALS ckptsync gc gs://a-bucket/runs/run-1 --keep-last 3"
    error_message = "The command that deletes old checkpoints is another."
  }

  assert {
    condition     = output.commands.as_trainer == "CLOUDSDK_CONFIG=~/.config/ckptsync-trainer env -u GOOGLE_APPLICATION_CREDENTIALS gcloud auth application-default login --impersonate-service-account ckptsync-trainer@a-project.iam.gserviceaccount.com"
    error_message = "The command that makes one the trainer is another."
  }

  assert {
    condition     = length(google_service_account_iam_member.operator) == 0
    error_message = "Somebody may act as the accounts though nobody was named."
  }

  assert {
    condition     = google_compute_network.this.auto_create_subnetworks == false
    error_message = "The network spreads over all regions."
  }

  assert {
    condition     = google_compute_firewall.nothing_in.direction == "INGRESS" && one(google_compute_firewall.nothing_in.deny).protocol == "all" && google_compute_firewall.nothing_in.source_ranges == toset(["0.0.0.0/0"])
    error_message = "Something can reach the machine."
  }

  assert {
    condition     = google_compute_subnetwork.machines.private_ip_google_access
    error_message = "Checkpoints go through the gateway, which bills each byte."
  }

  assert {
    condition     = google_compute_router_nat.out.source_subnetwork_ip_ranges_to_nat == "LIST_OF_SUBNETWORKS" && length(google_compute_router_nat.out.subnetwork) == 1
    error_message = "The gateway serves other networks than the machine's, or not that."
  }

  assert {
    condition     = alltrue([for service in google_project_service.used : service.disable_on_destroy == false])
    error_message = "Services that others use are switched off when this goes."
  }

  assert {
    condition     = toset(keys(google_project_service.used)) == toset(["compute.googleapis.com", "iam.googleapis.com", "iamcredentials.googleapis.com", "storage.googleapis.com"])
    error_message = "A service that is needed is not switched on, or one is that is not."
  }
}

run "rights" {
  assert {
    condition     = module.machine.service_account_email == "ckptsync-trainer@a-project.iam.gserviceaccount.com"
    error_message = "The machine has other rights than the trainer's."
  }

  assert {
    condition     = output.commands.as_gc == "CLOUDSDK_CONFIG=~/.config/ckptsync-gc env -u GOOGLE_APPLICATION_CREDENTIALS gcloud auth application-default login --impersonate-service-account ckptsync-gc@a-project.iam.gserviceaccount.com"
    error_message = "The command that makes one gc makes one somebody else."
  }

  assert {
    condition     = output.commands.as_reader == "CLOUDSDK_CONFIG=~/.config/ckptsync-reader env -u GOOGLE_APPLICATION_CREDENTIALS gcloud auth application-default login --impersonate-service-account ckptsync-reader@a-project.iam.gserviceaccount.com"
    error_message = "The command that makes one the reader makes one somebody else."
  }

  assert {
    condition     = alltrue([for name in ["status", "ls", "report", "restore"] : startswith(output.commands[name], "CLOUDSDK_CONFIG=~/.config/ckptsync-reader env -u GOOGLE_APPLICATION_CREDENTIALS ckptsync ")])
    error_message = "Looking and restoring is done with more rights than the reader's."
  }

  assert {
    condition     = google_compute_firewall.nothing_in.disabled != true
    error_message = "The rule that lets nothing in is switched off."
  }
}

run "operators" {
  variables {
    operators = ["user:you@example.org"]
  }

  assert {
    condition     = toset(keys(google_service_account_iam_member.operator)) == toset(["trainer user:you@example.org", "reader user:you@example.org", "gc user:you@example.org"])
    error_message = "Whoever operates it cannot act as each of the three accounts."
  }

  assert {
    condition     = alltrue([for grant in google_service_account_iam_member.operator : grant.role == "roles/iam.serviceAccountTokenCreator"])
    error_message = "Whoever operates it has another right than to act as the accounts."
  }
}

run "everybody" {
  command = plan

  variables {
    operators = ["allUsers"]
  }

  expect_failures = [var.operators]
}
