# What cannot be meant is refused before anything is made.

mock_provider "google" {}

variables {
  project               = "a-project"
  region                = "europe-west4"
  name                  = "train"
  url                   = "gs://a-bucket/runs"
  run_name              = "first"
  service_account_email = "ckptsync-trainer@a-project.iam.gserviceaccount.com"
  machine_types         = ["g2-standard-8"]
  subnetwork            = "projects/a-project/regions/europe-west4/subnetworks/default"
  repository            = "https://git.example.org/you/training.git"
}

run "wrong_values" {
  command = plan

  variables {
    project               = "A Project"
    region                = "europe"
    name                  = "Train"
    url                   = "s3://a-bucket"
    run_name              = "a run"
    service_account_email = "1234-compute@developer.gserviceaccount.com"
    scopes                = ["https://www.googleapis.com/auth/logging.write"]
    image                 = "debian"
    machine_types         = []
    gpu                   = { type = "T4", count = 3 }
    subnetwork            = "default"
    network_tags          = ["Train"]
    volume_gib            = 5
    volume_type           = "local-ssd"
    volume_kms_key_name   = "a-key"
    desired_size          = 2
    preemption_notice_s   = 30
    health_check_grace_s  = 10
    repository            = "https://user:secret@git.example.org/you/training.git"
    train_options         = "--name \"$(id)\""
    command               = "python train.py; reboot"
    checkpoint_dir        = "/tmp/checkpoints"
    ask                   = "USR1"
    environment           = { "NOT A NAME" = "x" }
    ckptsync_requirement  = "ckptsync'; reboot"
    drain_timeout_s       = 1
  }

  expect_failures = [
    var.project,
    var.region,
    var.name,
    var.url,
    var.run_name,
    var.service_account_email,
    var.scopes,
    var.image,
    var.machine_types,
    var.gpu,
    var.subnetwork,
    var.network_tags,
    var.volume_gib,
    var.volume_type,
    var.volume_kms_key_name,
    var.desired_size,
    var.preemption_notice_s,
    var.health_check_grace_s,
    var.repository,
    var.train_options,
    var.command,
    var.checkpoint_dir,
    var.ask,
    var.environment,
    var.ckptsync_requirement,
    var.drain_timeout_s,
  ]
}

run "secrets" {
  command = plan

  variables {
    environment = { GOOGLE_APPLICATION_CREDENTIALS = "/root/key.json" }
  }

  expect_failures = [var.environment]
}

run "words_for_a_shell" {
  command = plan

  variables {
    environment = { NOTE = "$(reboot)" }
  }

  expect_failures = [var.environment]
}

run "another_variables_word" {
  command = plan

  variables {
    environment = { CKPTSYNC_RUN = "gs://other/run" }
  }

  expect_failures = [var.environment]
}

run "the_journals_folder" {
  command = plan

  variables {
    checkpoint_dir = "/var/lib/train/journal/x"
  }

  expect_failures = [var.checkpoint_dir]
}

run "the_same_kind_twice" {
  command = plan

  variables {
    machine_types = ["g2-standard-8", "g2-standard-8"]
  }

  expect_failures = [var.machine_types]
}

run "gpus_for_several_kinds" {
  command = plan

  variables {
    machine_types = ["n1-standard-8", "n1-standard-16"]
    gpu           = { type = "nvidia-tesla-t4", count = 1 }
  }

  expect_failures = [google_compute_region_instance_group_manager.machines]
}

run "a_run_called_as_a_folder_of_runs" {
  command = plan

  variables {
    run_name = "data/x"
  }

  expect_failures = [var.run_name]
}

run "zones_of_another_region" {
  command = plan

  variables {
    zones = ["europe-west4-a", "europe-west1-b"]
  }

  expect_failures = [var.zones]
}

run "a_label_in_capitals" {
  command = plan

  variables {
    labels = { Team = "vision" }
  }

  expect_failures = [var.labels]
}

run "a_labels_value_in_capitals" {
  command = plan

  variables {
    labels = { team = "Vision" }
  }

  expect_failures = [var.labels]
}

run "a_region_for_a_zone" {
  command = plan

  variables {
    zones = ["europe-west4"]
  }

  expect_failures = [var.zones]
}

run "a_run_that_goes_up" {
  command = plan

  variables {
    run_name = "team/../other"
  }

  expect_failures = [var.run_name]
}

run "a_run_that_stays_where_it_is" {
  command = plan

  variables {
    run_name = "./first"
  }

  expect_failures = [var.run_name]
}
